"""A notice that a node of this run will be taken away, as Ray hands it on from Kubernetes and the clouds."""

from __future__ import annotations

import time
from typing import Any

import ray.train

ASK_EVERY_S = 1.0
SAVE_EVERY_S = 2.0  # as long as a notice holds: the node goes at its deadline or before, by whichever clock


class Notice:
    """Calls for a save at once, and for one every SAVE_EVERY_S until the node is gone."""

    def __init__(self) -> None:
        self._asked = time.monotonic()
        self._known: Any = None  # what Ray said last, or None

    @property
    def holds(self) -> bool:
        """Whether a node is about to be taken away, as far as was asked."""
        return self._known is not None

    def may_be_asked(self) -> bool:
        """Whether it is time to ask; asking is a barrier of some milliseconds."""
        return time.monotonic() - self._asked >= ASK_EVERY_S

    def is_new(self) -> bool:
        """Ask whether there is a notice that was not seen before: the same answer on all ranks, which must all ask."""
        self._asked = time.monotonic()
        before, self._known = self._known, ray.train.get_preemption_info()
        if self._known is None:
            return False
        return before is None or self._known.deadline_ms != before.deadline_ms
