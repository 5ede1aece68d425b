"""What a cluster can lose in the middle of a run: the job ends by itself all the same, and with the same weights."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from cluster import kube
from cluster.kube import get, job_ended, kubectl, name_of, pods, wait_for

from trainer import checkpoint, storage
from trainer.record import at, without_redone

SETTINGS = {"epochs": "6", "checkpoint.every_s": "5", "report_every_s": "0.5"}
LOST_AT_EPOCH = 2


def part(run: str, component: str) -> list[dict]:
    """The pods of a run's Ray cluster that are its head or its workers."""
    cluster = get("rayjob", run)["status"]["rayClusterName"]
    return pods(f"ray.io/cluster={cluster},app.kubernetes.io/component={component}")


def worker(run: str) -> None:
    """Delete a worker pod, without warning."""
    kubectl("delete", "pod", name_of(part(run, "worker")[-1]), "--grace-period=0", "--force")


def head(run: str) -> None:
    """Delete the head pod, without warning: Ray, the driver and the controller go with it."""
    kubectl("delete", "pod", name_of(part(run, "head")[0]), "--grace-period=0", "--force")


def ray_cluster(run: str) -> None:
    """Delete the whole RayCluster."""
    kubectl("delete", "raycluster", get("rayjob", run)["status"]["rayClusterName"], "--wait=false")


def node(run: str) -> None:
    """Drain a node with a worker and without the head; it comes back when it is empty, as a new one would."""
    heads = {pod["spec"]["nodeName"] for pod in part(run, "head")}
    chosen = next(pod["spec"]["nodeName"] for pod in part(run, "worker") if pod["spec"]["nodeName"] not in heads)
    # a provider whose patience with the disruption budgets is over deletes the pods: so does --disable-eviction
    options = ["--ignore-daemonsets", "--delete-emptydir-data", "--disable-eviction", "--force", "--timeout=240s"]
    try:
        kubectl("drain", chosen, *options)
    finally:
        kubectl("uncordon", chosen)


def object_store(run: str) -> None:
    """Restart the S3 server; its volume stays."""
    kubectl("delete", "pod", "-l", "app.kubernetes.io/name=object-store", "--wait=false")


LOSSES = {each.__name__.replace("_", "-"): each for each in (worker, head, ray_cluster, node, object_store)}


@pytest.fixture(scope="session")
def undisturbed(deployed, tmp_path_factory, data_folder) -> bytes:
    """The weights of the same run on this machine, which loses nothing."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "train.yaml").write_text(get("configmap", "training-config")["data"]["train.yaml"])
    settings = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "trainer", "train", "--name", "here", "--config", "train.yaml", *settings]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return (folder / "runs" / "here" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("lost", LOSSES)
def test_the_job_ends_by_itself_with_bitwise_the_weights_of_a_run_that_lost_nothing(lost, store, undisturbed, losses):
    run = f"loses-{lost}"
    kube.forget(store, run)
    job = kube.manifest(run)
    job["spec"]["entrypoint"] += "".join(f" --set {key}={value}" for key, value in SETTINGS.items())
    kube.apply(job)
    place = f"{store}/{run}"
    wait_for("it has trained some epochs", lambda: epochs(place) >= LOST_AT_EPOCH and saved(place), 300)
    lost_at = time.time()
    LOSSES[lost](run)
    ended = wait_for("the job ends by itself", lambda: job_ended(run), 900)
    assert ended["status"]["jobStatus"] == "SUCCEEDED", kube.state()
    record = at(place)
    assert record.result()["status"] == "finished"
    assert storage.read(f"{place}/model.safetensors") == undisturbed
    starts = [event for event in record.events() if event["event"] == "training_started"]
    assert [start["attempt"] for start in starts] == list(range(1, len(starts) + 1))
    if lost != "object-store":
        assert len(starts) >= 2
        assert starts[-1]["step"] > 0  # from a checkpoint, not from the beginning
    losses[lost] = price(record, lost_at)
    kubectl("delete", "rayjob", run)
    wait_for("its pods are gone", lambda: not pods(f"ray.io/originated-from-cr-name={run}"), 120)


def epochs(place: str) -> int:
    """How many epochs a run has reported to the store so far."""
    lines = (storage.read(f"{place}/metrics.jsonl") or b"").decode().splitlines()
    return sum("test_accuracy" in json.loads(line) for line in lines)


def saved(place: str) -> bool:
    """Whether a run has a checkpoint."""
    return bool(checkpoint.look(place).committed)


def price(record, lost_at: float) -> dict[str, float]:
    """What a loss cost: steps that were done again, and seconds until training went on."""
    points, events = record.points(), record.events()
    counting = {id(point) for point in without_redone(points, events)}
    redone = [point for point in points if id(point) not in counting and point["samples"]]
    again = [event["started_at"] for event in events if event["event"] == "training_started"]
    after = [moment for moment in again if moment > lost_at]
    return {
        "steps_redone": round(sum(point["samples"] for point in redone) / record.config().global_batch_size),
        "seconds_to_the_next_step": round(after[0] - lost_at, 1) if after else 0.0,
        "goodput": record.result()["goodput"]["goodput"],
    }


@pytest.fixture(scope="session")
def losses():
    """Prices by what was lost, printed at the end."""
    found: dict[str, dict[str, float]] = {}
    yield found
    print("\n".join(f"{lost}: {json.dumps(cost)}" for lost, cost in found.items()))
