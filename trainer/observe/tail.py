"""Follows the files of a record that is being written on this machine, and hands what is new to a display."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.observe.display import Display, Guarded
from trainer.storage import layout
from trainer.storage.record import Record

READ_EVERY_S = 0.1


class Tail:
    """A thread that hands a run's new events and points to a display as they reach the record."""

    def __init__(self, record: Record, display: Display):
        self._display = display if isinstance(display, Guarded) else Guarded(display)
        self._files: list[tuple[Path, Callable[[Any], None]]] = [
            (record.file(layout.EVENTS), self._display.event),
            (record.file(layout.METRICS), self._display.point),
        ]
        self._offsets = {file: file.stat().st_size if file.exists() else 0 for file, _ in self._files}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="tail-record", daemon=True)

    def __enter__(self) -> Tail:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._show_new()
        self._display.close()

    def _follow(self) -> None:
        while not self._stop.wait(READ_EVERY_S):
            self._show_new()

    def _show_new(self) -> None:
        for file, show in self._files:
            if not file.exists():
                continue
            with file.open("rb") as lines:
                lines.seek(self._offsets[file])
                for line in lines:
                    if not line.endswith(b"\n"):
                        break  # still being written
                    self._offsets[file] += len(line)
                    show(json.loads(line))
