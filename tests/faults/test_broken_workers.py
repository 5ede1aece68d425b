"""Workers that freeze, hang, raise or run out of memory: each is found and replaced, and the run ends as it should."""

from __future__ import annotations

import os
import signal

import pytest
from support.training import OFTEN, Training

from trainer.errors import ExitCode

FOUND_WITHIN_S = 60
AS_IF_NOTHING = "continues by itself; bitwise the undisturbed weights"
of_workers = pytest.mark.parametrize("workers", [1, 2])


@of_workers
def test_a_frozen_worker_is_found_within_60_seconds_and_replaced(workers, tmp_path, undisturbed, note):
    with Training(tmp_path, *OFTEN, "--workers", str(workers), pace_s=0.1) as training:
        training.trains(15)
        frozen = training.pid(rank=workers - 1)
        os.kill(frozen, signal.SIGSTOP)
        assert training.ends() == 0, training.output()
    assert training.state() == undisturbed(workers)
    assert found(training) < FOUND_WITHIN_S
    assert not running(frozen)  # nothing of it is left to wake up
    note(
        f"SIGSTOP of a worker: of {workers}, one is frozen",
        AS_IF_NOTHING,
        training.steps_lost(),
        training.seconds_lost(),
    )


@of_workers
def test_a_worker_that_hangs_is_found_within_60_seconds_and_replaced(workers, tmp_path, undisturbed, note):
    plan = [{"do": "hang", "step": 15, "rank": workers - 1}]
    with Training(tmp_path, *OFTEN, "--workers", str(workers), plan=plan) as training:
        assert training.ends() == 0, training.output()
    assert training.state() == undisturbed(workers)
    assert found(training) < FOUND_WITHIN_S
    note(
        f"a worker hangs before step 15, one of {workers}",
        AS_IF_NOTHING,
        training.steps_lost(),
        training.seconds_lost(),
    )


@of_workers
def test_a_worker_that_raises_once_is_replaced(workers, tmp_path, undisturbed, note):
    plan = [{"do": "raise", "step": 15, "rank": workers - 1}]
    with Training(tmp_path, *OFTEN, "--workers", str(workers), plan=plan) as training:
        assert training.ends() == 0, training.output()
    assert training.state() == undisturbed(workers)
    failed = training.events("worker_failed")
    assert "ValueError: the dog ate the batch" in [event["error"] for event in failed]
    note(
        f"a worker raises an exception that nobody foresaw, one of {workers}, once",
        AS_IF_NOTHING,
        training.steps_lost(),
        training.seconds_lost(),
    )


def test_a_worker_that_raises_at_the_same_step_ends_the_run(tmp_path, data_folder, note):
    plan = [{"do": "raise", "step": 15}] * 10
    with Training(tmp_path, "--set", "checkpoint.every_s=1000", plan=plan) as training:
        assert training.ends() == 6, training.output()
    assert "retrying did not help: ValueError: the dog ate the batch" in training.output()
    assert "Traceback" not in training.output()
    assert training.committed()[0].step == 10  # what there was of it is kept
    assert training.result()["status"] == "failed"
    lost = training.steps_lost()
    assert len(lost) == 3  # begun four times
    note("a worker raises each time it gets to step 15", "tries three times, then ends and says why", lost, exit_code=6)


def test_a_worker_that_the_kernel_kills_for_its_memory_is_replaced(tmp_path, undisturbed, note):
    plan = [{"do": "exit137", "step": 15}]
    with Training(tmp_path, *OFTEN, plan=plan) as training:
        assert training.ends() == 0, training.output()
    assert training.state() == undisturbed(1)
    [failed] = training.events("worker_failed")
    assert "killed, out of memory, or cut off" in failed["error"]
    note("a worker exits with 137", AS_IF_NOTHING, training.steps_lost(), training.seconds_lost())


def test_a_kill_by_rays_memory_monitor_is_named(tmp_path, undisturbed, note):
    plan = [{"do": "eat", "step": 15}]
    threshold = {"RAY_memory_usage_threshold": memory_threshold(0.06), "RAY_memory_monitor_refresh_ms": "100"}
    with Training(tmp_path, *OFTEN, plan=plan, environment=threshold) as training:
        exit_code = training.ends()
    assert "ran low on memory" in training.output()
    assert "Traceback" not in training.output()
    if exit_code != 0:  # the monitor may choose the controller
        assert exit_code == ExitCode.TRAINING
        assert "start the run again: it resumes" in training.output()
        with Training(tmp_path, *OFTEN) as training:
            assert training.ends() == 0, training.output()
    assert training.state() == undisturbed(1)
    note(
        "Ray's memory monitor kills what it chooses: a worker, or Ray Train's controller, too",
        "continues by itself, or, if it was the controller, ends and says so, and the same command resumes it; bitwise "
        "the undisturbed weights",
        training.steps_lost(),
        training.seconds_lost(),
        exit_code=exit_code,
    )


def memory_threshold(above):
    """The share of this machine's memory that is in use, and so much more."""
    import psutil

    return str(round(psutil.virtual_memory().percent / 100 + above, 2))


def found(training):
    """Seconds from a worker's last step until the run noticed."""
    first = training.groups()[0][-1]["time"]
    return min(event["time"] for event in training.events("worker_failed")) - first


def running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
