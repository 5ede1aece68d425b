"""The doctor: this machine, each node of a Ray cluster and a Kubernetes cluster, looked over before money is spent."""

from __future__ import annotations

import copy
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from trainer import resolve
from trainer.cluster import diagnose, rayjob, submit
from trainer.cluster.api import Cluster, Object
from trainer.cluster.follow import RESULT_COMES_S, Watch
from trainer.config import Config
from trainer.doctor import job_template, machine
from trainer.doctor.machine import Check, State, good
from trainer.errors import ExitCode, TrainerError

LOOK_S = 60.0  # for one node of a Ray cluster to answer
READY_S = 300  # for the pods of the doctor's own Ray cluster


def worst(found: list[Check]) -> ExitCode:
    """What the doctor exits with: the code of the first check that came out wrong."""
    return next((each.code for each in found if each.state is State.BAD), ExitCode.OK)


def on_nodes(runs: str, data: Path | None) -> list[Check]:
    """The checks of `checks.here` on every node of the Ray cluster at RAY_ADDRESS, each node's beside its group.

    Raises:
        ResourceError: no Ray cluster answers.
    """
    from trainer.driver import ray_cluster

    with ray_cluster.connected():
        import ray

        api: Any = ray
        return [each for node in api.nodes() if node["Alive"] for each in _on_node(api, node, runs, data)]


def _on_node(ray: Any, node: dict[str, Any], runs: str, data: Path | None) -> list[Check]:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    labels = node.get("Labels", {})
    where = "head" if "node:__internal_head__" in node["Resources"] else labels.get("ray.io/node-group", "worker")
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    look = ray.remote(num_cpus=0, num_gpus=min(1, node["Resources"].get("GPU", 0)), scheduling_strategy=there)(_look)
    asked = time.time()
    try:
        then, found = ray.get(look.remote(where, runs, data), timeout=LOOK_S)
    except Exception as error:  # noqa: BLE001 # whatever it is, it is this node's line in the table
        words = str(error).strip().splitlines()
        return [Check(where, "Ray", State.BAD, words[-1] if words else repr(error), "read its log", ExitCode.RESOURCES)]
    ahead = then - time.time() if then > time.time() else min(0.0, then - asked)
    version = good(where, "Ray", "answers") if where != "head" else good(where, "Ray", f"{len(ray.nodes())} nodes")
    return [version, machine.clock(where, ahead, "the head"), *map(Check.from_dict, found)]


def _look(where: str, runs: str, data: Path | None) -> tuple[float, list[dict[str, Any]]]:
    then = time.time()
    found = [*machine.here(where, runs, data), *(api_server(where) if where == "head" else ())]
    return then, [each.as_dict() for each in found]


