"""Runs on a cluster as they are now, by their RayJobs: state, progress, log, list."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from trainer.cluster import outcome, rayjob
from trainer.cluster.api import KubeClient, KubeObject
from trainer.cluster.driver_log import SUBMITTER
from trainer.cluster.follow import POLL_EVERY_S, Watch
from trainer.cluster.outcome import Outcome
from trainer.cluster.submit import find_rayjob
from trainer.errors import LostConnectionError
from trainer.observe.display import Event
from trainer.storage import store
from trainer.storage.schema import Point

PROGRESS = ("epoch", "step", "loss", "accuracy", "samples-per-second", "eta")
NONE = "–"


@dataclass(frozen=True)
class RunStatus:
    """How one run is getting on; None and empty is what is not known.

    `record` is the place of its record, `ended` the sentence of its end, and `now` what it waits for.
    """

    run: str
    state: str
    progress: dict[str, str] = field(default_factory=dict)  # the annotations of PROGRESS
    ray_cluster: str | None = None
    submitted_by: str | None = None
    submitted_at: str | None = None
    record: str | None = None
    exit_code: int | None = None
    ended: str | None = None
    result: Mapping[str, Any] | None = None
    now: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON, without what is not known."""
        content = asdict(self)
        progress = content.pop("progress")
        known = {key: value for key, value in content.items() if value is not None and value != []}
        return {"run": self.run, "state": self.state, **progress, **known}


@dataclass(frozen=True)
class RunRow:
    """A run in a list."""

    run: str
    state: str
    epoch: str = NONE
    accuracy: str = NONE
    ended: str = NONE


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
        return "retrying"
    status = job.get("status") or {}
    if status.get("jobStatus") == "RUNNING":
        return "running"
    return str(status.get("jobDeploymentStatus") or "new").lower()


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
    progress = {key: annotations.get(f"{rayjob.PREFIX}/{key}") for key in PROGRESS}
    return RunStatus(
        run=metadata["name"],
        state=state_of(job),
        progress={key.replace("-", "_"): value for key, value in progress.items() if value is not None},
        ray_cluster=(job.get("status") or {}).get("rayClusterName") or None,
        submitted_by=annotations.get(rayjob.SUBMITTED_BY, "kubectl"),
        submitted_at=metadata["creationTimestamp"],
        record=store.join(storage, metadata["name"]) if storage else None,
        exit_code=None if ended is None else int(ended.exit_code),
        ended=None if ended is None else ended.sentence,
        result=None if ended is None else ended.as_result(),
        now=messages if ended is None else [],
    )


def log_lines(kube: KubeClient, name: str, follow: bool) -> Iterator[str]:
    """Yield the driver's output, oldest first, each line after the time it was printed; with `follow` to the run's end.

    Raises:
        NoSuchRunError: the run does not exist.
    """
    uid = find_rayjob(kube, name)["metadata"]["uid"]
    seen = set[str]()
    while True:
        job, lines = _poll_log(kube, name, patient=follow)
        yield from (line for line in lines if line not in seen)
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
    """Return the runs of a namespace, newest first; one whose RayJob makes no sense is `damaged`."""
    jobs = sorted(kube.rayjobs(), key=lambda job: str(job["metadata"].get("creationTimestamp")), reverse=True)
    return [_row(job) for job in jobs]


def _row(job: KubeObject) -> RunRow:
    try:
        annotations = rayjob.annotations_of(job)
        return RunRow(
            run=job["metadata"]["name"],
            state=state_of(job),
            epoch=annotations.get(f"{rayjob.PREFIX}/epoch", NONE),
            accuracy=annotations.get(f"{rayjob.PREFIX}/accuracy", NONE),
            ended=(job.get("status") or {}).get("endTime") or NONE,
        )
    except Exception:  # noqa: BLE001 # whatever is wrong with one RayJob, the others are listed
        return RunRow(str(job["metadata"].get("name")), "damaged")


def numbers(result: Mapping[str, Any] | None) -> str:
    """Return a result's accuracy, loss and time in words; one that lacks them is in the record."""
    with suppress(KeyError, TypeError, ValueError):
        if result is not None and result.get("test_accuracy") is not None:
            words = f"test accuracy {result['test_accuracy']:.2%}, test loss {result['test_loss']:.4f}"
            total = f", {result['seconds']['wall']:.1f} s in total" if "seconds" in result else ""
            return f"{words}{total}"
    return "its numbers are in the record"
