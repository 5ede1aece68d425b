"""Ends a worker whose training makes no progress, whatever blocks it, so that Ray starts a new one.

Python's `faulthandler` does this from a thread that does not need the interpreter: it also ends a process that is stuck
in native code, and writes the stack of every thread to Ray's log of the worker.
"""

from __future__ import annotations

import faulthandler
import time

PATIENCE_S = 50.0  # longer than the timeout of collectives, whose error says more about the cause
REARM_EVERY_S = 1.0  # arming the timer starts a thread


class Watchdog:
    """Ends the process if neither `step` nor `pause` is called for PATIENCE_S after a `step`."""

    def __init__(self) -> None:
        self._armed_at = float("-inf")

    def step(self) -> None:
        """Note that training makes progress, and start the time again."""
        now = time.monotonic()
        if now - self._armed_at >= REARM_EVERY_S:
            faulthandler.dump_traceback_later(PATIENCE_S, exit=True, file=2)
            self._armed_at = now

    def pause(self) -> None:
        """Stop watching until the next `step`: what follows may take any time."""
        faulthandler.cancel_dump_traceback_later()
        self._armed_at = float("-inf")