def api_server(where: str) -> Iterator[Check]:
    """Whether the autoscaler's way to the API server is open; only the head needs it."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if host is None:
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
        yield good(where, "API server", f"{host}:{port} can be reached")
    except OSError as error:
        fix = "let the head through to it: network.apiServer in the values of helm/training"
        yield Check(where, "API server", State.BAD, f"{host}:{port}: {error.strerror or error}", fix, ExitCode.CLUSTER)


def of_cluster(cluster: Cluster, say: Callable[[str], None]) -> Iterator[Check]:
    """What can be known of a Kubernetes cluster from here, and then from a pod of each group.

    Raises:
        LostConnectionError: the API server does not answer.
    """
    lacking = submit.lacking_rights(cluster)
    yield good("cluster", "API server", f"{cluster.context} answers, namespace {cluster.namespace}")
    yield machine.clock("cluster", cluster.ahead, "this machine's")
    if lacking:
        fix = "have yourself added to access.subjects in the values of helm/training"
        yield Check("cluster", "rights", State.BAD, f"you may not {', '.join(lacking)}", fix, ExitCode.CLUSTER)
    else:
        yield good("cluster", "rights", "all that submit needs")
    try:
        release, templates = cluster.template()
        config = resolve.load(resolve.DEFAULT_RECIPE, base=cluster.settings(release))
    except TrainerError as error:
        yield _refused("chart", error)
        return
    yield good("cluster", "chart", f"release {release}")
    linted = list(_of_templates(cluster, templates, config))
    yield from linted
    if lacking or worst(linted):
        yield Check("pods", "start", State.WARNING, "not looked into", "correct what is wrong above first")
    else:
        yield from _of_pods(cluster, yaml.safe_load(templates[rayjob.TEMPLATES["own"]]), say)


def _refused(what: str, error: TrainerError, where: str = "cluster") -> Check:
    found, _, fix = str(error).removesuffix(".").rpartition("; ")
    return Check(where, what, State.BAD, found or fix, fix if found else "", error.exit_code)


def _of_templates(cluster: Cluster, templates: dict[str, str], config: Config) -> Iterator[Check]:
    for key, text in templates.items():
        job = yaml.safe_load(text)
        for each in job_template.lint(job):
            yield Check(f"{each.where} {key}", each.what, each.state, each.found, each.fix, each.code)
        try:
            kind = next(kind for kind, name in rayjob.TEMPLATES.items() if name == key)
            rayjob.filled(rayjob.manifest(templates, kind, "doctor", resolve.DEFAULT_RECIPE, config), config)
            job["metadata"]["name"] = f"doctor-{secrets.token_hex(2)}"
            cluster.create(job, dry_run=True)
            yield good(f"job template {key}", "admission", "KubeRay's definition and the cluster take it")
        except TrainerError as error:
            yield _refused("admission", error, f"job template {key}")


class _Collected:
    """A display that takes the checks out of a driver's log."""

    def __init__(self, say: Callable[[str], None]):
        self._say = say
        self.found: list[Check] = []

    def event(self, event: dict[str, Any]) -> None:
        """Keep a check; say what the follower says."""
        if event["event"] == "check":
            self.found.append(Check.from_dict({key: event[key] for key in event if key not in ("event", "time")}))
        elif event["event"] == "cluster":
            self._say(event["message"])

    def point(self, point: dict[str, Any]) -> None:
        """The doctor trains nothing."""

    def close(self) -> None:
        """Nothing is open."""


def _of_pods(cluster: Cluster, template: Object, say: Callable[[str], None]) -> Iterator[Check]:
    job, left_out = as_visit(template, cluster.nodes())
    yield from left_out
    say(f"a Ray cluster with a pod of each group is made, as RayJob {job['metadata']['name']}")
    made = cluster.create(job)
    display = _Collected(say)
    watch = Watch(cluster, made, Config(), display)
    try:
        ended = watch.until_end()
        until = time.monotonic() + RESULT_COMES_S
        while ended.status != "held up" and watch.result is None and time.monotonic() < until:
            time.sleep(1.0)  # a failed job is known before the end of its log is
            watch.look()
    finally:
        submit.remove(cluster, made)
    yield from display.found
    if not display.found:
        found, _, fix = ended.sentence.partition("; ")
        yield Check(
            "pods", "start", State.BAD, found, fix or "read its log: trainer logs", ended.code or ExitCode.CLUSTER
        )


def as_visit(template: Object, nodes: list[Object] | None) -> tuple[Object, list[Check]]:
    """The RayJob by which the doctor looks into a pod of each group; a line for each group that no node could hold.

    `nodes` is None where the user may not see them: groups with devices are then left out.
    """
    job = copy.deepcopy(template)
    job["metadata"]["name"] = f"doctor-{secrets.token_hex(2)}"
    job["metadata"]["labels"]["app.kubernetes.io/component"] = "doctor"
    job["spec"] |= {
        "entrypoint": "python -m trainer doctor --nodes --json",
        "backoffLimit": 0,
        "ttlSecondsAfterFinished": 0,
        "preRunningDeadlineSeconds": READY_S,
    }
    left_out = []
    for group in job["spec"]["rayClusterSpec"].get("workerGroupSpecs", []):
        limits = group["template"]["spec"]["containers"][0].get("resources", {}).get("limits", {})
        device = next((key for key in limits if "/" in key), None)
        there = device is None or bool(diagnose.nodes_with(device, nodes))
        group["replicas"] = max(group.get("minReplicas", 0), int(there))
        if not there:
            found = f"not looked into: no node is known to have {device} now"
            left_out.append(Check(group["groupName"], "pod", State.WARNING, found, "ask again when there is one"))
    return job, left_out
