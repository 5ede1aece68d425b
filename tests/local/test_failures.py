"""Runs that do not end well, with real Ray on this machine: each leaves a record and says in a sentence why."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from support.runs import SMALL, result_of, run_trainer

LONG = [
    "train",
    "--name",
    "long",
    *SMALL,
    "--set",
    "epochs=10000",
    "--set",
    "optimizer.warmup=0.0",
    "--log-format",
    "json",
]


def events(folder, name):
    return [json.loads(line) for line in (folder / "runs" / name / "events.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_run_stops_within_5_seconds_of_a_signal_and_keeps_its_record(how, tmp_path, data_folder):
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer", *LONG],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert any('"test_accuracy"' in line for line in process.stdout)  # it trains
    began = time.monotonic()
    process.send_signal(how)
    _, stderr = process.communicate(timeout=60)
    seconds = time.monotonic() - began
    assert process.returncode == 130
    assert re.search(r"Stopped at step \d+/\d+, in epoch \d+/\d+; the record so far is kept\.\n", stderr)
    assert re.search(r"To continue it: .* train --name long ", stderr)
    busy = max(
        1.0, os.getloadavg()[0] / (os.cpu_count() or 1)
    )  # others' share of the machine is not ours to answer for
    assert seconds < 5 * busy
    result = result_of(tmp_path, "long")
    assert (result["status"], result["exit_code"]) == ("interrupted", 130)
    assert result["test_accuracy"] > 0.3
    assert events(tmp_path, "long")[-1]["event"] == "run_ended"


@pytest.mark.longer
def test_an_interrupted_run_is_resumed_as_the_next_attempt(tmp_path, data_folder):
    short = ["train", "--name", "again", *SMALL, "--set", "epochs=1"]
    first = run_trainer(tmp_path, *short)
    assert first.returncode == 0
    (tmp_path / "runs" / "again" / "result.json").write_text(json.dumps({"status": "interrupted"}))
    second = run_trainer(tmp_path, *short)
    assert second.returncode == 0, second.stderr
    assert result_of(tmp_path, "again")["attempt"] == 2
    starts = [event for event in events(tmp_path, "again") if event["event"] == "training_started"]
    assert [event["attempt"] for event in starts] == [1, 2]


@pytest.mark.slow
def test_a_diverging_loss_is_the_runs_own_error(tmp_path, data_folder):
    done = run_trainer(
        tmp_path,
        *("train", "--name", "nan", "--log-format", "json", *SMALL),
        *("--set", "optimizer.lr=1e30", "--set", "optimizer.warmup=0.0"),
    )
    assert done.returncode == 9
    said = json.loads(done.stdout.splitlines()[-1])
    assert (said["event"], said["status"], said["exit_code"]) == ("result", "failed", 9)
    assert said["error"] in done.stderr
    assert "training diverged; lower optimizer.lr" in done.stderr
    assert "Traceback" not in done.stderr
    assert result_of(tmp_path, "nan")["status"] == "failed"
    # nothing was saved that one could go back to, so it was not tried again
    assert len([event for event in events(tmp_path, "nan") if event["event"] == "training_started"]) == 1


@pytest.mark.longer
def test_a_worker_that_raises_ends_the_run_with_its_last_line(tmp_path, data_folder):
    # the worker's own machine has no data: what a driver cannot know beforehand
    script = """
import sys
from trainer.cli import main
from trainer.driver import worker

def broken(settings):
    raise ValueError("the dog ate the batch")

worker.train = broken
sys.argv = ["trainer", "train", "--name", "raises", *sys.argv[1:]]
main.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, *SMALL], cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 6
    assert "retrying did not help: ValueError: the dog ate the batch" in done.stderr
    assert "Traceback" not in done.stderr
    failed = [event for event in events(tmp_path, "raises") if event["event"] == "worker_failed"]
    assert [event["rank"] for event in failed] == [0] * 4  # tried again three times, and no further with it
