"""Runs on a cluster as they are now, by their RayJobs: state, progress, log, list."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from trainer.cluster import outcome, rayjob
from trainer.cluster.api import KubeClient, KubeObject
from trainer.cluster.diagnose import timestamp
from trainer.cluster.driver_log import SUBMITTER
from trainer.cluster.follow import POLL_EVERY_S, Watch
from trainer.cluster.outcome import Outcome
from trainer.cluster.submit import find_rayjob
from trainer.errors import LostConnectionError, TrainerError
from trainer.observe.display import Event
from trainer.observe.progress import Numbers
from trainer.observe.summary import wall_seconds
from trainer.storage import store
from trainer.storage.parsing import from_json
from trainer.storage.schema import Point

PROGRESS = tuple(key for key in Numbers.__annotations__ if key != "time")
# A run's state in one word, wherever it is shown. `starting`: its RayJob exists, and its driver does not run yet.
STARTING, RUNNING, RETRYING, SUSPENDED = "starting", "running", "retrying", "suspended"
FINISHED, FAILED, STOPPED, DAMAGED = "finished", "failed", "stopped", "damaged"


@dataclass(frozen=True)
class RunStatus:
    """How one run is getting on; None and empty is what is not known.

    `progress` has the keys of PROGRESS: times in seconds, accuracy as a fraction. `record` is the place of its record,
    `ended` the sentence of its end, and `now` what it waits for.
    """

    run: str
    state: str
    progress: Mapping[str, float | None] = field(default_factory=dict)
    ray_cluster: str | None = None
    submitted_by: str | None = None
    submitted_at: str | None = None
    record: str | None = None
    exit_code: int | None = None
    ended: str | None = None
    result: Mapping[str, Any] | None = None
    now: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON: every key, with null for what is not known."""
        content = asdict(self)
        progress = content.pop("progress")
        return {"run": self.run, "state": self.state, **{key: progress.get(key) for key in PROGRESS}, **content}


@dataclass(frozen=True)
class RunRow:
    """A run in a list; None is what is not known. Times are seconds since 1970, `test_accuracy` is a fraction.

    `where` is its storage or namespace, `record` the place of its record, and `seen_at` when its numbers were read.
    What follows `record` is known of runs that have ended; `goodput` is a fraction, `cost` an amount of `currency`.
    """

    run: str
    state: str
    epoch: int | None = None
    epochs: int | None = None
    test_accuracy: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    seen_at: float | None = None
    where: str = ""
    record: str | None = None
    test_loss: float | None = None
    wall_s: float | None = None
    goodput: float | None = None
    cost: float | None = None
    currency: str | None = None
    workers: int | None = None
    attempts: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


class _Messages:
    """A display that keeps what a follower says of the cluster, and shows nothing."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def event(self, event: Event) -> None:
        """Keep a message of the follower."""
        if event["event"] == "cluster":
            self.messages.append(str(event["message"]))

    def point(self, point: Point) -> None:
        """Do nothing: the annotations have the numbers."""

    def close(self) -> None:
        """Do nothing."""


def state_of(job: KubeObject) -> str:
    """Return a run's state in one word, by its RayJob alone, so that `status` and `list` say the same."""
    ended = outcome.of_run(job)
    if ended is not None:
        return ended.status
    if outcome.will_retry(job):
        return RETRYING
    status = job.get("status") or {}
    state = str(status.get("jobDeploymentStatus") or "")
    if status.get("jobStatus") == "RUNNING" or state == "Running":
        return RUNNING
    if state in ("Suspending", "Suspended"):
        return SUSPENDED
    return STARTING if state in ("", "Initializing", "Waiting") else state


def poll(kube: KubeClient, name: str) -> RunStatus:
    """Return how a run is getting on, and bring its RayJob's annotations up to date.

    Raises:
        NoSuchRunError: the run does not exist.
    """
    job = find_rayjob(kube, name)
    config = rayjob.config_of(job)
    ended = outcome.of_run(job)
    display = _Messages()
    if config is not None and (ended is None or outcome.written_result(job) is None):
        watch = Watch(kube, job, config, display, passive=True)
        ended = watch.poll()
        if ended is None:  # a problem counts if it is still there at the next poll
            time.sleep(POLL_EVERY_S)
            ended = watch.poll()
        job = kube.rayjob(name) or job
    return describe(job, ended or outcome.of_run(job), display.messages)


def describe(job: KubeObject, ended: Outcome | None, messages: list[str]) -> RunStatus:
    """Return a RayJob as a run's status; `messages` is what a follower has just said of it."""
    metadata = job["metadata"]
    annotations = rayjob.annotations_of(job)
    storage = rayjob.storage_of(job)
    return RunStatus(
        run=metadata["name"],
        state=state_of(job),
        progress=progress_of(job),
        ray_cluster=(job.get("status") or {}).get("rayClusterName") or None,
        submitted_by=annotations.get(rayjob.SUBMITTED_BY, "kubectl"),
        submitted_at=rayjob.submitted_at(job),
        record=store.join(storage, metadata["name"]) if storage else None,
        exit_code=None if ended is None else int(ended.exit_code),
        ended=None if ended is None else ended.sentence,
        result=None if ended is None else ended.as_result(),
        now=messages if ended is None else [],
    )


