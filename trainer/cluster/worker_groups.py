"""Which worker group of a Ray cluster can hold a run's workers, and with how many pods. Pure functions."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

from trainer.cluster.api import KubeObject
from trainer.config import Config
from trainer.errors import ResourceError


def fit_workers(cluster: KubeObject, config: Config) -> None:
    """Let a RayCluster's spec start with the pods that a config's workers need, and no others.

    Raises:
        ResourceError: no worker group can hold them.
    """
    groups = cluster.get("workerGroupSpecs", [])
    chosen = group_for(groups, config)
    for group in groups:
        group["replicas"] = group.get("minReplicas", 0)
    chosen["replicas"] = max(chosen["replicas"], pods_for(chosen, config, config.worker_range[0]))


def group_for(groups: list[KubeObject], config: Config) -> KubeObject:
    """Return the first worker group with room for all of a config's workers.

    Raises:
        ResourceError: there is none.
    """
    fewest = config.worker_range[0]
    kind = "with GPUs" if config.gpu else "without GPUs"
    suitable = [group for group in groups if bool(gpus_of(group)) == config.gpu and workers_per_pod(group, config)]
    for group in suitable:
        if pods_for(group, config, fewest) <= max_pods(group):
            return group
    if not suitable:
        needed = f"{config.cpus_per_worker or 1} CPU cores" + (" and a GPU" if config.gpu else "")
        raise ResourceError(
            f"workers: no worker group {kind} has pods with {needed} ({_described(groups)})",
            "ask for less, or add a group to workerGroups in the values of helm/training",
        )
    most = max(max_pods(group) * workers_per_pod(group, config) for group in suitable)
    raise ResourceError(
        f"workers: {config.workers} do not fit into any worker group {kind} ({_described(suitable)})",
        f"use --workers {most}, or raise maxReplicas in the values of helm/training",
    )


def _described(groups: list[KubeObject]) -> str:
    parts = []
    for group in groups:
        gpus = f" and {gpus_of(group)} GPUs" if gpus_of(group) else ""
        parts.append(f"{group['groupName']}: at most {group['maxReplicas']} pods of {cpus_of(group)} cores{gpus}")
    return "; ".join(parts) or "the chart has none"


def max_pods(group: KubeObject) -> int:
    """Return how many pods a worker group can have."""
    return int(group["maxReplicas"]) * int(group.get("numOfHosts", 1))


def pods_for(group: KubeObject, config: Config, workers: int) -> int:
    """Return how many pods of a group hold so many workers."""
    return math.ceil(workers / workers_per_pod(group, config))


def workers_per_pod(group: KubeObject, config: Config) -> int:
    """Return how many workers fit into one pod of a group, as Ray counts."""
    by_cpu = cpus_of(group) // (config.cpus_per_worker or 1)
    return min(by_cpu, gpus_of(group)) if config.gpu else by_cpu


def cpus_of(group: KubeObject) -> int:
    """Return the cores that a pod of the group offers to Ray: its limit, rounded up."""
    return math.ceil(_quantity(_resources(group).get("cpu", 0)))


def gpus_of(group: KubeObject) -> int:
    """Return the GPUs of a pod of the group."""
    return int(_quantity(group.get("resources", {}).get("GPU", 0)))


def _resources(group: KubeObject) -> KubeObject:
    resources = group["template"]["spec"]["containers"][0].get("resources", {})
    return {**resources.get("requests", {}), **resources.get("limits", {})}


def _quantity(text: Any) -> Decimal:
    from kubernetes.utils import parse_quantity

    number: Decimal = parse_quantity(str(text))
    return number
