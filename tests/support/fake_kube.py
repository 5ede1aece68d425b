"""A stand-in for `KubeClient` with its objects in memory, and RayJobs and pods as `kubectl get -o json` has them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from trainer.cluster.api import AlreadyExistsError
from trainer.cluster.driver_log import SUBMITTER

MADE = "2026-11-24T15:00:00Z"
NOW = 1_795_532_410.0  # ten seconds later
RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "rayClusterName": "r1-x"}
COMPLETE = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED", "rayClusterName": "r1-x"}
RESULT = {"event": "result", "status": "finished", "exit_code": 0, "test_accuracy": 0.9, "test_loss": 0.3}
RAYJOB = (Path(__file__).parents[2] / "k8s" / "rayjob.yaml").read_text()  # what the chart makes on kind


def rayjob(name: str = "r1", annotations: dict[str, str] | None = None, spec: Any = None, **status: Any) -> Any:
    """A RayJob; `deleted` puts a time of deletion on it, and `uid` sets its UID."""
    metadata = {"name": name, "namespace": "training", "uid": status.pop("uid", "1"), "creationTimestamp": MADE}
    if status.pop("deleted", False):
        metadata["deletionTimestamp"] = MADE
    metadata["annotations"] = dict(annotations or {})
    return {"metadata": metadata, "spec": {"backoffLimit": 2, **(spec or {})}, "status": copy.deepcopy(status)}


def pod(name: str, component: str, run: str | None = None, cluster: str | None = "r1-x", **status: Any) -> Any:
    """A pod of a run."""
    labels = {"app.kubernetes.io/component": component}
    if cluster:
        labels["ray.io/cluster"] = cluster
    if run:
        labels["batch.kubernetes.io/job-name"] = run
    metadata = {"name": name, "labels": labels, "creationTimestamp": MADE}
    return {"metadata": metadata, "spec": {"containers": [{"name": "ray-head", "image": "nope"}]}, "status": status}


def submitter(run: str = "r1", name: str = "r1-abc") -> Any:
    """The pod whose log is the driver's output."""
    return pod(name, "submitter", run, cluster=None, phase="Running")


def line(content: Any, at: str = "15:00:05") -> str:
    """A line of a pod's log: an event, or text."""
    return f"2026-11-24T{at}Z {content if isinstance(content, str) else json.dumps(content)}\n"


class FakeKube:
    """A namespace in memory."""

    context = "kind"
    namespace = "training"
    clock_ahead_s = 0.0

    def __init__(self, *jobs: Any, log: str = "", pods: Any = None) -> None:
        self.now = NOW
        self.jobs = {job["metadata"]["name"]: job for job in jobs}
        self.logs: dict[str, str] = {"r1-abc": log}
        self.pod_list = [submitter()] if pods is None else list(pods)
        self.event_list: list[Any] = []
        self.node_list: list[Any] | None = None
        self.clusters: dict[str, Any] = {}
        self.forbidden: set[tuple[str, str]] = set()  # verb and resource
        self.templates = {"rayjob.yaml": RAYJOB}
        self.train_yaml = "workers: 2\ncpus_per_worker: 1\n"
        self.patches: list[Any] = []
        self.created: list[Any] = []
        self.deleted: list[str] = []

    def find_namespace(self) -> str:
        return ""

    def job_templates(self) -> tuple[str, dict[str, str]]:
        return "training", self.templates

    def train_settings(self, release: str) -> str:
        return self.train_yaml

    def rayjob(self, name: str) -> Any:
        return copy.deepcopy(self.jobs.get(name))

    def rayjobs(self) -> list[Any]:
        return copy.deepcopy(list(self.jobs.values()))

    def raycluster(self, name: str) -> Any:
        return self.clusters.get(name)

    def create_rayjob(self, job: Any, dry_run: bool = False) -> Any:
        name = job["metadata"]["name"]
        if name in self.jobs:
            raise AlreadyExistsError(f"rayjobs {name} already exists")
        made = copy.deepcopy(job)
        made["metadata"] |= {"uid": f"made-{len(self.created)}", "creationTimestamp": MADE, "namespace": "training"}
        if not dry_run:
            self.jobs[name] = made
            self.created.append(made)
        return made

    def patch_rayjob(self, name: str, changes: Any) -> None:
        self.patches.append(changes)
        if name in self.jobs:
            annotations = changes.get("metadata", {}).get("annotations", {})
            self.jobs[name]["metadata"].setdefault("annotations", {}).update(annotations)
            self.jobs[name]["spec"].update(changes.get("spec", {}))

    def annotate_rayjob(self, name: str, annotations: dict[str, str]) -> None:
        self.patch_rayjob(name, {"metadata": {"annotations": annotations}})

    def delete_rayjob(self, job: Any) -> bool:
        self.deleted.append(job["metadata"]["uid"])
        self.pod_list = []
        return self.jobs.pop(job["metadata"]["name"], None) is not None

    def pods(self) -> list[Any]:
        return self.pod_list

    def events(self) -> list[Any]:
        return self.event_list

    def nodes(self) -> list[Any] | None:
        return self.node_list

    def pod_log(self, pod: str, container: str, since_s: int | None = None) -> str:
        assert container == SUBMITTER
        return self.logs.get(pod, "")

    def is_allowed(self, verb: str, group: str, resource: str) -> bool:
        return (verb, resource) not in self.forbidden


class Shown:
    """A display that keeps what it is to show."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.points: list[Any] = []

    def event(self, event: Any) -> None:
        self.events.append(event)

    def point(self, point: Any) -> None:
        self.points.append(point)

    def close(self) -> None:
        pass

    @property
    def messages(self) -> list[str]:
        """What the follower said of the cluster."""
        return [event["message"] for event in self.events if event["event"] == "cluster"]
