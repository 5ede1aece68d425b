"""A run that is not training yet: finds out what it waits for, says so, and gives up on what will not go away."""

from __future__ import annotations

import time
from collections.abc import Callable

from trainer.cluster import diagnose
from trainer.cluster.api import KubeClient, KubeObject, kubectl
from trainer.cluster.diagnose import Problem, Snapshot
from trainer.cluster.outcome import Outcome
from trainer.errors import sentence

CONFIRMED_AFTER_S = 2.0  # a problem that is gone at the next poll was none


class Waiting:
    """Follows the problems of one run; `announce` tells people of each once. A `passive` one never gives up."""

    def __init__(self, kube: KubeClient, announce: Callable[[str, str], None], passive: bool):
        self._kube = kube
        self._announce = announce
        self._passive = passive
        self._first_seen: dict[str, float] = {}  # by what a problem is about

    def check(self, job: KubeObject, pods: list[KubeObject], training: bool) -> Outcome | None:
        """Announce the problems that have lasted; return an outcome for one that will not go away.

        Once the run is `training`, what it loses is announced, and waited for: KubeRay and Ray replace it.
        """
        problems = diagnose.problems(self._snapshot(job, pods, training))
        now = time.monotonic()
        self._first_seen = {problem.about: self._first_seen.get(problem.about, now) for problem in problems}
        for problem in problems:
            lasted_s = now - self._first_seen[problem.about]
            if lasted_s >= CONFIRMED_AFTER_S:
                self._announce(problem.about, sentence(problem.problem, problem.fix))
            if not training and not self._passive and has_lasted_too_long(problem, lasted_s):
                return Outcome("pending", problem.exit_code, problem.problem, problem.fix)
        return None

    def _snapshot(self, job: KubeObject, pods: list[KubeObject], training: bool) -> Snapshot:
        if training:  # the pods say enough, and the API server is asked for nothing more
            return Snapshot(job, pods, now=self._kube.now, kubectl=kubectl(self._kube))
        pending = any(pod["status"].get("phase") == "Pending" for pod in pods)
        nodes = self._kube.nodes() if pending else None
        events = self._events(job, pods)
        standing = (job["spec"].get("clusterSelector") or {}).get("ray.io/cluster")
        driver_runs = (job.get("status") or {}).get("jobStatus") == "RUNNING"
        cluster = self._kube.raycluster(standing) if standing and driver_runs else None
        other_runs = others_on_cluster(self._kube.rayjobs(), job) if cluster else []
        return Snapshot(job, pods, events, cluster, nodes, other_runs, self._kube.now, kubectl(self._kube))

    def _events(self, job: KubeObject, pods: list[KubeObject]) -> list[KubeObject]:
        cluster = (job.get("status") or {}).get("rayClusterName")
        names = {job["metadata"]["name"], cluster, *(pod["metadata"]["name"] for pod in pods)}
        created = diagnose.timestamp(job["metadata"]["creationTimestamp"])
        return [
            event
            for event in self._kube.events()
            if event["involvedObject"].get("name") in names and diagnose.seen_at(event) >= created
        ]


def has_lasted_too_long(problem: Problem, lasted_s: float) -> bool:
    """Return whether a follower gives up on a problem that has lasted so long."""
    return problem.give_up_after_s is not None and lasted_s >= problem.give_up_after_s


def others_on_cluster(jobs: list[KubeObject], job: KubeObject) -> list[str]:
    """Return the names of the other runs whose drivers are running on the same standing cluster."""
    return [
        other["metadata"]["name"]
        for other in jobs
        if other["spec"].get("clusterSelector") == job["spec"]["clusterSelector"]
        and other["metadata"]["name"] != job["metadata"]["name"]
        and (other.get("status") or {}).get("jobStatus") == "RUNNING"
    ]
