"""What the record of a run on a cluster keeps: its pods and their cost, what they printed, and where the time went."""

import json
import tarfile

import pytest
from support import kube
from support.cluster_cli import chart, remove, trainer

from trainer.cluster import client
from trainer.errors import ExitCode
from trainer.observe import goodput
from trainer.storage import logs
from trainer.storage.mirror import open_record

RUN, SPENT = "priced", "spent"
# thousandths of a dollar a second, so that a run of a minute costs some
PRICES = ("head.price.perHour=3.6", "workerGroups.cpu.price.perHour=7.2", "workerGroups.gpu.price.perHour=36")


@pytest.fixture(scope="module")
def priced(deployed, store):
    """The record of a run that finished on a cluster whose groups have prices."""
    kube.forget(store, RUN)
    with chart(*PRICES):
        code, command = trainer("submit", "--name", RUN, "--set", "epochs=2", "--workers", "2", log_format="json")
    assert code == ExitCode.OK, command.text
    return open_record(f"{store}/{RUN}")


def test_a_run_costs_its_pods_time_and_the_parts_add_up(priced):
    spent = priced.result()["cost"]
    assert sorted(pod["group"] for pod in spent["pods"]) == ["cpu", "cpu", "head"]
    per_hour = {"head": 3.6, "cpu": 7.2}
    for pod in spent["pods"]:
        expected = (pod["ends"] - pod["begins"]) / 3600 * per_hour[pod["group"]]
        assert pod["cost"] == pytest.approx(expected, abs=2e-6)
    micros = [round(amount * 1e6) for amount in spent["parts"].values()]
    assert sum(micros) == round(spent["total"] * 1e6)
    assert 0 < spent["productive"] < spent["total"]


def test_prometheus_has_the_cost_that_the_result_has(priced, prometheus):
    found = prometheus.now(f'last_over_time(ray_trainer_cost{{run="{RUN}",currency="USD"}}[1h])')
    assert found[RUN] == pytest.approx(priced.result()["cost"]["total"], rel=0.2)  # the report is still to be written


def test_the_time_begins_with_the_submission_and_adds_up(priced):
    (started,) = [event for event in priced.events() if event["event"] == "run_started"]
    assert started["submitted_at"] <= started["pod"]["mounted_at"] <= started["pod"]["container_began_at"]
    parts = priced.result()["goodput"]
    assert sum(parts[part] for part in goodput.PARTS) == pytest.approx(parts["wall"], rel=0.01)
    for part in ("start_up_pods", "start_up_image", "start_up_ray", "start_up_imports", "start_up_data"):
        assert parts[part] > 0, part


def test_pods_nodes_and_their_use_are_recorded(priced):
    (started,) = [event for event in priced.events() if event["event"] == "training_started"]
    assert {pod["group"] for pod in started["pods"]} == {"cpu"}
    assert len({pod["node"] for pod in started["pods"]}) == 2
    nodes = priced.nodes()
    assert sorted(node["group"] for node in nodes if node["alive"]) == ["cpu", "cpu", "head"]
    measured = {usage["node"] for usage in priced.usage() if usage.get("cpu") is not None}
    assert measured == {node["node"] for node in nodes}


def test_what_each_process_printed_is_read_without_its_pod(priced, store):
    assert logs.attempts(priced.place) == [1]
    remove(RUN)
    for process in ("driver", "worker-0", "worker-1"):
        assert logs.lines(priced.place, process), process
    assert client.output(RUN, worker=1, storage=store, context=kube.CONTEXT)


def test_a_bundle_of_a_run_on_the_cluster_has_no_secret(deployed, store, prometheus, tmp_path):
    kube.forget(store, "bundled")
    try:
        code, command = trainer("submit", "--name", "bundled", "--set", "epochs=1")
        assert code == ExitCode.OK, command.text
        file = tmp_path / "bundled.tar.gz"
        client.bundle("bundled", file, prometheus=prometheus.url, storage=store, context=kube.CONTEXT)
    finally:
        remove("bundled")
    with tarfile.open(file) as archive:
        found = {entry.name.partition("/")[2]: archive.extractfile(entry).read() for entry in archive}
    assert {"record/events.jsonl", "cluster/rayjob.json", "cluster/pods.json", "metrics.json"} <= set(found)
    assert json.loads(found["metrics.json"])
    assert any(name.endswith(".log") and b"training_started" in content for name, content in found.items())
    for secret in (kube.secret("object-store", "AWS_SECRET_ACCESS_KEY"), kube.secret("training-token", "auth_token")):
        assert [name for name, content in found.items() if secret.encode() in content] == []


def test_a_run_that_has_spent_its_budget_ends_after_a_checkpoint(deployed, store):
    kube.forget(store, SPENT)
    settings = ("--set", "epochs=500", "--set", "checkpoint.every_s=3", "--workers", "2")
    try:
        with chart(*PRICES, "budget.amount=0.5", "budget.stop=true"):
            code, command = trainer("submit", "--name", SPENT, *settings)
    finally:
        remove(SPENT)
    assert code == ExitCode.BUDGET, command.text
    assert "budget: the run is going to cost" in command.text
    assert "of 0.5 USD; it stopped after a checkpoint" in command.text
    result = open_record(f"{store}/{SPENT}").result()
    assert (result["status"], result["exit_code"], result["retry"]) == ("failed", ExitCode.BUDGET, False)
    assert result["cost"]["total"] >= 0.5
