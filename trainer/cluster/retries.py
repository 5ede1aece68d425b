"""What becomes of a RayJob's next attempt: KubeRay tries again whatever the cause; here what could only fail the same
way is called off.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from trainer.cluster.api import Object
from trainer.cluster.outcome import Outcome

DECIDES_S = 20.0  # KubeRay looks every 3 s; after this long nobody decides any more
OVER = ("Failed", "Suspending", "Suspended")


class Retries:
    """Follows the attempts of one run; one that only `looks` leaves them as they are."""

    def __init__(self, change: Callable[[Object], None], say: Callable[[str, str], None], looks: bool):
        self._change, self._say, self._looks = change, say, looks
        self._failed_before = 0
        self._decides_until: float | None = None

    def end(self, job: Object, by_driver: Outcome | None, by_job: Outcome | None) -> Outcome | None:
        """The end of the run, if this attempt was its last.

        `by_driver` is how the attempt failed by the driver's last line, which is there before `by_job`, what the
        RayJob's status says.
        """
        failure = by_driver or by_job
        if failure is None or failure.status == "stopped":
            self._decides_until = None
            return failure
        if failure.may_pass or self._looks:
            return self._let(job, by_job)
        return self._call_off(job, failure, by_job)

    def _let(self, job: Object, by_job: Outcome | None) -> Outcome | None:
        state, failed = _state(job)
        if by_job is None or not (state == "Retrying" or (state == "Running" and failed < _limit(job))):
            return by_job
        self._say(f"attempt {job['status'].get('startTime')}", f"{by_job.sentence} KubeRay tries again.")
        return None

    def _call_off(self, job: Object, failure: Outcome, by_job: Outcome | None) -> Outcome | None:
        state, failed = _state(job)
        if self._decides_until is None:
            self._decides_until, self._failed_before = time.monotonic() + DECIDES_S, failed
            if state not in ("Retrying", *OVER) and failed < _limit(job):
                self._change({"spec": {"backoffLimit": failed}})
        if state in OVER:
            return by_job or failure
        if state == "Retrying" or failed > self._failed_before:  # KubeRay was faster, and has begun the next one
            self._change({"spec": {"suspend": True}})
            return failure
        return failure if by_job is not None and time.monotonic() > self._decides_until else None


def _state(job: Object) -> tuple[str, int]:
    status = job.get("status") or {}
    return status.get("jobDeploymentStatus", ""), status.get("failed", 0)


def _limit(job: Object) -> int:
    return int(job["spec"].get("backoffLimit", 0))
