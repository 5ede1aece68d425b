"""Progress and result as a RayJob's annotations."""

import json

import pytest
from support.fake_kube import rayjob
from support.points import EPOCH, POINT

from trainer import resolve
from trainer.cluster import annotations
from trainer.cluster.annotations import Annotations, progress_annotations
from trainer.cluster.outcome import Outcome
from trainer.errors import ExitCode
from trainer.observe.progress import Progress

CONFIG = resolve.load("fast")
ENDED = Outcome("failed", ExitCode.DATA, "p", "f")


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(annotations.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def progress():
    return Progress(CONFIG)


@pytest.fixture
def written():
    return []


@pytest.fixture
def notes(written, progress):
    return Annotations(written.append, progress, CONFIG)


def test_progress_has_the_columns_of_kubectl(progress):
    progress.add({**EPOCH, "epoch": 2, "step": 100, "train_loss": 0.51234, "test_accuracy": 0.8765})
    progress.add({**POINT, "epoch": 3, "step": 101, "train_loss": 0.5123, "samples_per_second": 6123.4, "time": 1010.1})
    values = progress_annotations(progress, CONFIG)
    assert values.pop("trainer/eta")
    numbers = json.loads(values.pop("trainer/progress"))
    assert (numbers["epoch"], numbers["test_accuracy"], numbers["samples_per_second"]) == (3, 0.8765, 6123.4)
    assert values == {
        "trainer/epoch": f"3/{CONFIG.epochs}",
        "trainer/step": f"101/{CONFIG.total_steps}",
        "trainer/loss": "0.5123",
        "trainer/accuracy": "87.65%",
        "trainer/samples-per-second": "6123",
    }


def test_there_is_no_progress_before_the_first_point(notes, written, progress, clock):
    assert progress_annotations(progress, CONFIG) == {}
    notes.write_progress(rayjob())
    assert written == []


def test_progress_is_written_every_five_seconds(notes, written, progress, clock):
    for second in range(11):
        clock[0] = 1000.0 + second
        progress.add({**POINT, "step": second + 1})
        notes.write_progress(rayjob())
    assert [values["trainer/step"].split("/")[0] for values in written] == ["1", "6", "11"]


def test_progress_that_is_there_already_is_not_written(notes, written, progress, clock):
    progress.add(POINT)
    notes.write_progress(rayjob(annotations=progress_annotations(progress, CONFIG)))
    assert written == []


def test_the_end_is_written_with_the_last_progress(notes, written, progress):
    progress.add(POINT)
    notes.write_end(rayjob(), ENDED)
    assert json.loads(written[0].pop("trainer/result")) == ENDED.as_result()
    assert written == [progress_annotations(progress, CONFIG)]


def test_nothing_is_written_on_a_rayjob_that_is_being_deleted(notes, written):
    notes.write_end(rayjob(deleted=True), ENDED)
    assert written == []
