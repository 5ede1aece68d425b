"""Following a run on a cluster until it ends: its states, its driver's log, what holds it up, and its result.

Nothing is held open: every two seconds the cluster is asked how things are, so that a lost connection, another API
server or a new head is only another answer. The end of a log means nothing; the RayJob's status does.
"""

from __future__ import annotations

import json
import time
from typing import Any

from trainer.cluster import diagnose, outcome, rayjob
from trainer.cluster.api import Cluster, Object
from trainer.cluster.diagnose import Sight
from trainer.cluster.driver_log import Log
from trainer.cluster.outcome import Outcome
from trainer.cluster.retries import Retries
from trainer.config import Config
from trainer.errors import ClusterError, ExitCode, LostConnectionError
from trainer.observe.display import Display
from trainer.observe.pace import Pace
from trainer.observe.text import duration, number, plural

LOOK_EVERY_S = 2.0
ANNOTATE_EVERY_S = 5.0
LOST_FOR_GOOD_S = 900.0
REFUSED_FOR_GOOD_S = 60.0  # an API server that restarts knows nobody's rights at first
RESULT_COMES_S = 20.0  # from the RayJob's success to the result in the log of its submitter


class Watch:
    """Shows one run until it ends; one that only `looks` leaves the retries of a failed run as they are."""

    def __init__(self, cluster: Cluster, job: Object, config: Config, display: Display, looks: bool = False):
        self._cluster, self._config, self._display = cluster, config, display
        self._name, self._uid = job["metadata"]["name"], job["metadata"]["uid"]
        self._job = job
        self._log, self._pace = Log(), Pace(config)
        self._retries = Retries(self._call_off, self._tries_again, looks)
        self._said: dict[str, str] = {}  # by subject, so that only what changed is said
        self._since: dict[str, float] = {}  # troubles, and when they were seen first
        self._head, self._began = "", False
        self._annotated_at = 0.0
        self._succeeded_at: float | None = None

    def until_end(self) -> Outcome:
        """Follow the run until it has ended for good, or is held up by what will not pass.

        Raises:
            LostConnectionError: the API server has not answered for a quarter of an hour.
            ClusterError: it has refused to answer for a minute.
        """
        lost_at: float | None = None
        refused_at: float | None = None
        while True:
            try:
                ended = self.look()
                if lost_at is not None:
                    self._say(f"connected again after {duration(time.monotonic() - lost_at)}")
                    lost_at = None
                if ended:
                    return ended
                refused_at = None
            except LostConnectionError as error:
                lost_at, refused_at = lost_at or time.monotonic(), None
                self._not_seen("lost", error, lost_at + LOST_FOR_GOOD_S)
            except ClusterError as error:
                refused_at = refused_at or time.monotonic()
                lost_at = lost_at or refused_at
                self._not_seen("refused", error, refused_at + REFUSED_FOR_GOOD_S)
            time.sleep(LOOK_EVERY_S)

    def _not_seen(self, what: str, error: ClusterError, until: float) -> None:
        if time.monotonic() > until:
            raise error
        self._say_once(what, f"{error} The run goes on, and is asked for again.")

    def look(self) -> Outcome | None:
        """Look once, show what is new; how the run ended, if it has."""
        job = self._cluster.job(self._name)
        self._said.pop("lost", None)
        self._said.pop("refused", None)
        if job is None or job["metadata"]["uid"] != self._uid:
            return outcome.of(self._job, self._log.result) or outcome.stopped(self._job)
        self._job = job
        pods = self._pods()
        for line in self._log.read(self._cluster, [pod for pod in pods if _component(pod) == "submitter"]):
            self._show(line)
        self._annotate()
        now = outcome.of(job, self._log.result, "\n".join(self._log.last_lines))
        if now and now.code is ExitCode.OK:
            return self._with_result(now)
        if ended := self._retries.end(job, outcome.by_driver(job, self._log.result), now):
            return self._note(ended)
        self._say_state(pods)
        return None if now else self._held_up(pods)

    @property
    def result(self) -> dict[str, Any] | None:
        """The result that the driver printed, once it was seen."""
        return self._log.result

    def _pods(self) -> list[Object]:
        cluster = (self._job.get("status") or {}).get("rayClusterName")
        mine = [
            pod
            for pod in self._cluster.pods()
            if pod["metadata"]["labels"].get("ray.io/cluster") == (cluster or "?")
            or pod["metadata"]["labels"].get("batch.kubernetes.io/job-name") == self._name
        ]
        return [pod for pod in mine if "deletionTimestamp" not in pod["metadata"] or _component(pod) == "submitter"]

    def _show(self, line: dict[str, Any] | str) -> None:
        if isinstance(line, str):
            return  # `trainer logs` shows all; what matters of it comes again in the outcome
        if line["event"] == "metrics":
            self._began = True
            self._pace.add(line)
            self._display.point(line)
        elif line["event"] != "result":
            self._began = self._began or line["event"] == "training_started"
            self._display.event(line)

    def _annotate(self) -> None:
        if self._pace.point is None or time.monotonic() - self._annotated_at < ANNOTATE_EVERY_S:
            return
        self._annotated_at = time.monotonic()
        values = progress_notes(self._pace, self._config)
        now = self._job["metadata"].get("annotations", {})
        if any(now.get(key) != value for key, value in values.items()):
            self._write(values)

    def _write(self, values: dict[str, str]) -> None:
        self._change({"metadata": {"annotations": values}}, "progress is not written to the RayJob")

    def _call_off(self, changes: Object) -> None:
        self._change(changes, "KubeRay is not told to make no other cluster")

    def _change(self, changes: Object, otherwise: str) -> None:
        try:
            self._cluster.patch(self._name, changes)
        except LostConnectionError:
            raise
        except ClusterError as error:
            self._say_once(otherwise, f"warning: {otherwise}: {error}")

    def _with_result(self, ended: Outcome) -> Outcome | None:
        """The result is the driver's last line: a moment may pass until it is in the submitter's log."""
        self._succeeded_at = self._succeeded_at or time.monotonic()
        if ended.result is None and time.monotonic() - self._succeeded_at < RESULT_COMES_S:
            return None
        return self._note(ended)

    def _note(self, ended: Outcome) -> Outcome:
        if "deletionTimestamp" not in self._job["metadata"]:
            last = progress_notes(self._pace, self._config) if self._pace.point else {}
            self._write({**last, rayjob.RESULT: json.dumps(outcome.as_result(ended))})
        return ended

    def _tries_again(self, about: str, sentence: str) -> None:
        self._began = False
        self._log.result = None  # the next attempt may end without one
        self._say_once(about, sentence)

    def _say_state(self, pods: list[Object]) -> None:
        status = self._job.get("status") or {}
        state, cluster = status.get("jobDeploymentStatus", ""), status.get("rayClusterName", "")
        heads = [pod["metadata"]["name"] for pod in pods if _component(pod) == "head"]
        workers = sum(_component(pod) == "worker" and _is_ready(pod) for pod in pods)
        if heads and self._head and heads[0] != self._head:
            self._say(f"head {self._head} is gone; {heads[0]} takes its place, and the run continues from storage")
        self._head = heads[0] if heads else self._head
        words = {
            "": "waiting for the KubeRay operator",
            "Initializing": f"Ray cluster {cluster} is starting, {plural(workers, 'worker')} ready",
            "Running": f"submitted to Ray cluster {cluster}",
            "Retrying": f"Ray cluster {cluster} is being replaced",
            "Suspended": "suspended",
        }
        if status.get("jobStatus") == "RUNNING":
            words["Running"] = f"the driver runs on Ray cluster {cluster}"
        elif status.get("jobStatus") not in ("", None, "PENDING"):
            words.pop("Running")  # it has ended: of that more is known soon
        if state in words:
            self._say_once("state", words[state])

    def _held_up(self, pods: list[Object]) -> Outcome | None:
        """Say what has held up the run since the look before; what it lost once it trained, it waits for."""
        found, now = diagnose.troubles(self._sight(pods)), time.monotonic()
        self._since = {each.about: self._since.get(each.about, now) for each in found}
        for each in found:
            lasted = now - self._since[each.about]
            if lasted >= LOOK_EVERY_S:  # what is gone at the next look was none
                self._say_once(each.about, each.sentence)
            if not self._began and each.hopeless_after_s is not None and lasted >= each.hopeless_after_s:
                return self._given_up(each)
        return None

    def _sight(self, pods: list[Object]) -> Sight:
        cluster, now = self._cluster, self._cluster.now
        if self._began:  # what the pods say is enough, and asks no more of the API server
            return Sight(self._job, pods, now=now)
        waits = any(pod["status"].get("phase") == "Pending" for pod in pods)
        nodes = cluster.nodes() if waits else None
        standing = self._job["spec"].get("clusterSelector", {}).get("ray.io/cluster")
        if standing is None or (self._job.get("status") or {}).get("jobStatus") != "RUNNING":
            return Sight(self._job, pods, self._events(pods), nodes=nodes, now=now)
        mine = cluster.ray_cluster(standing)
        return Sight(self._job, pods, self._events(pods), mine, nodes, others(cluster.jobs(), self._job), now)

    def _given_up(self, trouble: diagnose.Trouble) -> Outcome:
        return Outcome(
            "held up", trouble.code, f"{trouble.sentence} The RayJob stays: `trainer stop {self._name}` ends it."
        )

    def _events(self, pods: list[Object]) -> list[Object]:
        cluster = (self._job.get("status") or {}).get("rayClusterName")
        names = {self._name, cluster, *(pod["metadata"]["name"] for pod in pods)}
        made = diagnose.seconds(self._job["metadata"]["creationTimestamp"])
        return [
            each
            for each in self._cluster.events()
            if each["involvedObject"].get("name") in names and diagnose.when(each) >= made
        ]

    def _say_once(self, about: str, message: str) -> None:
        if self._said.get(about) is None or (about == "state" and self._said[about] != message):
            self._said[about] = message
            self._say(message)

    def _say(self, message: str) -> None:
        self._display.event({"time": round(time.time(), 3), "event": "cluster", "message": message})


def others(jobs: list[Object], mine: Object) -> list[str]:
    """Names of the runs whose drivers are running on the same standing cluster."""
    return [
        each["metadata"]["name"]
        for each in jobs
        if each["spec"].get("clusterSelector") == mine["spec"]["clusterSelector"]
        and each["metadata"]["name"] != mine["metadata"]["name"]
        and (each.get("status") or {}).get("jobStatus") == "RUNNING"
    ]


def progress_notes(pace: Pace, config: Config) -> dict[str, str]:
    """Progress for ``kubectl get rayjob -o custom-columns``."""
    point = pace.point or {}
    values = {
        "epoch": f"{point['epoch']}/{config.epochs}",
        "step": f"{point['step']}/{config.total_steps}",
        "loss": number(point["train_loss"], ".4f"),
        "accuracy": number(pace.accuracy, ".2%"),
        "samples-per-second": number(point["samples_per_second"], ".0f"),
        "eta": duration(pace.seconds_left),
    }
    return {f"{rayjob.PREFIX}/{key}": value for key, value in values.items()}


def _component(pod: Object) -> str:
    return str(pod["metadata"]["labels"].get("app.kubernetes.io/component"))


def _is_ready(pod: Object) -> bool:
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", []))
