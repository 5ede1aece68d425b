"""What becomes of a RayJob whose attempt failed. KubeRay retries whatever the cause, on a new Ray cluster; a follower
stops it where the next attempt can only fail in the same way.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from trainer.cluster.api import KubeObject
from trainer.errors import ExitCode

if TYPE_CHECKING:
    from trainer.cluster.outcome import Outcome
from trainer.cluster import rayjob

DECISION_S = 20.0  # KubeRay reconciles every 3 s: it has decided by then


class Phase(Enum):
    """How far KubeRay is with an attempt that failed."""

    UNDECIDED = "it can still retry"
    EXHAUSTED = "no retry is left"
    REPLACING = "it is retrying"
    OVER = "it has given up, or was told to"


class Action(Enum):
    """What a follower does about it."""

    FOLLOW = "follow the next attempt"
    FORBID = "allow KubeRay no further retry, and wait for its decision"
    WAIT = "wait for KubeRay's decision"
    SUSPEND = "suspend the attempt that has already begun; the run has ended"
    END = "the run has ended"


# Whether another Ray cluster may succeed, where the driver itself did not say so. What is True is often a passing
# cause: a lost node or process, an object store that was away, a driver whose pod was evicted, a cause nobody knows.
RETRY_BY_EXIT_CODE: dict[ExitCode, bool] = {
    ExitCode.OK: False,
    ExitCode.INTERNAL: True,
    ExitCode.CONFIG: False,
    ExitCode.DATA: False,
    ExitCode.STORAGE: True,
    ExitCode.CONFLICT: False,
    ExitCode.TRAINING: True,
    ExitCode.RESOURCES: False,
    ExitCode.CHECKPOINT: False,
    ExitCode.DIVERGED: False,
    ExitCode.CLUSTER: False,
    ExitCode.BUDGET: False,
    ExitCode.INTERRUPTED: True,
}
# By phase, and by whether another attempt may succeed.
ACTIONS: dict[tuple[Phase, bool], Action] = {
    (Phase.UNDECIDED, True): Action.FOLLOW,
    (Phase.EXHAUSTED, True): Action.END,
    (Phase.REPLACING, True): Action.FOLLOW,
    (Phase.OVER, True): Action.END,
    (Phase.UNDECIDED, False): Action.FORBID,
    (Phase.EXHAUSTED, False): Action.WAIT,
    (Phase.REPLACING, False): Action.SUSPEND,
    (Phase.OVER, False): Action.END,
}


def phase_of(job: KubeObject, failed_before: int | None = None) -> Phase:
    """Return how far KubeRay is; `failed_before` is the number of failed attempts when this failure was first seen."""
    state = (job.get("status") or {}).get("jobDeploymentStatus")
    failed = rayjob.failed_attempts(job)
    if state in ("Failed", "Suspending", "Suspended"):
        return Phase.OVER
    if state == "Retrying" or (failed_before is not None and failed > failed_before):
        return Phase.REPLACING
    return Phase.UNDECIDED if failed < rayjob.backoff_limit(job) else Phase.EXHAUSTED


class Retries:
    """Decides after each failed attempt of one run whether that was the run's end.

    `patch` changes the RayJob, and `announce` tells people of a retry; a `passive` one never changes anything.
    """

    def __init__(
        self, patch: Callable[[KubeObject], None], announce: Callable[[KubeObject, Outcome], None], passive: bool
    ):
        self._patch = patch
        self._announce = announce
        self._passive = passive
        self._failed_before: int | None = None  # set while a failure is not to be retried
        self._decided_by = 0.0

    def end(self, job: KubeObject, by_driver: Outcome | None, by_job: Outcome | None) -> Outcome | None:
        """Return the end of the run, or None while its attempt continues or KubeRay may start another.

        `by_driver` is how the attempt failed by its driver's last line, which is there before `by_job`, what the
        RayJob says.
        """
        failure = by_driver or by_job
        if failure is None or failure.status == "stopped":
            self._failed_before = None
            return failure
        if self._passive or failure.retry:
            return self._allow(job, by_job)
        return self._prevent(job, failure, by_job)

    def _allow(self, job: KubeObject, by_job: Outcome | None) -> Outcome | None:
        if by_job is None:  # the RayJob does not know yet
            return None
        if ACTIONS[phase_of(job), True] is Action.END:
            return by_job
        self._announce(job, by_job)
        return None

    def _prevent(self, job: KubeObject, failure: Outcome, by_job: Outcome | None) -> Outcome | None:
        first = self._failed_before is None
        if first:
            self._failed_before = rayjob.failed_attempts(job)
            self._decided_by = time.monotonic() + DECISION_S
        action = ACTIONS[phase_of(job, self._failed_before), False]
        if action is Action.END:
            return by_job or failure
        if action is Action.SUSPEND:
            self._patch({"spec": {"suspend": True}})
            return failure
        if action is Action.FORBID and first:
            self._patch({"spec": {"backoffLimit": self._failed_before}})
        # KubeRay may have begun the next attempt before it read the patch: that is seen when it has decided
        decided = by_job is not None and time.monotonic() > self._decided_by
        return failure if decided else None
