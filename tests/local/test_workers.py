"""More than one worker, and the same weights again: with real Ray on this machine."""

import hashlib
import json

import pytest
from local.runs import SMALL, result_of, run_trainer

REPEATABLE = [*SMALL, "--cpus-per-worker", "1", "--set", "epochs=1", "--set", "model.dropout=0.1"]


def weights(folder, name):
    return hashlib.sha256((folder / "runs" / name / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_seed_gives_bitwise_the_same_weights(workers, tmp_path, data_folder):
    for name in ("a", "b"):
        done = run_trainer(tmp_path, "train", "--name", name, "--workers", str(workers), *REPEATABLE)
        assert done.returncode == 0, done.stdout + done.stderr
        assert result_of(tmp_path, name)["workers"] == workers
    other = run_trainer(tmp_path, "train", "--name", "c", "--workers", str(workers), *REPEATABLE, "--set", "seed=1")
    assert other.returncode == 0
    assert weights(tmp_path, "a") == weights(tmp_path, "b") != weights(tmp_path, "c")
    assert result_of(tmp_path, "a")["test_loss"] == result_of(tmp_path, "b")["test_loss"]


def test_an_elastic_run_takes_the_workers_it_finds_room_for(tmp_path, data_folder):
    done = run_trainer(tmp_path, "train", "--name", "e", "--workers", "1-2", *REPEATABLE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert result_of(tmp_path, "e")["workers"] in (1, 2)
    points = [json.loads(line) for line in (tmp_path / "runs" / "e" / "metrics.jsonl").read_text().splitlines()]
    assert sum(point["samples"] for point in points) == 60_000


def test_json_logs_are_json_line_by_line_and_end_with_the_result(tmp_path, data_folder):
    done = run_trainer(tmp_path, "train", "--name", "j", "--log-format", "json", *REPEATABLE)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"message", "run_started", "training_started", "metrics", "result"} <= {line["event"] for line in lines}
    assert lines[-1]["status"] == "finished"
