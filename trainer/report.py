"""stub"""

from __future__ import annotations
from pathlib import Path
from trainer.record import Record


def write(record: Record) -> Path:
    return record.report_file


def write_comparison(records: list[Record], folder: Path) -> Path:
    return folder
