"""How long a follower keeps asking a cluster that does not answer, or that refuses."""

from __future__ import annotations

import time

from trainer.errors import ClusterError, LostConnectionError

LOST_FOR_GOOD_S = 900.0
REFUSED_FOR_GOOD_S = 60.0  # an API server that has just started refuses all requests for a moment


class Patience:
    """Counts the time since the cluster last answered; a refusal after a silence starts a count of its own."""

    def __init__(self) -> None:
        self._silent_since: float | None = None  # lost or refused
        self._refused_since: float | None = None
        self._announced: set[type[ClusterError]] = set()

    def failed(self, error: ClusterError) -> bool:
        """Count a failed poll, and return whether it is the first of its kind since the cluster last answered.

        Raises:
            ClusterError: `error` itself, when it has lasted too long.
        """
        now = time.monotonic()
        if self._silent_since is None:
            self._silent_since = now
        if isinstance(error, LostConnectionError):
            self._refused_since = None
            kind: type[ClusterError] = LostConnectionError
            until = self._silent_since + LOST_FOR_GOOD_S
        else:
            if self._refused_since is None:
                self._refused_since = now
            kind = ClusterError
            until = self._refused_since + REFUSED_FOR_GOOD_S
        if now > until:
            raise error
        first = kind not in self._announced
        self._announced.add(kind)
        return first

    def succeeded(self) -> float | None:
        """Count a poll that was answered; return how many seconds of silence it ended, or None if there was none."""
        silent_s = None if self._silent_since is None else time.monotonic() - self._silent_since
        self._silent_since = None
        self._refused_since = None
        self._announced.clear()
        return silent_s
