"""Results and scores as the commands print them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from trainer.observe.text import cell, console, say

if TYPE_CHECKING:
    from trainer.storage.record import Record
    from trainer.storage.schema import Result


def show_result(record: Record, result: Result, as_json: bool) -> None:
    """Print how a run ended."""
    if as_json:
        typer.echo(json.dumps({"event": "result", **result}))
        return
    show_scores(result)
    parts = result["seconds"]
    table = Table(title=f"{parts['wall']:.1f} s in total", title_justify="left", box=None, show_header=False)
    for part, seconds in parts.items():
        if part != "wall":
            table.add_row(part.replace("_", "-"), f"{seconds:.2f} s", f"{seconds / parts['wall']:.0%}")
    console().print(table)
    say(f"Record: {place(record.place)}\nReport: {place(record.report)}")


def show_scores(scores: Mapping[str, Any]) -> None:
    """Print accuracy and loss of a model on the test set, in total and by class."""
    say(f"Test accuracy {scores['test_accuracy']:.2%}   test loss {scores['test_loss']:.4f}", style="bold")
    table = Table(box=None, show_header=False)
    for name, accuracy in scores["class_accuracy"].items():
        table.add_row(cell(name), f"{accuracy:.1%}", "█" * round(accuracy * 30))
    console().print(table)


def place(uri: str) -> str:
    """Return a folder relative to the working folder if it is in there."""
    return os.path.relpath(uri) if uri.startswith(f"{Path.cwd()}{os.sep}") else uri
