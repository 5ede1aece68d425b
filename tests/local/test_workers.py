"""More than one worker, and the same weights again: with real Ray on this machine."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file
from support.runs import SMALL, result_of, run_trainer

REPEATABLE = [*SMALL, "--cpus-per-worker", "1", "--set", "epochs=1", "--set", "model.dropout=0.1"]


def weights(folder, name):
    return hashlib.sha256((folder / "runs" / name / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_the_same_seed_gives_bitwise_the_same_weights(workers, tmp_path, data_folder):
    for name in ("a", "b"):
        done = run_trainer(tmp_path, "train", "--name", name, "--workers", str(workers), *REPEATABLE)
        assert done.returncode == 0, done.stdout + done.stderr
        assert result_of(tmp_path, name)["workers"] == workers
    assert weights(tmp_path, "a") == weights(tmp_path, "b")
    assert result_of(tmp_path, "a")["test_loss"] == result_of(tmp_path, "b")["test_loss"]


@pytest.mark.slow
def test_another_seed_gives_other_weights(tmp_path, data_folder):
    for seed in (0, 1):
        done = run_trainer(tmp_path, "train", "--name", f"s{seed}", *REPEATABLE, "--set", f"seed={seed}")
        assert done.returncode == 0, done.stdout + done.stderr
    assert weights(tmp_path, "s0") != weights(tmp_path, "s1")


@pytest.mark.longer
def test_an_elastic_run_takes_the_workers_it_finds_room_for(tmp_path, data_folder):
    done = run_trainer(tmp_path, "train", "--name", "e", "--workers", "1-2", *REPEATABLE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert result_of(tmp_path, "e")["workers"] in (1, 2)
    points = [json.loads(line) for line in (tmp_path / "runs" / "e" / "metrics.jsonl").read_text().splitlines()]
    assert sum(point["samples"] for point in points) == 60_000


@pytest.mark.slow
def test_small_batches_on_two_workers_are_warned_of(tmp_path, data_folder):
    small = ["--workers", "2", "--set", "global_batch_size=200", "--set", "data.validation_samples=59000"]
    done = run_trainer(tmp_path, "train", "--name", "w", *REPEATABLE, *small)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning: workers: 2 share a global batch of 200, 100 samples each" in done.stdout
    assert '"warning"' in (tmp_path / "runs" / "w" / "events.jsonl").read_text()


@pytest.mark.longer
def test_json_logs_are_json_line_by_line_and_end_with_the_result(tmp_path, data_folder):
    done = run_trainer(tmp_path, "train", "--name", "j", "--log-format", "json", *REPEATABLE)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"message", "run_started", "training_started", "metrics", "result"} <= {line["event"] for line in lines}
    assert lines[-1]["status"] == "finished"


@pytest.mark.slow
def test_the_cnn_is_the_same_on_every_worker(tmp_path, data_folder):
    small = ["--set", "model.blocks=[[8]]", "--set", "data.validation_samples=57000", "--set", "epochs=1"]
    for name, workers in (("one", "1"), ("two", "2")):
        options = ["--recipe", "accurate", "--workers", workers, "--cpus-per-worker", "1", *small]
        done = run_trainer(tmp_path, "train", "--name", name, *options)
        assert done.returncode == 0, done.stdout + done.stderr
    one, two = (load_file(tmp_path / "runs" / name / "model.safetensors") for name in ("one", "two"))
    assert torch.equal(one["features.0.weight"], two["features.0.weight"])
    assert not torch.equal(one["features.2.weight"], two["features.2.weight"])  # sums in another order
    assert torch.allclose(one["features.2.weight"], two["features.2.weight"], atol=0.05)
