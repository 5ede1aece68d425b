"""Results and scores as the commands print them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from trainer.observe.summary import parts_of, wall_seconds
from trainer.observe.text import clean, say

if TYPE_CHECKING:
    from trainer.storage.record import Record
    from trainer.storage.schema import Result


SHOWN_S = 0.005  # a shorter part of a run's time is shown as none


def show_result(record: Record, result: Result, as_json: bool) -> None:
    """Print how a run ended."""
    if as_json:
        typer.echo(json.dumps({"event": "result", **result}))
        return
    show_scores(result)
    wall = wall_seconds(result) or 0.0
    say(f"{wall:.1f} s in total")
    parts = [(part, seconds) for part, seconds in parts_of(result).items() if abs(seconds) >= SHOWN_S]
    show_columns(
        [(f" {part.replace('_', '-')}", f"{s:.2f} s", f"{s / wall:.0%}" if wall else "–") for part, s in parts]
    )
    if spent := result.get("cost"):
        share = f" ({spent['productive'] / spent['total']:.0%})" if spent["total"] else ""
        say(f"Cost: {spent['total']:.2f} {spent['currency']}, of which {spent['productive']:.2f} trained{share}")
    say(f"Record: {place(record.place)}\nReport: {place(record.report)}")


def show_scores(scores: Mapping[str, Any]) -> None:
    """Print accuracy and loss of a model on the test set, in total and by class."""
    say(f"Test accuracy {scores['test_accuracy']:.2%}   test loss {scores['test_loss']:.4f}", style="bold")
    rows = scores["class_accuracy"].items()
    show_columns([(f" {name}", f"{accuracy:.1%}", "█" * round(accuracy * 30)) for name, accuracy in rows])


def show_columns(rows: Sequence[tuple[str, ...]], styles: Sequence[str] | None = None) -> None:
    """Print aligned columns, each row on one line, however long: a table would wrap and shorten cells."""
    cells = [[clean(text) for text in row] for row in rows]
    if not cells:
        return
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row, style in zip(cells, styles or [""] * len(cells), strict=True):
        line = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        say(line.rstrip(), style=style)


def place(uri: str) -> str:
    """Return a folder relative to the working folder if it is in there."""
    return os.path.relpath(uri) if uri.startswith(f"{Path.cwd()}{os.sep}") else uri
