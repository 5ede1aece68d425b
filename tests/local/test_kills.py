"""Runs that lose workers and drivers, with real Ray: each ends with bitwise the weights of one that did not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from support import training
from support.runs import result_of, run_trainer
from support.training import Training

from trainer.storage import checkpoints
from trainer.storage.record import Record

RUN = [*training.RUN, *training.OFTEN]


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_run_with_killed_workers_ends_with_the_same_state(workers, tmp_path, undisturbed):
    plan = [{"do": "kill", "step": step} for step in (3, 10, 27, 28)]
    with Training(tmp_path, *training.OFTEN, "--workers", str(workers), plan=plan) as run:
        assert run.ends() == 0, run.output()
    assert len(list(run.marks.iterdir())) == len(plan)  # each was killed
    assert run.state() == undisturbed(workers)
    starts = run.events("training_started")
    assert len(starts) == 5
    assert run.output().count("its process or node was lost") >= 4
    assert "(raylet)" not in run.output()  # Ray's page about it
    saved_by = {checkpoints.attempt_of(run.place, each) for each in run.committed()}
    assert starts[-1]["attempt"] in saved_by <= {event["attempt"] for event in starts}
    assert starts[-1]["step"] >= 10  # from a checkpoint, not from the beginning; two workers save every ten steps


def test_a_driver_that_is_killed_is_continued_by_the_same_command(tmp_path, undisturbed):
    arguments = [sys.executable, "-m", "trainer", "train", "--name", "killed", *RUN, "--set", "report_every_s=0.2"]
    first = subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.DEVNULL, start_new_session=True)
    run = tmp_path / "runs" / "killed"
    until = time.monotonic() + 120
    while not checkpoints.list_checkpoints(str(run)).committed:
        assert time.monotonic() < until
        assert first.poll() is None
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    again = run_trainer(tmp_path, "train", "--name", "killed", *RUN, "--set", "report_every_s=0.2")
    assert again.returncode == 0, again.stdout + again.stderr
    assert training.state_of(str(run)) == undisturbed(1)
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


@pytest.mark.slow
def test_a_run_without_an_intact_checkpoint_stops(tmp_path, data_folder):
    arguments = ["train", "--name", "one", *RUN]
    assert run_trainer(tmp_path, *arguments).returncode == 0
    run = tmp_path / "runs" / "one"
    (run / "result.json").unlink()  # as if it had been killed
    for file in run.glob("checkpoints/*/model.safetensors"):
        file.write_bytes(b"x")
    again = run_trainer(tmp_path, *arguments)
    assert again.returncode == 8
    assert "checkpoints is intact" in again.stderr
    assert "start again under another name" in again.stderr


@pytest.mark.slow
def test_damaged_final_weights_are_refused_and_rebuilt_bit_by_bit(tmp_path, data_folder):
    arguments = ["train", "--name", "one", *RUN]
    assert run_trainer(tmp_path, *arguments).returncode == 0
    weights = tmp_path / "runs" / "one" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused = run_trainer(tmp_path, "evaluate", "one")
    assert refused.returncode == 4
    assert "model.safetensors is not what was written" in refused.stderr
    assert run_trainer(tmp_path, "checkpoints", "verify", "one").returncode == 8
    again = run_trainer(tmp_path, *arguments)
    assert again.returncode == 0
    assert "warning: " in again.stdout
    assert "rebuilt from the last checkpoint" in again.stdout
    assert weights.read_bytes() == whole
    assert run_trainer(tmp_path, "checkpoints", "verify", "one").returncode == 0
    at_once = run_trainer(tmp_path, *arguments)
    assert "is finished already" in at_once.stdout
