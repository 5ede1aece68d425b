"""The run of k8s/rayjob.yaml: its result, its pods, what can reach it, and what Prometheus has of it."""

import hashlib
import json
import subprocess
import sys

import pytest
from support import kube

from trainer.observe.goodput import account, began_at, worker_seconds
from trainer.observe.metrics import METRICS
from trainer.storage import seal
from trainer.storage import store as stores

pytestmark = pytest.mark.ci


def test_it_succeeds_and_its_record_is_in_the_object_store(run, store):
    assert run.job["status"]["jobStatus"] == "SUCCEEDED", kube.state()
    result = run.record.result()
    assert result["status"] == "finished"
    assert result["test_accuracy"] > 0.89  # recipe fast, not a toy
    assert {"report.html", "model.safetensors", "plots/accuracy.png"} <= set(stores.files(f"{store}/fashion-mnist"))
    assert stores.read(f"{store}/fashion-mnist/MANIFEST.json") is not None
    assert seal.verify(run.record) == {}


def test_its_workers_were_on_two_nodes(run):
    workers = [pod for pod in run.pods.values() if pod["metadata"]["labels"]["app.kubernetes.io/component"] == "worker"]
    assert len(workers) == run.record.result()["workers"] == 2
    assert len({pod["spec"]["nodeName"] for pod in workers}) == 2


def test_its_weights_are_bitwise_those_of_the_same_run_here(run, store, tmp_path, data_folder):
    (tmp_path / "train.yaml").write_text(kube.get("configmap", "training-config")["data"]["train.yaml"])
    command = [sys.executable, "-m", "trainer", "train", "--name", "here", "--config", "train.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    here = (tmp_path / "runs" / "here" / "model.safetensors").read_bytes()
    there = stores.read(f"{store}/fashion-mnist/model.safetensors")
    assert hashlib.sha256(there).hexdigest() == hashlib.sha256(here).hexdigest()


def test_all_four_kinds_of_pods_were_admitted_and_let_run_as_restricted(run):
    kinds = {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in run.pods.values()}
    assert kinds == {"head", "worker", "submitter"}
    containers = {c["name"] for pod in run.pods.values() for c in pod["spec"]["containers"]}
    assert containers == {"ray-head", "autoscaler", "ray-worker", "ray-job-submitter"}


def test_no_container_was_started_twice(run):
    statuses = [(name, each) for name, pod in run.pods.items() for each in pod["status"].get("containerStatuses", [])]
    assert statuses
    assert [f"{name}/{each['name']}" for name, each in statuses if each["restartCount"]] == []


def test_the_dashboard_answers_401_without_the_token_and_200_with_it(run):
    assert run.answers == {"nothing": 401, "token": 200}


def test_a_pod_next_door_reaches_no_port_of_ray(run):
    # the control: from inside the same ports are open
    assert {"gcs", "dashboard", "metrics"} <= run.open_ports["head"]
    assert run.open_ports["training/neighbour"] == set()
    assert run.open_ports["default/neighbour"] == set()


@pytest.mark.parametrize("name", ["token", "object store"])
def test_no_secret_is_in_the_job_a_log_or_an_argument(run, name):
    where = {"token": ("training-token", "auth_token"), "object store": ("object-store", "AWS_SECRET_ACCESS_KEY")}
    value = kube.secret(*where[name])
    texts = {"the RayJob": json.dumps(run.job), **run.logs, **{f"{k} arguments": v for k, v in run.commands.items()}}
    texts |= {f"pod {k}": json.dumps(v) for k, v in run.pods.items()}
    assert any("trainer train" in text for text in run.commands.values())  # they were looked at
    assert any("test_accuracy" in text for text in run.logs.values())
    assert [where for where, text in texts.items() if value in text] == []


@pytest.mark.parametrize("name", ["train_loss", "test_loss", "test_accuracy", "samples_per_second", "step", "workers"])
def test_prometheus_had_the_numbers_while_it_trained(run, prometheus, name):
    while_it_trained = 'on (run) (ray_trainer_progress_ratio{run="fashion-mnist"} < 1)'
    values = prometheus.ever(f'ray_trainer_{name}{{run="fashion-mnist"}} and {while_it_trained}')["fashion-mnist"]
    recorded = {float(point[name]) for point in run.record.points() if point.get(name) is not None}
    assert [value for value in values if not any(value == pytest.approx(known) for known in recorded)] == []


def test_the_last_values_in_prometheus_are_those_of_the_record(run, prometheus):
    last = run.record.points()[-1]
    there = {
        metric.key: prometheus.now(f'last_over_time({metric.exported}{{run="fashion-mnist"}}[1h])').get("fashion-mnist")
        for metric in METRICS
        if not metric.labels
    }
    events, points = run.record.events(), run.record.points()
    until = events[-1]["time"]
    used = worker_seconds(events, points, until)
    expected = {key: last[key] for key in there if key in last} | {
        "progress": 1.0,
        "seconds_left": 0.0,
        "began_at": began_at(events),
        "workers_wanted": 2.0,
        "worker_failures": 0.0,
        "preemptions": 0.0,
        "rollbacks": 0.0,
        "storage_away": 0.0,
        "goodput": account(events, points, until)["goodput"],
        "paid_worker_seconds": used["all"],
        "productive_worker_seconds": used["productive"],
    }
    assert there == {key: pytest.approx(value) for key, value in expected.items()}
