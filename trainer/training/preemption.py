"""Notices that a node of this run will be taken away, as Ray receives them from Kubernetes and the clouds."""

from __future__ import annotations

import time
from typing import Any

import ray.train

ASK_EVERY_S = 1.0
SAVE_EVERY_S = 2.0  # while a notice holds: the node may go before its deadline, and clocks differ


class Notice:
    """Asks Ray whether a node is about to be taken away, and remembers its last answer."""

    def __init__(self) -> None:
        self._asked_at = time.monotonic()
        self._latest: Any = None  # Ray's last answer: a PreemptionInfo, or None

    @property
    def holds(self) -> bool:
        """Whether a node was about to be taken away when Ray was last asked."""
        return self._latest is not None

    def is_time_to_ask(self) -> bool:
        """Return whether to call `ask` again: it is a barrier of a few milliseconds."""
        return time.monotonic() - self._asked_at >= ASK_EVERY_S

    def ask(self) -> bool:
        """Return whether there is a notice that was not seen before: the same on all ranks, which must all call it."""
        self._asked_at = time.monotonic()
        previous = self._latest
        self._latest = ray.train.get_preemption_info()
        if self._latest is None:
            return False
        return previous is None or self._latest.deadline_ms != previous.deadline_ms
