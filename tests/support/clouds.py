"""Node pools of each cloud, as docs/clouds has them made: with their nodes, and as an autoscaler imagines them empty.

No cloud was asked: labels, taints and sizes are those of the clouds' documentation (docs/decisions/0011). The model of
a scheduler below knows what our pods use: node selectors, taints and resources.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

LABEL = "trainer/pool"
SYSTEM, GPU, SPOT = "system", "gpu", "gpu-spot"


@dataclass(frozen=True)
class Pool:
    """A kind of node. `imagined`: what is known of it while it has none."""

    kind: str
    labels: dict[str, str]
    taints: tuple[tuple[str, str], ...]  # key and value, all NoSchedule
    allocatable: dict[str, float]  # cores, GiB, devices
    imagined: bool = False

    def __str__(self) -> str:
        """Short, for the names of tests."""
        return f"{self.kind}{'-empty' if self.imagined else ''}"


def pools(cloud: str) -> list[Pool]:
    """Return the pools of a cloud."""
    made = {"gke": _gke, "eks": _eks, "aks": _aks}[cloud]()
    # an autoscaler knows our label and the taints, which the commands give it, and not what nodes get when they start
    empty = [
        Pool(pool.kind, {LABEL: pool.kind}, pool.taints, pool.allocatable, imagined=True)
        for pool in made
        if pool.kind != SYSTEM
    ]
    return made + empty


def _gke() -> list[Pool]:
    gpu = {"cloud.google.com/gke-accelerator": "nvidia-l4", "node.kubernetes.io/instance-type": "g2-standard-8"}
    taint = ("nvidia.com/gpu", "present")  # GKE's own, on every pool with GPUs
    return [
        Pool(SYSTEM, {LABEL: SYSTEM}, (), {"cpu": 3.92, "memory": 13}),
        Pool(GPU, {LABEL: GPU, **gpu}, (taint,), {"cpu": 7.9, "memory": 28, "nvidia.com/gpu": 1}),
        Pool(
            SPOT,
            {LABEL: SPOT, **gpu, "cloud.google.com/gke-spot": "true"},
            (taint, ("cloud.google.com/gke-spot", "true")),
            {"cpu": 7.9, "memory": 28, "nvidia.com/gpu": 1},
        ),
    ]


def _eks() -> list[Pool]:
    on_demand, spot = ({"eks.amazonaws.com/capacityType": kind} for kind in ("ON_DEMAND", "SPOT"))
    gpu = {"k8s.amazonaws.com/accelerator": "nvidia"}  # the autoscaler waits for the GPU of such a node
    taint = ("nvidia.com/gpu", "present")
    return [
        Pool(SYSTEM, {LABEL: SYSTEM, **on_demand}, (), {"cpu": 3.92, "memory": 14.5}),
        Pool(GPU, {LABEL: GPU, **gpu, **on_demand}, (taint,), {"cpu": 7.9, "memory": 30, "nvidia.com/gpu": 1}),
        Pool(SPOT, {LABEL: SPOT, **gpu, **spot}, (taint,), {"cpu": 7.9, "memory": 30, "nvidia.com/gpu": 1}),
    ]


def _aks() -> list[Pool]:
    accelerator = {"kubernetes.azure.com/accelerator": "nvidia"}
    taint = ("nvidia.com/gpu", "present")
    spot = ("kubernetes.azure.com/scalesetpriority", "spot")  # AKS' own, on every spot pool
    return [
        Pool(SYSTEM, {LABEL: SYSTEM, "kubernetes.azure.com/mode": "system"}, (), {"cpu": 3.86, "memory": 12}),
        Pool(GPU, {LABEL: GPU, **accelerator}, (taint,), {"cpu": 7.8, "memory": 50, "nvidia.com/gpu": 1}),
        Pool(
            SPOT,
            {LABEL: SPOT, **accelerator, spot[0]: spot[1]},
            (taint, spot),
            {"cpu": 7.8, "memory": 50, "nvidia.com/gpu": 1},
        ),
    ]


def node(cloud: str, pool: Pool, number: int) -> dict[str, Any]:
    """Return a Node of a pool, for kwok."""
    name = f"{cloud}-{pool.kind}-{number}"
    sizes = {key: f"{value}Gi" if key == "memory" else str(value) for key, value in pool.allocatable.items()}
    sizes |= {"pods": "110", "ephemeral-storage": "100Gi"}
    taints = [{"key": key, "value": value, "effect": "NoSchedule"} for key, value in pool.taints]
    labels = {**pool.labels, "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "type": "kwok"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": {"kwok.x-k8s.io/node": "fake"}},
        "spec": {"taints": taints},
        "status": {"allocatable": sizes, "capacity": sizes},
    }


# ---- the scheduler ---------------------------------------------------------------------------------------------------


@dataclass
class Needs:
    """What a pod asks of a node."""

    selector: dict[str, str]
    tolerations: list[dict[str, Any]]
    requests: dict[str, float] = field(default_factory=dict)


def needs_of(pod: dict[str, Any]) -> Needs:
    """Return what a pod's spec asks for; our values use no `affinity`."""
    assert "affinity" not in pod
    needs = Needs(pod.get("nodeSelector") or {}, pod.get("tolerations") or [])
    for container in pod["containers"]:
        for resource, amount in container["resources"]["requests"].items():
            needs.requests[resource] = needs.requests.get(resource, 0) + quantity(amount)
    return needs


def quantity(amount: Any) -> float:
    """Return cores or devices as a number, memory in GiB."""
    text = str(amount)
    for unit, factor in (("Gi", 1.0), ("Mi", 1 / 1024), ("m", 1 / 1000)):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    return float(text)


def fits(needs: Needs, pool: Pool) -> bool:
    """Return whether a node of a pool, otherwise empty, takes a pod."""
    return (
        all(pool.labels.get(key) == value for key, value in needs.selector.items())
        and all(tolerated(needs.tolerations, key, value) for key, value in pool.taints)
        and all(pool.allocatable.get(resource, 0) >= amount for resource, amount in needs.requests.items())
    )


def tolerated(tolerations: list[dict[str, Any]], key: str, value: str, effect: str = "NoSchedule") -> bool:
    """Return whether a pod tolerates a taint."""
    return any(
        each.get("key") in (None, key)
        and (each.get("operator") == "Exists" or each.get("value") == value)
        and each.get("effect") in (None, effect)
        for each in tolerations
    )
