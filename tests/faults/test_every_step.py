"""A worker killed before every step of a run: it ends as if nothing had happened."""

from __future__ import annotations

import pytest
from support.training import OFTEN, STEPS, Training

RUNS = 6  # of each number of workers: one run with a kill every so many steps, and the next a step later


@pytest.mark.parametrize("first", range(RUNS))
@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_killed_before_every_sixth_step_changes_nothing(workers, first, tmp_path, undisturbed, note):
    steps = range(first, STEPS, RUNS)
    plan = [{"do": "kill", "step": step, "rank": step // RUNS % workers} for step in steps]
    with Training(tmp_path, *OFTEN, "--workers", str(workers), plan=plan) as training:
        assert training.ends(600) == 0, training.output()
    assert len(list(training.marks.iterdir())) == len(plan)  # each was killed
    assert training.state() == undisturbed(workers)
    assert len(training.groups()) == len(plan) + 1
    assert len(training.events("worker_failed")) >= len(plan)
    assert training.result()["status"] == "finished"
    lost, seconds = training.steps_lost(), training.seconds_lost()
    assert len(lost) == len(plan)
    note(
        f"SIGKILL of a worker before each of 60 steps; {workers} in total",
        "continues by itself; weights, optimizer and random numbers bitwise those of an undisturbed run",
        steps_lost=lost,
        seconds=seconds,
    )
