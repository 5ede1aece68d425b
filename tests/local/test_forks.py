"""A run that begins where another one was, with real Ray."""

from __future__ import annotations

import pytest
from support.runs import SMALL, result_of, run_trainer

from trainer.storage.record import Record


@pytest.mark.longer
def test_a_fork_trains_with_other_settings_and_keeps_its_source(finished):
    folder, _ = finished
    first = Record(folder / "runs" / "one")
    before = {file: file.read_bytes() for file in first.folder.rglob("*") if file.is_file()}
    settings = ["--set", "epochs=3", "--set", "optimizer.lr=0.01"]

    refused = run_trainer(folder, "train", "--name", "one", *SMALL, *settings)
    assert refused.returncode == 5
    assert "trainer fork one NEW" in refused.stderr

    done = run_trainer(folder, "fork", "one", "two", *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "starting from " in done.stdout
    second = Record(folder / "runs" / "two")
    (start,) = [event for event in second.events() if event["event"] == "training_started"]
    assert start["step"] == 60  # of 90: only the third epoch was trained
    assert result_of(folder, "two")["epochs"] == 3
    assert second.points()[0]["learning_rate"] < 0.01
    assert {file: file.read_bytes() for file in first.folder.rglob("*") if file.is_file()} == before

    again = run_trainer(folder, "fork", "one", "two", *settings)
    assert again.returncode == 0
    assert "finished already" in again.stdout


def test_a_fork_that_fits_no_checkpoint_is_refused_before_anything_starts(finished):
    folder, _ = finished
    refused = run_trainer(folder, "fork", "one", "three", "--set", "model.hidden=[8]")
    assert refused.returncode == 2
    assert "whose checkpoints fit only that" in refused.stderr
    assert not (folder / "runs" / "three").exists()
