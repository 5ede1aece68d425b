"""What `make deploy` waits for, from what kubectl says: k8s/unready.py."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "k8s" / "unready.py"


def unready(*items):
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], input=json.dumps({"items": items}), capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def made(kind, status, **spec):
    return {"kind": kind, "metadata": {"namespace": "ns", "name": "x"}, "spec": spec, "status": status}


def test_workloads_are_ready_when_all_replicas_are():
    assert unready(made("Deployment", {"readyReplicas": 1}, replicas=1)) == []
    assert unready(made("Deployment", {}, replicas=1)) == ["Deployment ns/x"]
    assert unready(made("StatefulSet", {"readyReplicas": 1}, replicas=2)) == ["StatefulSet ns/x"]
    assert unready(made("Deployment", {}, replicas=0)) == []


def test_a_prometheus_is_ready_when_it_is_available():
    def prometheus(value):
        return made("Prometheus", {"conditions": [{"type": "Available", "status": value}]})

    assert unready(prometheus("True")) == []
    assert unready(prometheus("False"), made("Prometheus", {})) == ["Prometheus ns/x", "Prometheus ns/x"]


def test_a_pod_says_why_its_containers_wait():
    waiting = {"state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}
    unscheduled = {"type": "PodScheduled", "status": "False", "message": "0/2 nodes are available"}
    running = {"state": {"running": {}}}
    assert unready(made("Pod", {"containerStatuses": [running]})) == []
    assert unready(made("Pod", {"containerStatuses": [running, waiting]})) == ["pod ns/x: ErrImagePull no such image"]
    assert unready(made("Pod", {"conditions": [unscheduled]})) == ["pod ns/x: 0/2 nodes are available"]
    assert unready(made("Pod", {"conditions": [{"type": "PodScheduled", "status": "True"}]})) == []
