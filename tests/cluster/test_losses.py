"""What a cluster can lose in the middle of a run: the job ends by itself all the same, and with the same weights."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pytest
from support import kube
from support.kube import get, job_ended, kubectl, name_of, pods, wait_for

from trainer.storage import checkpoints
from trainer.storage import store as stores
from trainer.storage.mirror import open_record
from trainer.storage.record import Record

LOST_AT_EPOCH = 2
GONE_ON = "goes on by itself; weights bitwise those of an undisturbed run"


def settings(epochs: int) -> list[str]:
    """Of a run of so many epochs, which saves often."""
    chosen = {"epochs": epochs, "checkpoint.every_s": 5, "report_every_s": 0.5}
    return [word for key, value in chosen.items() for word in ("--set", f"{key}={value}")]


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
    """Delete the whole RayCluster, and its pods without warning: with one they would have finished the run."""
    names = [name_of(pod) for component in ("head", "worker") for pod in part(run, component)]
    kubectl("delete", "raycluster", get("rayjob", run)["status"]["rayClusterName"], "--wait=false")
    kubectl("delete", "pod", *names, "--grace-period=0", "--force")


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


@dataclass(frozen=True)
class Loss:
    """What is done to a run, in words, and how many epochs it needs so that it is not over before."""

    does: Callable[[str], None]
    words: str
    epochs: int = 6
    begins_again: bool = True


LOSSES = {
    "worker": Loss(worker, "a worker pod deleted without warning"),
    "head": Loss(head, "the head pod deleted without warning, with Ray, driver and controller"),
    "ray-cluster": Loss(ray_cluster, "the whole RayCluster deleted, its pods without warning"),
    "node": Loss(node, "a node drained by kubectl", epochs=40),  # its workers have 60 s to take their leave
    "object-store": Loss(object_store, "the S3 server restarted", begins_again=False),
}


@pytest.fixture(scope="session")
def undisturbed(deployed, tmp_path_factory, data_folder) -> Callable[[int], bytes]:
    """The weights of the same run of so many epochs on this machine, which loses nothing."""

    @cache
    def weights(epochs: int) -> bytes:
        folder = tmp_path_factory.mktemp("undisturbed")
        (folder / "train.yaml").write_text(get("configmap", "training-config")["data"]["train.yaml"])
        command = [sys.executable, "-m", "trainer", "train", "--name", "here", "--config", "train.yaml"]
        command += settings(epochs)
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return (folder / "runs" / "here" / "model.safetensors").read_bytes()

    return weights


@pytest.mark.parametrize("lost", kube.long_but(LOSSES, "head"))
def test_a_job_that_lost_a_part_ends_with_bitwise_the_same_weights(lost, store, undisturbed, note):
    run, loss = f"loses-{lost}", LOSSES[lost]
    kube.forget(store, run)
    job = kube.manifest(run)
    job["spec"]["entrypoint"] = shlex.join([*shlex.split(job["spec"]["entrypoint"]), *settings(loss.epochs)])
    kube.apply(job)
    place = f"{store}/{run}"
    wait_for("it has trained some epochs", lambda: epochs(place) >= LOST_AT_EPOCH and saved(place), 300)
    lost_at = time.time()
    loss.does(run)
    ended = wait_for("the job ends by itself", lambda: job_ended(run), 900)
    assert ended["status"]["jobStatus"] == "SUCCEEDED", kube.state()
    record = open_record(place)
    assert record.result()["status"] == "finished"
    assert stores.read(f"{place}/model.safetensors") == undisturbed(loss.epochs)
    starts = [event for event in record.events() if event["event"] == "training_started"]
    assert [start["attempt"] for start in starts] == list(range(1, len(starts) + 1))
    assert (len(starts) > 1) == loss.begins_again
    assert not loss.begins_again or starts[-1]["step"] > 0  # from a checkpoint, not from the beginning
    steps, seconds = price(record, lost_at)
    note(loss.words, GONE_ON, steps_lost=steps, seconds=seconds, goodput=record.result()["goodput"])
    kubectl("delete", "rayjob", run)
    wait_for("its pods are gone", lambda: not pods(f"ray.io/originated-from-cr-name={run}"), 120)


def epochs(place: str) -> int:
    """How many epochs a run has reported to the store so far."""
    lines = (stores.read(f"{place}/metrics.jsonl") or b"").decode().splitlines()
    return sum("test_accuracy" in json.loads(line) for line in lines)


def saved(place: str) -> bool:
    """Whether a run has a checkpoint."""
    return bool(checkpoints.list_checkpoints(place).committed)


def price(record: Record, lost_at: float) -> tuple[list[int], list[float]]:
    """What a loss cost: the steps that were done again, and the seconds from then to when training went on."""
    points, events = record.points(), record.events()
    began_at = [(event["started_at"], event["step"]) for event in events if event["event"] == "training_started"]
    again = [(started, step) for started, step in began_at if started > lost_at]
    done = [max(point["step"] for point in points if point["time"] <= started) for started, _ in again]
    lost = [max(0, last - step) for last, (_, step) in zip(done, again, strict=True)]
    return lost, [round(started - lost_at, 1) for started, _ in again[:1]]
