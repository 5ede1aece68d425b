import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import psutil
import pytest

from trainer.driver import nodes, ray_cluster
from trainer.storage.record import Record

HEAD = {
    "NodeID": "a1",
    "Alive": True,
    "NodeManagerAddress": "127.0.0.1",
    "NodeManagerHostname": "run-x-head-1",
    "MetricsExportPort": 8080,
    "Resources": {"node:__internal_head__": 1.0},
    "Labels": {"ray.io/node-group": "headgroup"},
}
WORKER = {
    **HEAD,
    "NodeID": "b2",
    "NodeManagerHostname": "run-x-spot-worker-1",
    "Resources": {"CPU": 2.0},
    "Labels": {"ray.io/node-group": "spot", "ray.io/market-type": "spot"},
}
METRICS = """\
# HELP ray_node_cpu_utilization Total CPU usage
# TYPE ray_node_cpu_utilization gauge
ray_node_cpu_utilization{ip="10.0.0.1",IsHeadNode="false"} 62.5
# TYPE ray_node_mem_used gauge
ray_node_mem_used{ip="10.0.0.1"} 2.5e9
# TYPE ray_node_mem_total gauge
ray_node_mem_total{ip="10.0.0.1"} 4e9
# TYPE ray_node_gpus_utilization gauge
ray_node_gpus_utilization{ip="10.0.0.1",GpuIndex="0"} 90
ray_node_gpus_utilization{ip="10.0.0.1",GpuIndex="1"} 50
# TYPE ray_node_gram_used gauge
ray_node_gram_used{ip="10.0.0.1",GpuIndex="0"} 100
ray_node_gram_used{ip="10.0.0.1",GpuIndex="1"} 200
# TYPE ray_node_network_send_speed gauge
ray_node_network_send_speed{ip="10.0.0.1"} 1000
# TYPE ray_tasks gauge
ray_tasks{Name="a\\"b"} 1
"""
PARTS = {
    "cpu": 0.625,
    "memory_bytes": 2.5e9,
    "memory_total_bytes": 4e9,
    "gpu": 0.7,
    "gpu_memory_bytes": 300 * 2**20,
    "sent_bytes_per_s": 1000.0,
}


@pytest.fixture
def clusters(monkeypatch):
    """A run on a Ray cluster whose nodes are in the list."""
    listed = [HEAD, WORKER]
    monkeypatch.setattr(ray_cluster, "is_own", lambda: False)
    monkeypatch.setattr(nodes, "_ray_nodes", lambda: [dict(node) for node in listed])
    monkeypatch.setattr(nodes, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(nodes, "MEASURE_EVERY_S", 0.01)
    return listed


def watch_until(record, reached):
    """Watch the nodes until `reached` after one of the looks."""
    seen = threading.Event()
    with nodes.Watch(record, lambda: reached() and seen.set()):
        assert seen.wait(30)


def test_each_node_is_noted_when_it_comes_and_when_it_is_gone(clusters, tmp_path):
    record = Record(tmp_path)
    with nodes.Watch(record, looks := Looks()):
        looks.wait_for(2)
        clusters[1] = {**WORKER, "Alive": False, "DeathReasonMessage": "node was drained"}
        looks.wait_for(2)
    lines = record.nodes()
    assert [(line["pod"], line["group"], line["spot"], line["alive"]) for line in lines] == [
        ("run-x-head-1", "head", False, True),
        ("run-x-spot-worker-1", "spot", True, True),
        ("run-x-spot-worker-1", "spot", True, False),
    ]
    assert lines[-1]["reason"] == "node was drained"


class Looks:
    """Counts the looks at the nodes."""

    def __init__(self):
        self._looked = threading.Semaphore(0)

    def __call__(self):
        self._looked.release()

    def wait_for(self, more):
        """Return after `more` further looks, of which the last began after this call."""
        while self._looked.acquire(blocking=False):
            pass
        for _ in range(more):
            assert self._looked.acquire(timeout=30)


def test_a_nodes_use_is_read_from_its_metrics(clusters, tmp_path):
    class Metrics(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(METRICS.encode())

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Metrics) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        clusters[0] = {**HEAD, "MetricsExportPort": server.server_port}
        clusters[1] = {**WORKER, "MetricsExportPort": 1}  # it does not answer
        record = Record(tmp_path)
        watch_until(record, lambda: bool(record.usage()))
        server.shutdown()
    usage = record.usage()[0]
    assert {key: usage[key] for key in PARTS} == PARTS
    assert {line["node"] for line in record.usage()} == {"a1"}


def test_a_nodes_metrics_may_lack_anything():
    assert nodes.usage_in("", "a1", 1.0) == {"time": 1.0, "node": "a1"}


def test_on_one_machine_the_machine_itself_is_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(ray_cluster, "is_own", lambda: True)
    monkeypatch.setattr(nodes, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(nodes, "MEASURE_EVERY_S", 0.01)
    record = Record(tmp_path)
    watch_until(record, lambda: len(record.usage()) > 2)
    last = record.usage()[-1]
    assert last["node"] == "this machine"
    assert last["memory_total_bytes"] == psutil.virtual_memory().total
    assert 0 <= last["cpu"] <= 1
    assert last["sent_bytes_per_s"] >= 0
    assert record.nodes() == []


def test_a_list_of_nodes_that_fails_ends_no_run(clusters, monkeypatch, tmp_path):
    answers = iter([ValueError("Ray is not connected"), [HEAD]])

    def ask():
        answer = next(answers, [HEAD])
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(nodes, "_ray_nodes", ask)
    record = Record(tmp_path)
    watch_until(record, lambda: bool(record.nodes()))
