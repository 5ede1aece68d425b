"""What a run waits for until its workers start, in a line: Ray itself says nothing.

A cluster that can grow, or whose nodes Kubernetes makes, is waited for without end. Elsewhere a node must be added by
hand: the run waits a minute for it, and ends.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trainer.driver import interrupts, ray_cluster
from trainer.errors import ResourceError
from trainer.storage.record import Record

POLL_S = 0.5
QUIET_S = 8.0  # a start takes less, nearly always
AGAIN_S = 60.0  # as long as nothing changes
NODES_JOIN_WITHIN_S = 60.0  # where neither an autoscaler nor Kubernetes adds them
STARTED, FAILED = "training_started", "worker_failed"


@dataclass(frozen=True)
class Needs:
    """What the workers of a run need: the fewest that it starts with, and CPU cores and GPUs of each."""

    workers: int
    cpus: int
    gpus: int

    def __str__(self) -> str:
        each = f"{self.cpus} CPU" + (f" and {self.gpus} GPU" if self.gpus else "")
        return f"{self.workers} workers need {each} each" if self.workers > 1 else f"one worker needs {each}"

    def room_on(self, resources: Mapping[str, float]) -> int:
        """Return how many workers fit on one node."""
        of_cpus = int(resources.get("CPU", 0) // self.cpus) if self.cpus else self.workers
        return min(of_cpus, int(resources.get("GPU", 0) // self.gpus)) if self.gpus else of_cpus


@dataclass(frozen=True)
class Cluster:
    """The nodes of a Ray cluster that are alive, by what they have in all, and whether more may come by themselves.

    `placed` says whether the workers of this run have a place already.
    """

    nodes: tuple[Mapping[str, float], ...]
    free: Mapping[str, float]
    grows: bool
    placed: bool = False

    def __str__(self) -> str:
        nodes = f"{len(self.nodes)} node" + ("" if len(self.nodes) == 1 else "s")
        return f"{nodes} with {self._sum('CPU')} CPU and {self._sum('GPU')} GPU"

    def _sum(self, resource: str) -> str:
        return f"{sum(node.get(resource, 0) for node in self.nodes):g}"


def blocked(needs: Needs, cluster: Cluster | None) -> str | None:
    """Return why the workers have no place, as a sentence without a full stop; None if there is room for them.

    `cluster` is None until Ray is connected.
    """
    if cluster is None and ray_cluster.is_own():
        return "pending: Ray is starting on this machine"
    if cluster is None:
        return f"pending: the Ray cluster at {ray_cluster.address()} has not answered yet"
    if cluster.placed:
        return None
    room = sum(needs.room_on(node) for node in cluster.nodes)
    if room < needs.workers:
        more = "waiting for more nodes" if cluster.grows else "no autoscaler adds nodes"
        return f"pending: {needs}; the Ray cluster has room for {room} ({cluster}); {more}"
    if needs.room_on(cluster.free) < needs.workers:
        free = f"{cluster.free.get('CPU', 0):g} CPU and {cluster.free.get('GPU', 0):g} GPU are free"
        return f"pending: {needs}; other work uses the Ray cluster ({free} of {cluster})"
    return None


class Watch:
    """A thread that writes into the record what a run waits for; it gives up where that can never come."""

    def __init__(self, record: Record, needs: Needs):
        self._record, self._needs = record, needs
        self._events_before = len(record.events())
        self._said, self._said_at = "", 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch-start", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(1.0)  # Ray may not answer any more

    def _watch(self) -> None:
        waits_since: float | None = time.monotonic()
        blocked_since: float | None = None
        while not self._over.wait(POLL_S):
            now = time.monotonic()
            if not self._waits():
                waits_since = blocked_since = None
                continue
            waits_since = waits_since or now
            if now - waits_since < QUIET_S:
                continue
            try:
                cluster = see()
            except Exception:  # noqa: BLE001, S112 # Ray does not answer at the moment: that is the main thread's affair
                continue
            reason = blocked(self._needs, cluster)
            blocked_since = (blocked_since or waits_since) if reason else None
            if reason is None or blocked_since is None:
                continue
            if error := self._hopeless(cluster, reason, now - blocked_since):
                interrupts.give_up(error)
                return
            self._say(reason, now)

    def _say(self, reason: str, now: float) -> None:
        if reason != self._said or now - self._said_at > AGAIN_S:
            self._said, self._said_at = reason, now
            self._record.add_event({"event": "pending", "message": reason})

    def _waits(self) -> bool:
        """Whether no group of workers is ready: none was yet, or the last one has failed."""
        kinds = [event["event"] for event in self._record.events()[self._events_before :]]
        return next((kind for kind in reversed(kinds) if kind in (STARTED, FAILED)), FAILED) == FAILED

    def _hopeless(self, cluster: Cluster | None, reason: str, waited_s: float) -> ResourceError | None:
        """The error to end with, if waiting longer is of no use."""
        if cluster is None or cluster.grows or sum(map(self._needs.room_on, cluster.nodes)) >= self._needs.workers:
            return None
        if not ray_cluster.is_own() and waited_s < NODES_JOIN_WITHIN_S:
            return None
        return ResourceError(
            f"workers: {reason.removeprefix('pending: ')}",
            "use fewer --workers or --cpus-per-worker, add nodes, or unset RAY_ADDRESS",
        )


def see() -> Cluster | None:
    """Return the Ray cluster that this process is connected to; None before it is."""
    ray: Any = sys.modules.get("ray")  # the main thread imports it; before it has, there is nothing to see
    if not getattr(ray, "is_initialized", bool)():
        return None
    nodes = [node for node in ray.nodes() if node["Alive"]]
    grows = "KUBERNETES_SERVICE_HOST" in os.environ or (not ray_cluster.is_own() and _has_autoscaler(nodes))
    job = ray.get_runtime_context().get_job_id()  # the end of the IDs of all that it has
    groups: dict[str, Any] = ray.util.placement_group_table()
    placed = any(group.endswith(job) and found["state"] == "CREATED" for group, found in groups.items())
    return Cluster(tuple(node["Resources"] for node in nodes), ray.available_resources(), grows, placed)


def _has_autoscaler(nodes: Iterable[Mapping[str, Any]]) -> bool:
    """Whether an autoscaler manages the nodes: it gives them types; a cluster started by hand names each by its ID."""
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status

    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    ids = {node["NodeID"] for node in nodes}
    managed = [*status.active_nodes, *status.idle_nodes, *status.pending_nodes, *status.pending_launches]
    return any(getattr(node, "node_id", None) not in ids or not _is_named_by_id(node) for node in managed)


def _is_named_by_id(node: Any) -> bool:
    return str(node.ray_node_type_name) == f"node_{node.node_id}"
