"""Non-finite losses and gradients in real runs: never saved, rolled back once, and then the run ends."""

from __future__ import annotations

import pytest
from support.training import OFTEN, Training

from trainer.storage import checkpoints
from trainer.training.state import from_files

KEPT = ["--set", "checkpoint.keep=100"]


def poisoned(folder, steps, *arguments):
    """A run in which these steps make the weights no numbers, when it is over; its exit code."""
    plan = [{"do": "poison", "step": step} for step in steps]
    with Training(folder, *OFTEN, *KEPT, *arguments, plan=plan) as run:
        code = run.ends()
    return run, code


def saved_steps(run):
    """The steps of all checkpoints; every number in them is one."""
    for each in run.committed():
        files, _ = checkpoints.read(run.place, each)
        assert all(bool(t.isfinite().all()) for t in from_files(files).values() if t.is_floating_point()), each.name
    return [each.step for each in run.committed()]


@pytest.mark.longer
@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_run_goes_back_and_leaves_out_the_batches_that_led_to_it(workers, tmp_path, data_folder):
    run, code = poisoned(tmp_path, [26], "--workers", str(workers))
    assert code == 0, run.output()
    assert "rolled back: the loss was not finite; skipping steps " in run.output()
    ((first, last),) = [event["left_out"] for event in run.events("rolled_back")]
    assert 11 <= first <= 27 <= last <= 30
    saved = saved_steps(run)
    assert saved[0] == 60
    assert not set(saved) & set(range(first, last))
    assert run.result()["test_accuracy"] > 0.7
    assert [event["step"] for event in run.events("training_started")] == [0, first - 1]


@pytest.mark.longer
def test_a_second_divergence_stops_the_run_without_a_bad_checkpoint(tmp_path, data_folder):
    run, code = poisoned(tmp_path, [26, 45])
    assert code == 9, run.output()
    assert "in epoch 5, by step 46: training diverged; lower optimizer.lr" in run.output()
    assert run.result()["exit_code"] == 9
    assert 30 < saved_steps(run)[0] <= 45
