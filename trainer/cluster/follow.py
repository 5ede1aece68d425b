"""Following a run on a cluster until it ends: its states, its driver's log, what it waits for, and its result.

No connection is held open: the cluster is polled every two seconds, so that a lost connection, another API server or a
new head is only another answer. The end of a log means nothing; the RayJob's status does.
"""

from __future__ import annotations

import time
from typing import Any

from trainer.cluster import outcome
from trainer.cluster.annotations import Annotations
from trainer.cluster.api import KubeClient, KubeObject
from trainer.cluster.driver_log import Log, as_point
from trainer.cluster.outcome import Outcome
from trainer.cluster.patience import Patience
from trainer.cluster.retries import Retries
from trainer.cluster.waiting import Waiting
from trainer.config import Config
from trainer.errors import ClusterError, ExitCode, LostConnectionError, TrainerError
from trainer.observe.display import Display, Guarded
from trainer.observe.progress import Progress
from trainer.observe.text import duration, plural
from trainer.storage.schema import Result

POLL_EVERY_S = 2.0
RESULT_COMES_S = 20.0  # from when the RayJob is complete until its result is in the submitter's log


class Watch:
    """Shows one run until it ends. A `passive` one shows it, and changes nothing but annotations."""

    def __init__(self, kube: KubeClient, job: KubeObject, config: Config, display: Display, passive: bool = False):
        self._kube = kube
        self._job = job
        self._name = job["metadata"]["name"]
        self._uid = job["metadata"]["uid"]
        self._display = display if isinstance(display, Guarded) else Guarded(display)
        self._log = Log()
        self._progress = Progress(config)
        self._annotations = Annotations(self._write_annotations, self._progress, config)
        self._retries = Retries(self._change_retries, self._announce_retry, passive)
        self._waiting = Waiting(kube, self._announce, passive)
        self._announced: set[str] = set()  # subjects
        self._last_state = ""
        self._head = ""
        self._training = False  # in this attempt
        self._complete_since: float | None = None

    @property
    def result(self) -> Result | None:
        """The result that the driver printed, once it was seen."""
        return self._log.result

    def until_end(self) -> Outcome:
        """Follow the run until it has ended for good, or waits for what will not come.

        Raises:
            LostConnectionError: the API server has been unreachable for a quarter of an hour.
            ClusterError: it has refused for a minute.
        """
        patience = Patience()
        while True:
            try:
                ended = self.poll()
            except ClusterError as error:
                if patience.failed(error):
                    self._say(f"{error} The run continues; retrying the connection.")
            else:
                silent_s = patience.succeeded()
                if silent_s is not None:
                    self._say(f"connected again after {duration(silent_s)}")
                if ended is not None:
                    return ended
            time.sleep(POLL_EVERY_S)

    def poll(self) -> Outcome | None:
        """Ask the cluster once and show what is new; return how the run ended, if it has."""
        job = self._kube.rayjob(self._name)
        if job is None or job["metadata"]["uid"] != self._uid:
            return outcome.of_attempt(self._job, self._log.result) or outcome.stopped(self._job)
        self._job = job
        pods = self._pods()
        if not self._last_state:  # on joining late, first the current state, then the events so far
            self._say_state(pods)
        for line in self._log.read(self._kube, [pod for pod in pods if _component(pod) == "submitter"]):
            if not isinstance(line, str):  # `trainer logs` shows the rest; what matters of it is in the outcome
                self._show(line)
        self._annotations.write_progress(job)
        by_job = outcome.of_attempt(job, self._log.result, "\n".join(self._log.last_lines))
        if by_job is not None and by_job.exit_code is ExitCode.OK:
            return self._finished(by_job)
        ended = self._retries.end(job, outcome.of_driver(job, self._log.result), by_job)
        if ended is not None:
            self._annotations.write_end(job, ended)
            return ended
        self._say_state(pods)
        return self._waiting.check(job, pods, self._training) if by_job is None else None

    def _pods(self) -> list[KubeObject]:
        """Return the run's pods; of those that are terminating only submitters, whose logs are still read."""
        cluster = (self._job.get("status") or {}).get("rayClusterName")
        pods = [pod for pod in self._kube.pods() if _belongs_to(pod, self._name, cluster)]
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"] or _component(pod) == "submitter"]

    def _show(self, event: dict[str, Any]) -> None:
        if event["event"] == "metrics":
            point = as_point(event)
            if point is not None:
                self._training = True
                self._progress.add(point)
                self._display.point(point)
        elif event["event"] != "result":
            self._training = self._training or event["event"] == "training_started"
            self._display.event(event)

    def _finished(self, ended: Outcome) -> Outcome | None:
        """Return the end of a successful run once its result is known, or does not come any more."""
        if ended.result is None:
            if (self._job.get("status") or {}).get("jobDeploymentStatus") != "Complete":
                return None
            if self._complete_since is None:
                self._complete_since = time.monotonic()
            if time.monotonic() - self._complete_since < RESULT_COMES_S:
                return None
        self._annotations.write_end(self._job, ended)
        return ended

    def _write_annotations(self, annotations: dict[str, str]) -> None:
        self._patch({"metadata": {"annotations": annotations}}, "could not write the progress to the RayJob")

    def _change_retries(self, changes: KubeObject) -> None:
        self._patch(changes, "could not stop KubeRay from retrying")

    def _patch(self, changes: KubeObject, failure: str) -> None:
        try:
            self._kube.patch_rayjob(self._name, changes)
        except LostConnectionError:
            raise
        except TrainerError as error:  # the run continues without it
            self._announce(failure, f"warning: {failure}: {error}")

    def _announce_retry(self, job: KubeObject, failure: Outcome) -> None:
        self._training = False
        self._log.result = None  # the next attempt may end without one
        attempt = (job.get("status") or {}).get("startTime")
        self._announce(f"attempt {attempt}", f"{failure.sentence} KubeRay is retrying the run.")

    def _say_state(self, pods: list[KubeObject]) -> None:
        heads = [pod["metadata"]["name"] for pod in pods if _component(pod) == "head"]
        if heads and self._head and heads[0] != self._head:
            self._say(f"head {self._head} is gone; {heads[0]} replaces it, and the run resumes from storage")
        self._head = heads[0] if heads else self._head
        workers = sum(_component(pod) == "worker" and _is_ready(pod) for pod in pods)
        state = state_in_words(self._job, workers)
        if state and state != self._last_state:
            self._last_state = state
            self._say(state)

    def _announce(self, about: str, message: str) -> None:
        if about not in self._announced:
            self._announced.add(about)
            self._say(message)

    def _say(self, message: str) -> None:
        self._display.event({"time": round(time.time(), 3), "event": "cluster", "message": message})


