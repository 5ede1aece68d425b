"""Nodes of a Ray cluster that come and go while a run trains there."""

from __future__ import annotations

import signal
import time

import pytest
from support.ray_cluster import cluster
from support.training import OFTEN, SAMPLES, Training, injected

TRAINING_SET = 60_000
NOTICED_S = 3


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.fixture
def ray(tmp_path, folder):
    with cluster(tmp_path, injected(folder, samples=str(folder / SAMPLES), pace_s=0.05)) as running:
        yield running


def test_an_elastic_run_sees_every_sample_once_an_epoch(ray, folder, data_folder, note):
    node = ray.add_node()
    options = [*OFTEN, "--workers", "1-2", "--cpus-per-worker", "1", "--set", "epochs=600"]
    with Training(folder, *options, environment=ray.environment) as training:
        training.until(lambda: workers(training) == 2)
        training.trains(12)
        lost_at = time.time()
        ray.lose(node)
        training.until(lambda: workers(training) == 1, 180)
        alone = training.newest()[0]
        training.trains(alone["step"] + 12)
        ray.add_node()
        training.until(lambda: workers(training) == 2, 180)
        together = training.newest()[0]
        training.trains(together["step"] + 25)
        training.process.send_signal(signal.SIGINT)
        training.ends(60)
        seen = training.samples_by_epoch(steps_per_epoch=10)
    assert [event["workers"] for event in training.events("training_started")] == [2, 1, 2]
    whole = [sorted(samples) == list(range(TRAINING_SET)) for samples in seen[:-1]]  # the last epoch was interrupted
    assert len(whole) >= 4
    assert all(whole)
    note(
        "of a run's two nodes one loses its power, and later another comes",
        "trains on with one worker, and with two again; every sample is seen exactly once an epoch",
        training.steps_lost(),
        [round(alone["time"] - lost_at, 2)],
        times=1,
        exit_code=0,
    )


def workers(training):
    """How many take part in the newest group."""
    return len({line["rank"] for line in training.newest()}) if training.lines() else 0


def test_a_preemption_notice_saves_the_state_within_3_seconds(ray, folder, data_folder, note):
    node = ray.add_node()
    options = ["--set", "checkpoint.every_s=1000", "--set", "global_batch_size=500", "--set", "epochs=100"]
    options += ["--workers", "1-2", "--cpus-per-worker", "1"]
    with Training(folder, *options, environment=ray.environment) as training:
        training.until(lambda: workers(training) == 2)
        training.trains(20)
        assert training.committed() == []
        noticed = time.time()
        node.send_signal(signal.SIGTERM)  # as Kubernetes takes a pod away
        training.until(training.committed, 30)
        saved = time.time() - noticed
        training.until(lambda: workers(training) == 1, 120)
        lost = training.steps_lost()
        alone = training.newest()[0]
    assert saved < NOTICED_S
    [failed] = {event["attempt"] for event in training.events("worker_failed")} or {1}
    assert failed == 1
    note(
        "SIGTERM to a Ray node: it is drained, and gone 30 s later",
        f"saved {saved:.1f} s after the notice; continues by itself with the worker that is left",
        lost,
        [round(alone["time"] - training.groups()[0][-1]["time"], 2)],
    )
