"""Runs that lose workers and drivers, with real Ray: each ends with bitwise the weights of one that did not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from local.runs import in_workers, result_of, run_trainer
from training import state_of

from trainer import checkpoint
from trainer.record import Record

# 6 epochs of 10 steps; dropout, so that the random numbers matter; Muon, so that the optimizer has a state
RUN = ["--recipe", "fast", "--set", "model.dropout=0.3", "--set", "global_batch_size=6000", "--set", "epochs=6"]
RUN += ["--set", "checkpoint.every_s=0", "--set", "precision=fp32"]
# In every worker: die before the steps that KILL_AT lists, each once.
KILL = """
import os, signal
from trainer import optimizer
usual = optimizer.schedule
def schedule(config, step, total_steps):
    if str(step) in os.environ["KILL_AT"].split(","):
        try:
            os.close(os.open(os.path.join(os.environ["KILL_MARKS"], str(step)), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            pass
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    return usual(config, step, total_steps)
optimizer.schedule = schedule
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data_folder):
    """What becomes of the run on 1 and on 2 workers when nothing happens to it: weights, optimizer, random numbers."""
    folder = tmp_path_factory.mktemp("undisturbed")
    states = {}
    for workers in (1, 2):
        done = run_trainer(folder, "train", "--name", f"w{workers}", *RUN, "--workers", str(workers))
        assert done.returncode == 0, done.stdout + done.stderr
        states[workers] = state_of(str(folder / "runs" / f"w{workers}"))
    return states


def killed_at(folder: Path, steps: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A run whose worker is killed before each of the steps."""
    (folder / "marks").mkdir()
    marks = {"KILL_AT": steps, "KILL_MARKS": str(folder / "marks")}
    return run_trainer(folder, "train", *arguments, **in_workers(folder, KILL), **marks)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_whose_worker_is_killed_again_and_again_ends_in_the_same_state(workers, tmp_path, undisturbed):
    done = killed_at(tmp_path, "3,10,27,28", "--name", "killed", *RUN, "--workers", str(workers))
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(int(mark.name) for mark in (tmp_path / "marks").iterdir()) == [3, 10, 27, 28]
    record = Record(tmp_path / "runs" / "killed")
    assert state_of(record.place) == undisturbed[workers]
    starts = [event for event in record.events() if event["event"] == "training_started"]
    assert len(starts) == 5
    assert starts[-1]["step"] >= 10  # from a checkpoint, not from the beginning; two workers save every ten steps


def test_a_driver_that_is_killed_is_continued_by_the_same_command(tmp_path, undisturbed):
    arguments = [sys.executable, "-m", "trainer", "train", "--name", "killed", *RUN, "--set", "report_every_s=0.2"]
    first = subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.DEVNULL, start_new_session=True)
    run = tmp_path / "runs" / "killed"
    until = time.monotonic() + 120
    while not checkpoint.look(str(run)).committed:
        assert time.monotonic() < until
        assert first.poll() is None
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    again = run_trainer(tmp_path, "train", "--name", "killed", *RUN, "--set", "report_every_s=0.2")
    assert again.returncode == 0, again.stdout + again.stderr
    assert state_of(str(run)) == undisturbed[1]
    assert [event["step"] > 0 for event in Record(run).events() if event["event"] == "training_started"][-1]
    assert result_of(tmp_path, "killed")["status"] == "finished"


def test_a_run_that_is_going_on_is_refused_to_a_second_process_at_once(tmp_path, data_folder):
    long = ["train", "--name", "one", *RUN, "--set", "epochs=100000"]
    first = subprocess.Popen([sys.executable, "-m", "trainer", *long], cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while not (tmp_path / "runs" / "one" / "lease" / "000001.alive").exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        second = run_trainer(tmp_path, *long)
        assert second.returncode == 5
        assert f"process {first.pid} on " in second.stderr
    finally:
        first.send_signal(signal.SIGINT)
        first.wait(30)


def test_if_no_checkpoint_is_intact_the_run_stops_with_a_sentence_and_its_own_code(tmp_path, data_folder):
    arguments = ["train", "--name", "one", *RUN]
    assert run_trainer(tmp_path, *arguments).returncode == 0
    run = tmp_path / "runs" / "one"
    (run / "result.json").unlink()  # as if it had been killed
    for file in run.glob("checkpoints/*/model.safetensors"):
        file.write_bytes(b"x")
    again = run_trainer(tmp_path, *arguments)
    assert again.returncode == 8
    assert "checkpoints is intact" in again.stderr
    assert "begin again under another name" in again.stderr
