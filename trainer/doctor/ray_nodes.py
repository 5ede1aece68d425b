"""The checks of a machine, run on every node of a Ray cluster."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.doctor import machine
from trainer.doctor.check import Check, State, good
from trainer.errors import ExitCode, one_line

NODE_ANSWERS_S = 60.0


def checks(runs: str, data: Path | None) -> list[Check]:
    """Run `machine.checks` on every node of the Ray cluster at RAY_ADDRESS; a node is named after its worker group.

    Raises:
        ResourceError: no Ray cluster answers.
    """
    from trainer.driver import ray_cluster

    with ray_cluster.connected():
        import ray

        api: Any = ray
        alive = [node for node in api.nodes() if node["Alive"]]
        return [check for node in alive for check in _checks_of_node(api, node, len(alive), runs, data)]


def _checks_of_node(ray: Any, node: dict[str, Any], nodes: int, runs: str, data: Path | None) -> list[Check]:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    where = name_of(node)
    gpus = min(1, node["Resources"].get("GPU", 0))
    on_node = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    task = ray.remote(num_cpus=0, num_gpus=gpus, scheduling_strategy=on_node)(check_here)
    asked_at = time.time()
    try:
        clock, found = ray.get(task.remote(where, runs, data), timeout=NODE_ANSWERS_S)
    except Exception as error:  # noqa: BLE001 # whatever it is, it is this node's line in the table
        return [Check(where, "Ray", State.BAD, one_line(error), "read the node's log", ExitCode.RESOURCES)]
    answers = good(where, "Ray", f"{nodes} nodes" if where == "head" else "answers")
    ahead_s = clock_ahead_s(clock, asked_at, time.time())
    return [answers, machine.check_clock(where, ahead_s, "the head"), *map(Check.from_dict, found)]


def name_of(node: dict[str, Any]) -> str:
    """Return `head`, or the name of a Ray node's worker group."""
    if "node:__internal_head__" in node["Resources"]:
        return "head"
    return str((node.get("Labels") or {}).get("ray.io/node-group", "worker"))


def clock_ahead_s(clock: float, asked_at: float, answered_at: float) -> float:
    """Return by how much a clock is certainly ahead (or, negative, behind) that was read between two times of ours."""
    if clock > answered_at:
        return clock - answered_at
    return min(0.0, clock - asked_at)


def check_here(where: str, runs: str, data: Path | None) -> tuple[float, list[dict[str, Any]]]:
    """Return this node's clock, and its checks as plain data: it runs as a Ray task."""
    clock = time.time()
    found = [*machine.checks(where, runs, data), *(check_api_server(where) if where == "head" else ())]
    return clock, [check.as_dict() for check in found]


def check_api_server(where: str) -> Iterator[Check]:
    """Check that the autoscaler can reach the API server; only the head needs it."""
    host = os.environ.get("KUBERNETES_SERVICE_HOST")
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if host is None:
        return
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"  # of IPv6
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
        yield good(where, "API server", f"{place} is reachable")
    except OSError as error:
        fix = "allow the head to reach it: network.apiServer in the values of helm/training"
        yield Check(where, "API server", State.BAD, f"{place}: {error.strerror or error}", fix, ExitCode.CLUSTER)
