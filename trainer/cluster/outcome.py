"""How a run on a cluster ended: from its RayJob's status and its driver's last line. Pure functions.

A driver with ``--log-format json`` ends its output with its result: exit code, problem, fix, and whether a retry can
help. Where that line is missing, or is one of an older driver, the exit code decides about the retry.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, cast

from trainer.cluster import rayjob
from trainer.cluster.api import KubeObject
from trainer.cluster.rayjob import RESULT, STOPPED_BY, annotations_of
from trainer.cluster.retries import RETRY_BY_EXIT_CODE
from trainer.errors import (
    CheckpointError,
    ClusterError,
    ConfigError,
    ConflictError,
    DataError,
    DivergedError,
    ExitCode,
    InterruptedRunError,
    ResourceError,
    StorageError,
    TrainerError,
    TrainingError,
    sentence,
)
from trainer.storage.parsing import from_json
from trainer.storage.schema import Result

Status = Literal["finished", "failed", "stopped", "pending"]

ERRORS: dict[ExitCode, type[TrainerError]] = {
    error.exit_code: error
    for error in (
        ConfigError,
        DataError,
        StorageError,
        ConflictError,
        TrainingError,
        ResourceError,
        CheckpointError,
        DivergedError,
        ClusterError,
        InterruptedRunError,
    )
}
# Ray puts the end of the driver's output behind the first of these; the second begins an error on the command line.
EXIT_CODE = re.compile(r"failed with exit code (-?\d+)")
ERROR_LINE = re.compile(r"^Error: (.+)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Outcome:
    """The end of a run, or of one attempt at it; `pending` is a run that cannot start and is no longer waited for.

    `retry` is whether the same run may succeed on another Ray cluster; `result` is its ``result.json``, where known.
    """

    status: Status
    exit_code: ExitCode
    problem: str
    fix: str = ""
    retry: bool = False
    result: Result | None = None

    @property
    def sentence(self) -> str:
        """The end as people read it."""
        return sentence(self.problem, self.fix)

    def error(self) -> TrainerError:
        """Return the error that the command line ends with."""
        kind = ERRORS.get(self.exit_code, TrainerError)
        return kind(self.problem, self.fix, retry=self.retry, exit_code=self.exit_code)

    def as_result(self) -> dict[str, Any]:
        """Return what is written down of it: the run's own result, or what stands in for it."""
        if self.result is not None:
            return dict(self.result)
        if self.exit_code is ExitCode.OK:
            return {"status": self.status, "exit_code": int(self.exit_code)}
        return {"status": self.status, **self.error().facts()}


def of_run(job: KubeObject) -> Outcome | None:
    """Return how a run ended for good, by its RayJob alone; None while it is running, or KubeRay will retry it."""
    return None if will_retry(job) else of_attempt(job)


def will_retry(job: KubeObject) -> bool:
    """Return whether KubeRay replaces the Ray cluster of a failed attempt, as things are now."""
    status = job.get("status") or {}
    if "deletionTimestamp" in job["metadata"]:
        return False
    if status.get("jobDeploymentStatus") == "Retrying":
        return True
    undecided = status.get("jobDeploymentStatus") == "Running" and status.get("jobStatus") == "FAILED"
    return undecided and rayjob.failed_attempts(job) < rayjob.backoff_limit(job)


def of_attempt(job: KubeObject, result: Result | None = None, last_lines: str = "") -> Outcome | None:
    """Return how the latest attempt at a run ended, by its RayJob; None while it is running.

    `result` is the last one that the driver printed, and `last_lines` are its last lines that are not JSON.
    """
    name = job["metadata"]["name"]
    status = job.get("status") or {}
    written = written_result(job)
    state = status.get("jobDeploymentStatus")
    if (job.get("spec") or {}).get("suspend") is True and STOPPED_BY in annotations_of(job):
        return stopped(job)
    if status.get("jobStatus") == "SUCCEEDED":
        return Outcome("finished", ExitCode.OK, f"Run {name} finished", result=result or written)
    if "deletionTimestamp" in job["metadata"]:
        return stopped(job)
    if status.get("jobStatus") == "STOPPED":
        return Outcome(
            "stopped",
            ExitCode.INTERRUPTED,
            f"Run {name} was stopped through Ray; its record so far is kept",
            "submit it again to resume",
        )
    if status.get("jobStatus") == "FAILED" or state in ("Failed", "Retrying"):
        return of_driver(job, result) or _failed(job, last_lines)
    if written is not None and written["status"] == "failed" and state in ("Suspending", "Suspended"):
        return _by_result(written)  # its retries were called off
    return None