def progress_of(job: KubeObject) -> dict[str, float | None]:
    """Return the numbers that a follower wrote into a RayJob, those that are some; empty before the first."""
    with suppress(ValueError):
        content = from_json(rayjob.annotations_of(job).get(rayjob.PROGRESS, ""))
        if isinstance(content, dict):
            return {key: content.get(key) if _is_finite(content.get(key)) else None for key in Numbers.__annotations__}
    return {}


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def log_batches(kube: KubeClient, name: str, follow: bool) -> Iterator[list[str]]:
    """Yield the driver's output so far, then with `follow` what is new, to the run's end; each line after its time.

    Raises:
        NoSuchRunError: the run does not exist.
    """
    uid = find_rayjob(kube, name)["metadata"]["uid"]
    seen = set[str]()
    while True:
        job, lines = _poll_log(kube, name, patient=follow)
        yield [line for line in lines if line not in seen]
        seen.update(lines)
        if not follow or job is None or job["metadata"]["uid"] != uid or outcome.of_run(job) is not None:
            return
        time.sleep(POLL_EVERY_S)


def _poll_log(kube: KubeClient, name: str, patient: bool) -> tuple[KubeObject | None, list[str]]:
    while True:
        try:
            job = kube.rayjob(name)  # before the logs: if it has ended, they are complete
            pods = [pod for pod in kube.pods() if _is_submitter(pod, name)]
            pods.sort(key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
            logs = [kube.pod_log(pod["metadata"]["name"], SUBMITTER) for pod in pods]
        except LostConnectionError:  # noqa: PERF203 # a lost connection is retried
            if not patient:
                raise
            time.sleep(POLL_EVERY_S)
        else:
            return job, [line for log in logs for line in log.splitlines()]


def _is_submitter(pod: KubeObject, name: str) -> bool:
    return bool((pod["metadata"].get("labels") or {}).get("batch.kubernetes.io/job-name") == name)


def rows(kube: KubeClient) -> list[RunRow]:
    """Return the runs of a namespace, newest first; one whose RayJob makes no sense is `damaged`.

    The numbers of those that run, and of those that ended while nobody followed them, are read from their logs.
    """
    with_logs = {(pod["metadata"].get("labels") or {}).get("batch.kubernetes.io/job-name") for pod in kube.pods()}
    found = [_row(kube, job, job["metadata"].get("name") in with_logs) for job in kube.rayjobs()]
    return sorted(found, key=lambda row: row.started_at or 0.0, reverse=True)


def _row(kube: KubeClient, job: KubeObject, has_log: bool) -> RunRow:
    where = f"{kube.namespace} of {kube.context}"
    try:
        if has_log:
            job = _brought_up_to_date(kube, job)
        progress = progress_of(job)
        result: Mapping[str, Any] = outcome.written_result(job) or {}
        storage = rayjob.storage_of(job)
        ended = (job.get("status") or {}).get("endTime")
        accuracy = result.get("test_accuracy", progress.get("test_accuracy"))
        return RunRow(
            run=job["metadata"]["name"],
            state=state_of(job),
            epoch=_whole(progress.get("epoch")),
            epochs=_whole(progress.get("epochs")),
            test_accuracy=float(str(accuracy)) if _is_finite(accuracy) else None,
            started_at=_seconds(rayjob.submitted_at(job)),
            ended_at=_seconds(ended),
            seen_at=progress.get("time"),
            where=where,
            record=store.join(storage, job["metadata"]["name"]) if storage else None,
        )
    except LostConnectionError:
        raise
    except Exception:  # noqa: BLE001 # whatever is wrong with one RayJob, the others are listed
        return RunRow(str(job["metadata"].get("name")), DAMAGED, where=where)


def _seconds(stamp: object) -> float | None:
    with suppress(ValueError, OverflowError):
        return timestamp(str(stamp))
    return None


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _brought_up_to_date(kube: KubeClient, job: KubeObject) -> KubeObject:
    """Return a RayJob with the progress, or the result, that its log has now."""
    config = rayjob.config_of(job)
    ended = outcome.of_run(job)
    if config is None or (ended is not None and outcome.written_result(job) is not None):
        return job
    if ended is None and state_of(job) != RUNNING:
        return job
    with suppress(TrainerError):  # then its numbers are as old as they say
        Watch(kube, job, config, _Messages(), passive=True).poll()
    return kube.rayjob(job["metadata"]["name"]) or job


def numbers(result: Mapping[str, Any] | None) -> str:
    """Return a result's accuracy, loss and time in words; one that lacks them is in the record."""
    with suppress(KeyError, TypeError, ValueError):
        if result is not None and result.get("test_accuracy") is not None:
            words = f"test accuracy {result['test_accuracy']:.2%}, test loss {result['test_loss']:.4f}"
            wall = wall_seconds(result)
            return words if wall is None else f"{words}, {wall:.1f} s in total"
    return "its numbers are in the record"