def state_in_words(job: KubeObject, ready_workers: int) -> str | None:
    """Return what a RayJob is doing, or None where a person need not know."""
    status = job.get("status") or {}
    cluster = status.get("rayClusterName", "")
    driver = status.get("jobStatus") or ""
    if status.get("jobDeploymentStatus") == "Running":
        if driver == "RUNNING":
            return f"the driver runs on Ray cluster {cluster}"
        return f"submitted to Ray cluster {cluster}" if driver in ("", "PENDING") else None  # it has ended
    words = {
        "": "waiting for the KubeRay operator",
        "Initializing": f"Ray cluster {cluster} is starting, {plural(ready_workers, 'worker')} ready",
        "Retrying": f"Ray cluster {cluster} is being replaced",
        "Suspended": "suspended",
    }
    return words.get(status.get("jobDeploymentStatus") or "")


def _belongs_to(pod: KubeObject, run: str, cluster: str | None) -> bool:
    labels = pod["metadata"].get("labels") or {}
    return labels.get("batch.kubernetes.io/job-name") == run or (
        cluster is not None and labels.get("ray.io/cluster") == cluster
    )


def _component(pod: KubeObject) -> str:
    return str((pod["metadata"].get("labels") or {}).get("app.kubernetes.io/component"))


def _is_ready(pod: KubeObject) -> bool:
    conditions = pod["status"].get("conditions") or []
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
