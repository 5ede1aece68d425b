"""Losses and gradients that are no numbers, in real runs: never saved, gone back from once, and then a sentence."""

from __future__ import annotations

import pytest
from local.runs import in_workers, result_of, run_trainer

from trainer import checkpoint
from trainer.record import Record
from trainer.state import from_files

# 6 epochs of 10 steps, all checkpoints kept
RUN = ["--recipe", "fast", "--set", "global_batch_size=6000", "--set", "epochs=6", "--set", "checkpoint.every_s=0"]
RUN += ["--set", "checkpoint.keep=100"]
# In every worker: one step of the optimizer makes the weights no numbers, though the loss of that step is one.
POISON = """
from trainer import optimizer
usual = optimizer.schedule
optimizer.schedule = lambda config, step, total: float("nan") if step in {steps} else usual(config, step, total)
"""


def poisoned(folder, steps, *arguments):
    return run_trainer(
        folder, "train", "--name", "one", *RUN, *arguments, **in_workers(folder, POISON.format(steps=steps))
    )


def saved_steps(folder):
    """The steps of all checkpoints; every number in them is one."""
    run = str(folder / "runs" / "one")
    committed = checkpoint.look(run).committed
    for each in committed:
        files, _ = checkpoint.read(run, each)
        assert all(bool(t.isfinite().all()) for t in from_files(files).values() if t.is_floating_point()), each.name
    return [each.step for each in committed]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_goes_back_and_leaves_out_the_batches_that_led_to_it(workers, tmp_path, data_folder):
    done = poisoned(tmp_path, [26], "--workers", str(workers))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "gone back to before the loss became no number; steps " in done.stdout
    events = Record(tmp_path / "runs" / "one").events()
    ((first, last),) = [event["left_out"] for event in events if event["event"] == "rolled_back"]
    assert 11 <= first <= 27 <= last <= 30
    saved = saved_steps(tmp_path)
    assert saved[0] == 60
    assert not set(saved) & set(range(first, last))
    assert result_of(tmp_path, "one")["test_accuracy"] > 0.7
    assert [event["step"] for event in events if event["event"] == "training_started"] == [0, first - 1]


def test_if_it_happens_again_the_run_stops_with_its_own_code_and_without_a_bad_checkpoint(tmp_path, data_folder):
    done = poisoned(tmp_path, [26, 45])
    assert done.returncode == 9, done.stdout + done.stderr
    assert "in epoch 5, by step 46: training diverged; lower optimizer.lr" in done.stderr
    assert result_of(tmp_path, "one")["exit_code"] == 9
    assert 30 < saved_steps(tmp_path)[0] <= 45
