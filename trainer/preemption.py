"""A notice that a node of this run will be taken away, as Ray hands it on from Kubernetes and the clouds."""

from __future__ import annotations

import time
from typing import Any

import ray.train

ASK_EVERY_S = 1.0
LAST_SAVE_S = 10.0  # before the node goes: what is trained until then is not lost


class Notice:
    """Calls for a save at once, and for one just before the node goes."""

    def __init__(self) -> None:
        self._asked = time.monotonic()
        self._deadline_ms: int | None = None
        self._last_save_at: float | None = None

    def may_be_asked(self) -> bool:
        """Whether it is time to ask; asking is a barrier of some milliseconds."""
        return time.monotonic() - self._asked >= ASK_EVERY_S

    def is_new(self) -> bool:
        """Ask whether there is a notice that was not seen before: the same answer on all ranks, which must all ask."""
        self._asked = time.monotonic()
        info: Any = ray.train.get_preemption_info()
        if info is None:
            self._deadline_ms = self._last_save_at = None
            return False
        if self._last_save_at is not None and info.deadline_ms == self._deadline_ms:
            return False
        self._deadline_ms = info.deadline_ms
        left = info.deadline_ms / 1000 - time.time() if info.deadline_ms is not None else 0.0
        self._last_save_at = time.monotonic() + max(0.0, left - LAST_SAVE_S)
        return True

    def last_save_is_due(self) -> bool:
        """Whether it is time for the save just before the node goes; true once. Clocks differ: one rank decides."""
        if self._last_save_at is None or time.monotonic() < self._last_save_at:
            return False
        self._last_save_at = float("inf")
        return True
