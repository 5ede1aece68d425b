"""Ends a worker whose training stands still, whatever holds it up, so that Ray starts it again.

Python's own `faulthandler` does it from a thread that needs no interpreter: it also ends a process that is stuck in
native code, and leaves where each thread was in Ray's log of the worker.
"""

from __future__ import annotations

import faulthandler
import time

PATIENCE_S = 50.0  # a little more than the time-out of collectives, which say more of what went wrong
WOUND_EVERY_S = 1.0  # winding it up starts a thread


class Watchdog:
    """Barks when `step` was not called for PATIENCE_S."""

    def __init__(self) -> None:
        self._wound_at = float("-inf")

    def step(self) -> None:
        """Training goes on."""
        now = time.monotonic()
        if now - self._wound_at >= WOUND_EVERY_S:
            faulthandler.dump_traceback_later(PATIENCE_S, exit=True, file=2)
            self._wound_at = now

    def pause(self) -> None:
        """What comes now takes as long as it takes."""
        faulthandler.cancel_dump_traceback_later()
        self._wound_at = float("-inf")
