import io
import math

import matplotlib.image
import numpy as np
import pytest
from support.points import EPOCH, POINT

from trainer.observe import plots

pytestmark = pytest.mark.server

POINTS = [{**POINT, "elapsed": 1.0, "epochs_done": 0.5}, {**EPOCH, "elapsed": 2.0, "epochs_done": 1.0}]
EVALUATION = {
    "confusion": np.eye(10, dtype=int).tolist(),
    "class_accuracy": {"Bag": 0.9},
    "mistakes": [{"label": "Bag", "prediction": "Coat", "confidence": 0.9, "pixels": np.zeros((28, 28), np.uint8)}],
}


def size(png):
    return matplotlib.image.imread(io.BytesIO(png)).shape[:2]


def test_a_finished_run_has_every_picture():
    pictures = plots.of_run(POINTS, EVALUATION, {"training": 1.0, "wall": 2.0})
    assert set(pictures) == set(plots.RUN_PICTURES)
    assert all(min(size(png)) > 100 for png in pictures.values())


def test_a_run_without_numbers_has_no_pictures():
    assert plots.of_run([], None, None) == {}


@pytest.mark.parametrize("loss", [None, math.nan, math.inf])
def test_a_loss_that_is_no_finite_number_is_not_drawn(loss):
    points = [{**point, "train_loss": loss, "test_loss": math.nan} for point in POINTS]
    assert "loss" not in plots.of_run(points, None, None)


def test_runs_are_compared_by_epoch_time_and_loss():
    assert set(plots.of_runs({"a": POINTS, "b": POINTS})) == set(plots.COMPARISON_PICTURES)


def test_how_busy_nodes_were_has_a_line_for_each_and_a_mark_for_each_attempt(monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "_png", lambda axes: drawn.append(axes) or b"png")
    lines = [{"elapsed": float(at), "cpu": at / 100, "memory_bytes": 2**30} for at in (10, 20, 30)]
    assert set(plots.of_usage({"a": lines, "b": lines[:2]}, [15.0, 25.0])) == {"cpu", "memory"}
    cpu = drawn[0]
    assert [list(line.get_ydata()) for line in cpu.get_lines()[:2]] == [[10.0, 20.0, 30.0], [10.0, 20.0]]
    assert [line.get_xdata()[0] for line in cpu.get_lines()[2:]] == [15.0, 25.0]
    assert [text.get_text() for text in cpu.get_legend().get_texts()] == ["a", "b"]
    assert plots.of_usage({}, []) == {}
