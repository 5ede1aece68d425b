"""How a run on a cluster ended, by its RayJob's status and the last words of its driver. Pure functions."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from trainer.cluster.rayjob import RESULT, STOPPED_BY, Object
from trainer.errors import (
    ClusterError,
    ConfigError,
    ExitCode,
    InterruptedRunError,
    ResourceError,
    StorageError,
    TrainerError,
    TrainingError,
)

KINDS: dict[ExitCode, type[TrainerError]] = {
    each.exit_code: each
    for each in (ConfigError, StorageError, TrainingError, ResourceError, ClusterError, InterruptedRunError)
}
# Ray puts the end of the driver's output behind the first of these, and the trainer its sentence behind the second.
EXIT_CODE = re.compile(r"failed with exit code (-?\d+)")
SENTENCE = re.compile(r"^Error: (.+)", re.MULTILINE | re.DOTALL)
# In the driver's sentence, what another Ray cluster may cure: a lost node, an object store that was away.
MAY_PASS = ("its process or node is gone", "does not answer", "controller died", "wait for it or stop it")


@dataclass(frozen=True)
class Outcome:
    """The end of a run, or of one attempt at it; `result` is its ``result.json`` where it was seen."""

    status: str
    code: ExitCode
    sentence: str
    result: dict[str, Any] | None = None

    @property
    def may_pass(self) -> bool:
        """Whether the same run could end otherwise on another Ray cluster."""
        return self.code is ExitCode.INTERNAL or any(words in self.sentence for words in MAY_PASS)

    def error(self) -> TrainerError:
        """As what the command line ends with."""
        error = KINDS.get(self.code, TrainerError)(self.sentence)
        error.exit_code = self.code
        return error


def of(job: Object, result: dict[str, Any] | None = None, log: str = "") -> Outcome | None:
    """How the run of a RayJob ended, or the attempt at it that is being given up; None while it goes on.

    `result` is the last that its driver printed, and `log` the driver's last lines that are not JSON.
    """
    meta, status = job["metadata"], job.get("status") or {}
    name, known = meta["name"], noted(job)
    if status.get("jobStatus") == "SUCCEEDED":
        over = status.get("jobDeploymentStatus") == "Complete"
        return _finished(name, result or known) if over or result else None
    if "deletionTimestamp" in meta:
        return stopped(job)
    if status.get("jobStatus") == "STOPPED":
        return Outcome(
            "stopped", ExitCode.INTERRUPTED, f"Run {name} was stopped through Ray; its record so far is kept."
        )
    if status.get("jobStatus") == "FAILED" or status.get("jobDeploymentStatus") in ("Failed", "Retrying"):
        return by_driver(job, result) or _failed(job, log)
    if known and known.get("status") == "failed" and status.get("jobDeploymentStatus") in ("Suspending", "Suspended"):
        return Outcome("failed", _code(known["exit_code"]), known["error"], known)
    return None


def by_driver(job: Object, result: dict[str, Any] | None) -> Outcome | None:
    """How an attempt ended by its driver's last line, which is there before the RayJob knows; None if it did not fail.

    KubeRay forgets the message of a failed attempt when it begins the next one.
    """
    if result is None or result["status"] != "failed":
        return None
    return Outcome("failed", _code(result["exit_code"]), f"run {job['metadata']['name']}: {result['error']}")


def _finished(name: str, result: dict[str, Any] | None) -> Outcome:
    return Outcome("finished", ExitCode.OK, f"Run {name} finished.", result)


def stopped(job: Object) -> Outcome:
    """That a run's RayJob was removed before its end."""
    meta = job["metadata"]
    by = meta.get("annotations", {}).get(STOPPED_BY, "somebody who deleted its RayJob")
    return Outcome(
        "stopped",
        ExitCode.INTERRUPTED,
        f"Run {meta['name']} was stopped by {by}; its record so far is kept, and submitting it again continues it.",
    )


def _failed(job: Object, log: str) -> Outcome:
    name, status = job["metadata"]["name"], job.get("status") or {}
    reason, message = status.get("reason", ""), status.get("message", "")
    if reason == "DeadlineExceeded":
        limit = job["spec"].get("activeDeadlineSeconds")
        return Outcome(
            "stopped",
            ExitCode.INTERRUPTED,
            f"deadline: run {name} took longer than job.activeDeadlineSeconds, {limit} s, and was stopped; raise it in "
            "the values of helm/training. Submitting the run again continues it.",
        )
    if reason == "PreRunningDeadlineExceeded":
        limit = job["spec"].get("preRunningDeadlineSeconds")
        return Outcome(
            "failed",
            ExitCode.RESOURCES,
            f"deadline: the Ray cluster of run {name} was not ready within job.preRunningDeadlineSeconds, {limit} s; "
            "kubectl get events says why.",
        )
    number = EXIT_CODE.search(message)
    said = SENTENCE.search(message) or SENTENCE.search(log)
    words = " ".join(said[1].split()) if said else _last_line(message) or reason or "it gave no reason"
    return Outcome("failed", _code(int(number[1])) if number else ExitCode.INTERNAL, f"run {name}: {words}")


def _code(number: int) -> ExitCode:
    with suppress(ValueError):
        return ExitCode(number)
    return ExitCode.TRAINING  # a signal: the driver was killed


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def noted(job: Object) -> dict[str, Any] | None:
    """The result that a follower wrote down on the RayJob."""
    text = job["metadata"].get("annotations", {}).get(RESULT)
    with suppress(ValueError):
        found: dict[str, Any] | None = json.loads(text) if text else None
        return found
    return None


def as_result(outcome: Outcome) -> dict[str, Any]:
    """What is written down of an outcome: the run's own result, or what stands in for it."""
    if outcome.result is not None:
        return outcome.result
    text = {} if outcome.code is ExitCode.OK else {"error": outcome.sentence}
    return {"status": outcome.status, "exit_code": int(outcome.code), **text}
