"""Which nodes a run has, how busy they are, and what they cost: a thread in the driver writes it into the record.

On a cluster Ray's list of nodes is read, and each node's own metrics endpoint; on one machine the machine itself. Pods
have no token of Kubernetes, so nothing else can be asked.
"""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psutil

from trainer.driver import ray_cluster
from trainer.storage.record import Record
from trainer.storage.schema import Node, Usage

LOOK_EVERY_S = 5.0  # at the list of nodes
MEASURE_EVERY_S = 15.0  # each node; Prometheus' usual interval
ANSWERS_S = 3.0
AT_ONCE = 16
THIS_MACHINE = "this machine"
HEAD_MARK = "node:__internal_head__"  # a resource that only the head has
NODE_GROUP, MARKET_TYPE = "ray.io/node-group", "ray.io/market-type"  # Ray's own labels


class Watch:
    """Writes nodes and their use to a record while it lasts; `looked` is called after each look at the nodes."""

    def __init__(self, record: Record, looked: Callable[[], None] = lambda: None):
        self._record = record
        self._looked = looked
        self._known: dict[str, Node] = {}
        self._network: dict[str, tuple[float, int, int]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch-nodes", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(ANSWERS_S)  # Ray may not answer any more

    def _watch(self) -> None:
        measured_at = -MEASURE_EVERY_S
        while True:
            with suppress(Exception):  # Ray is being shut down, or a disk is full: the run is not this thread's to end
                nodes = [] if ray_cluster.is_own() else _ray_nodes()
                self._note(nodes)
                if time.monotonic() - measured_at >= MEASURE_EVERY_S:
                    measured_at = time.monotonic()
                    for usage in self._measure(nodes):
                        self._record.add_usage(usage)
                self._looked()
            if self._over.wait(LOOK_EVERY_S):
                return

    def _note(self, nodes: list[dict[str, Any]]) -> None:
        """Write which nodes are new, and which are gone."""
        for given in nodes:
            name = given["NodeID"]
            if given["Alive"] and name not in self._known:
                self._known[name] = node_of(given, time.time())
                self._record.add_node(self._known[name])
            elif not given["Alive"] and name in self._known:
                gone: Node = {**self._known.pop(name), "time": round(time.time(), 3), "alive": False}
                if reason := str(given.get("DeathReasonMessage") or ""):
                    gone["reason"] = reason
                self._record.add_node(gone)

    def _measure(self, nodes: list[dict[str, Any]]) -> Iterator[Usage]:
        if ray_cluster.is_own():
            yield self._of_this_machine()
            return
        alive = [node for node in nodes if node["Alive"]]
        with ThreadPoolExecutor(min(AT_ONCE, max(1, len(alive)))) as pool:
            for usage in pool.map(_of_node, alive):
                if usage is not None:
                    yield usage

    def _of_this_machine(self) -> Usage:
        now, memory, network = time.time(), psutil.virtual_memory(), psutil.net_io_counters()
        usage: Usage = {
            "time": round(now, 3),
            "node": THIS_MACHINE,
            "cpu": round(psutil.cpu_percent() / 100, 4),
            "memory_bytes": memory.total - memory.available,
            "memory_total_bytes": memory.total,
        }
        if before := self._network.get(THIS_MACHINE):
            then, sent, received = before
            usage["sent_bytes_per_s"] = round((network.bytes_sent - sent) / (now - then), 1)
            usage["received_bytes_per_s"] = round((network.bytes_recv - received) / (now - then), 1)
        self._network[THIS_MACHINE] = now, network.bytes_sent, network.bytes_recv
        return usage


def _ray_nodes() -> list[dict[str, Any]]:
    import ray

    every: Any = ray.nodes  # it has no type hints
    return list(every()) if ray.is_initialized() else []


def node_of(given: Mapping[str, Any], now: float) -> Node:
    """Return a node of Ray's list as the record has it, first seen at `now`."""
    labels = given.get("Labels") or {}
    is_head = HEAD_MARK in (given.get("Resources") or {})
    return {
        "time": round(now, 3),
        "node": str(given["NodeID"]),
        "alive": True,
        "pod": str(given.get("NodeManagerHostname") or given.get("NodeManagerAddress") or ""),
        "group": "head" if is_head else str(labels.get(NODE_GROUP, "")),
        "spot": labels.get(MARKET_TYPE) == "spot",
    }


def _of_node(node: Mapping[str, Any]) -> Usage | None:
    address = str(node["NodeManagerAddress"])
    host = f"[{address}]" if ":" in address else address
    url = f"http://{host}:{node['MetricsExportPort']}/metrics"
    try:
        with urllib.request.urlopen(url, timeout=ANSWERS_S) as answer:
            text = answer.read().decode(errors="replace")
    except OSError:
        return None
    return usage_in(text, str(node["NodeID"]), time.time())


def usage_in(metrics: str, node: str, now: float) -> Usage:
    """Return how busy a node is, from the text of its metrics endpoint."""
    from prometheus_client.parser import text_string_to_metric_families

    lines = [line for line in metrics.splitlines() if line.startswith("ray_node_")]
    values: dict[str, list[float]] = {}
    for family in text_string_to_metric_families("\n".join([*lines, ""])):
        for sample in family.samples:
            values.setdefault(sample.name, []).append(sample.value)
    usage: Usage = {"time": round(now, 3), "node": node}
    if cpu := values.get("ray_node_cpu_utilization"):
        usage["cpu"] = round(cpu[0] / 100, 4)
    if used := values.get("ray_node_mem_used"):
        usage["memory_bytes"] = used[0]
    if total := values.get("ray_node_mem_total"):
        usage["memory_total_bytes"] = total[0]
    if gpus := values.get("ray_node_gpus_utilization"):
        usage["gpu"] = round(sum(gpus) / len(gpus) / 100, 4)
    if gpu_memory := values.get("ray_node_gram_used"):
        usage["gpu_memory_bytes"] = sum(gpu_memory) * 2**20
    if sent := values.get("ray_node_network_send_speed"):
        usage["sent_bytes_per_s"] = sent[0]
    if received := values.get("ray_node_network_receive_speed"):
        usage["received_bytes_per_s"] = received[0]
    return usage
