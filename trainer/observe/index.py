"""A page of all runs in a storage: one table that sorts by any column, without a network or a server."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from trainer.observe.page import templates
from trainer.storage import layout, store

INDEX = "index.html"
# heading, the key of a row, and the format of its number; None for text
COLUMNS = (
    ("Run", "run", None),
    ("State", "state", None),
    ("Test accuracy", "test_accuracy", ".2%"),
    ("Test loss", "test_loss", ".4f"),
    ("Epochs", "epoch", "d"),
    ("Started", "started_at", "day"),
    ("Wall time", "wall_s", "seconds"),
    ("Goodput", "goodput", ".0%"),
    ("Workers", "workers", "d"),
    ("Attempts", "attempts", "d"),
    ("Cost", "cost", ".2f"),
)


def write(rows: Sequence[dict[str, Any]], storage: str, folder: Path | None = None) -> str:
    """Write the page of `rows`, those of `trainer list --json`, to the storage or to a folder; return where it is.

    Raises:
        StorageError: it cannot be written.
    """
    beside = folder is None
    place = store.join(storage if folder is None else str(folder.absolute()), INDEX)
    script = Path(__file__).with_name("templates").joinpath("sort.js").read_text()
    shown = [column for column in COLUMNS if column[2] is None or any(row.get(column[1]) is not None for row in rows)]
    page = (
        templates()
        .get_template("index.html")
        .render(
            rows=[{**row, "link": _link(row, beside)} for row in rows],
            columns=shown,
            storage=storage,
            script=script,
            script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            command=shlex.join(["trainer", "report", "--all", "--storage", storage, *_output(folder)]),
        )
    )
    store.write(place, re.sub(r"\n\s*\n+", "\n", page).encode(errors="backslashreplace"))
    return place


def _output(folder: Path | None) -> list[str]:
    return [] if folder is None else ["--output", str(folder)]


def _link(row: dict[str, Any], beside: bool) -> str | None:
    """A link to a run's own page, where it has one and a browser can follow it from there."""
    if row["state"] != "finished":
        return None
    if beside:
        return f"{quote(row['run'], errors='surrogateescape')}/{layout.REPORT}"
    record = str(row.get("record") or "")
    return None if not record or store.is_remote(record) else Path(record, layout.REPORT).as_uri()
