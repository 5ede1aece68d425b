"""Runs as they are now: on a cluster by their RayJobs, in a storage by their records."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from trainer.cluster import outcome, rayjob, submit
from trainer.cluster.api import Cluster, Object
from trainer.cluster.driver_log import SUBMITTER
from trainer.cluster.follow import LOOK_EVERY_S, Watch
from trainer.errors import LostConnectionError, StorageError
from trainer.storage import store
from trainer.storage.mirror import open_record

PROGRESS = ("epoch", "step", "loss", "accuracy", "samples-per-second", "eta")
Row = tuple[str, str, str, str, str]


class _Noted:
    """A display that keeps what the follower says instead of showing it."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def event(self, event: dict[str, Any]) -> None:
        """Keep what is said of the cluster."""
        if event["event"] == "cluster":
            self.said.append(event["message"])

    def point(self, point: dict[str, Any]) -> None:
        """The annotations have the numbers."""

    def close(self) -> None:
        """Nothing is open."""


def look(cluster: Cluster, name: str) -> dict[str, Any]:
    """How a run gets on; its RayJob's annotations are brought up to date.

    Raises:
        ConfigError: there is no such run.
    """
    job = submit.find(cluster, name)
    config = rayjob.config_of(job)
    ended, noted = outcome.of(job), _Noted()
    if config is not None and (ended is None or outcome.noted(job) is None):
        watch = Watch(cluster, job, config, noted, looks=True)
        ended = watch.look()
        if ended is None:  # a trouble counts when it is still there at the next look
            time.sleep(LOOK_EVERY_S)
            ended = watch.look()
        job = submit.find(cluster, name)
    return described(job, ended, noted.said)


def described(job: Object, ended: outcome.Outcome | None, said: list[str]) -> dict[str, Any]:
    """A RayJob as lines for people."""
    meta, status = job["metadata"], job.get("status") or {}
    notes = meta.get("annotations", {})
    found: dict[str, Any] = {"run": meta["name"], "state": state_of(job, ended)}
    found |= {
        key.replace("-", "_"): notes[f"{rayjob.PREFIX}/{key}"] for key in PROGRESS if f"{rayjob.PREFIX}/{key}" in notes
    }
    if status.get("rayClusterName"):
        found["ray_cluster"] = status["rayClusterName"]
    found["submitted_by"] = notes.get(rayjob.SUBMITTED_BY, "kubectl")
    found["submitted_at"] = meta["creationTimestamp"]
    if place := rayjob.storage_of(job):
        found["record"] = store.join(place, meta["name"])
    if ended is not None:
        return {**found, "exit_code": int(ended.code), "ended": ended.sentence, "result": outcome.as_result(ended)}
    return {**found, "now": said} if said else found


def state_of(job: Object, ended: outcome.Outcome | None) -> str:
    """One word for how a run is."""
    if ended is not None:
        return ended.status
    status = job.get("status") or {}
    if status.get("jobStatus") == "RUNNING":
        return "running"
    return str(status.get("jobDeploymentStatus") or "new").lower()


def log(cluster: Cluster, name: str, follow: bool) -> Iterator[str]:
    """The driver's output, oldest first, with the time each line was printed; to the run's end if it is to be followed.

    Raises:
        ConfigError: there is no such run.
    """
    uid, seen = submit.find(cluster, name)["metadata"]["uid"], set[str]()
    while True:
        job, lines = _look_at_log(cluster, name, patient=follow)
        yield from (line for line in lines if line not in seen)
        seen.update(lines)
        if not follow or job is None or job["metadata"]["uid"] != uid or outcome.of(job) is not None:
            return
        time.sleep(LOOK_EVERY_S)


def _look_at_log(cluster: Cluster, name: str, patient: bool) -> tuple[Object | None, list[str]]:
    while True:
        try:
            job, pods = cluster.job(name), cluster.pods()  # the job first: what it says is over has said all
            mine = [pod for pod in pods if pod["metadata"]["labels"].get("batch.kubernetes.io/job-name") == name]
            mine.sort(key=lambda each: str(each["metadata"]["creationTimestamp"]))
            logs = [cluster.log(pod["metadata"]["name"], SUBMITTER) for pod in mine]
            return job, [line for text in logs for line in text.splitlines()]
        except LostConnectionError:  # noqa: PERF203 # a lost connection is waited for
            if not patient:
                raise
            time.sleep(LOOK_EVERY_S)


def on_cluster(cluster: Cluster) -> list[Row]:
    """Name, state, epoch, accuracy and end of each run of a namespace, newest first."""
    rows = []
    for job in sorted(cluster.jobs(), key=lambda each: str(each["metadata"]["creationTimestamp"]), reverse=True):
        notes = job["metadata"].get("annotations", {})
        numbers = [notes.get(f"{rayjob.PREFIX}/{key}", "–") for key in ("epoch", "accuracy")]
        ended = (job.get("status") or {}).get("endTime", "–")
        rows.append((job["metadata"]["name"], state_of(job, outcome.of(job)), numbers[0], numbers[1], ended))
    return rows


def kept(place: str) -> list[Row]:
    """Name, state, epochs, accuracy and end of each run in a storage, by name.

    Raises:
        StorageError: it cannot be read.
    """
    rows = []
    for name in store.folders(place):
        record = open_record(store.join(place, name))
        if not record.exists():
            continue
        try:
            result, epochs = record.result() or {}, record.config().epochs
        except StorageError:  # says `trainer report`; the others are listed all the same
            rows.append((name, "damaged", "–", "–", "–"))
            continue
        accuracy, ended = result.get("test_accuracy"), result.get("ended_at")
        rows.append(
            (
                name,
                result.get("status", "not ended"),
                f"{result.get('epochs', 0)}/{epochs}",
                "–" if accuracy is None else f"{accuracy:.2%}",
                "–" if ended is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ended)),
            )
        )
    return rows