def of_driver(job: KubeObject, result: Result | None) -> Outcome | None:
    """Return how an attempt failed, by its driver's last line; None if it did not fail.

    That line is there before the RayJob knows, and stays: KubeRay drops a failed attempt's message when it retries.
    """
    if result is None or result["status"] != "failed":
        return None
    return _by_result(result, prefix=f"run {job['metadata']['name']}: ")


def stopped(job: KubeObject) -> Outcome:
    """Return that a run was stopped, or its RayJob deleted, before its end."""
    who = annotations_of(job).get(STOPPED_BY, "somebody who deleted its RayJob")
    return Outcome(
        "stopped",
        ExitCode.INTERRUPTED,
        f"Run {job['metadata']['name']} was stopped by {who}; its record so far is kept",
        "submit it again to resume",
    )


def _by_result(result: Result, prefix: str = "") -> Outcome:
    exit_code = _exit_code(result["exit_code"])
    retry = result.get("retry")
    problem = result.get("problem") or result.get("error") or f"it failed with exit code {result['exit_code']}"
    return Outcome(
        "failed",
        exit_code,
        f"{prefix}{problem}",
        str(result.get("fix") or ""),
        retry if isinstance(retry, bool) else RETRY_BY_EXIT_CODE[exit_code],
    )


def _failed(job: KubeObject, last_lines: str) -> Outcome:
    name = job["metadata"]["name"]
    spec = job["spec"]
    status = job.get("status") or {}
    reason = str(status.get("reason") or "")
    message = str(status.get("message") or "")
    if reason == "DeadlineExceeded":
        return Outcome(
            "stopped",
            ExitCode.INTERRUPTED,
            f"deadline: run {name} took longer than job.activeDeadlineSeconds, {spec.get('activeDeadlineSeconds')} s, "
            "and was stopped",
            "raise it in the values of helm/training, and submit the run again to resume",
        )
    if reason == "PreRunningDeadlineExceeded":
        return Outcome(
            "failed",
            ExitCode.RESOURCES,
            f"deadline: the Ray cluster of run {name} was not ready within job.preRunningDeadlineSeconds, "
            f"{spec.get('preRunningDeadlineSeconds')} s",
            "find out why: kubectl get events",
            retry=True,  # nodes may be free by then
        )
    if failure := of_driver(job, _printed_result(message)):
        return failure
    number = EXIT_CODE.search(message)
    exit_code = _exit_code(int(number[1])) if number else ExitCode.INTERNAL
    error = ERROR_LINE.search(message) or ERROR_LINE.search(last_lines)
    words = " ".join(error[1].split()) if error else _last_line(message) or reason or "it failed for an unknown reason"
    return Outcome("failed", exit_code, f"run {name}: {words}", retry=RETRY_BY_EXIT_CODE[exit_code])


def _exit_code(number: int) -> ExitCode:
    """Return the exit code of a failure; one that makes no sense is a bug, and an unknown one a signal's."""
    if number == ExitCode.OK:
        return ExitCode.INTERNAL
    with suppress(ValueError):
        return ExitCode(number)
    return ExitCode.TRAINING  # the driver was killed


def _printed_result(output: str) -> Result | None:
    """Return the result in the end of a driver's output, as KubeRay's message has it."""
    for line in reversed(output.splitlines()):
        if line.startswith('{"event": "result"'):
            return parsed_result(line)
    return None


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def written_result(job: KubeObject) -> Result | None:
    """Return the result that a follower wrote into the RayJob's annotations, or None if it makes no sense."""
    return parsed_result(annotations_of(job).get(RESULT, ""))


def parsed_result(text: str) -> Result | None:
    """Return a result from JSON, or None if the text is none: it comes from a log or an annotation."""
    with suppress(ValueError):
        return checked_result(from_json(text))
    return None


def checked_result(content: object) -> Result | None:
    """Return a decoded result without its ``event`` key, or None if it has no status and exit code."""
    if not isinstance(content, dict):
        return None
    exit_code = content.get("exit_code")
    if not isinstance(content.get("status"), str) or not isinstance(exit_code, int) or isinstance(exit_code, bool):
        return None
    return cast("Result", {key: value for key, value in content.items() if key != "event"})
