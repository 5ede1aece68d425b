"""The boards of `helm/monitoring`, their queries, and which of these have no answer on a cluster without GPUs."""

from __future__ import annotations

import json
import re
from typing import Any

from tools.dashboards.__main__ import BOARDS, FOLDER
from tools.dashboards.queries import Question, questions

Board = dict[str, Any]

FILES: dict[str, Board] = {name: json.loads((FOLDER / f"{name}.json").read_text()) for name in BOARDS}
# Exported where prices are set.
PRICED = {f"ray_trainer_{name}" for name in ("price_per_hour", "cost", "productive_cost", "budget")}
# Queries that may have no answer: what is in them, and why.
WITHOUT_ANSWER = {
    r"\bray_node_(gpu|gpus|gram)_\w+": "no GPU",
    r"\bkueue_\w+": "no Kueue",
    rf"\b({'|'.join(PRICED)})\b": "no prices in the values of kind",
    r"\bALERTS\b": "an alert fires where a test makes it fire",
}


def metrics(expression: str) -> set[str]:
    """Names of the metrics in an expression: what stands before a selector."""
    return set(re.findall(r"\b([A-Za-z_]\w*)\{", expression))


def reason(expression: str) -> str | None:
    """Why an expression may have no answer; None: it must have one."""
    return next((why for pattern, why in WITHOUT_ANSWER.items() if re.search(pattern, expression)), None)


def targets(board: Board) -> list[Question]:
    """The queries of panels."""
    return [each for each in questions(board) if not each.place.startswith(("variable ", "annotation "))]
