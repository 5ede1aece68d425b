import re

import pytest

from trainer import metrics
from trainer.errors import ConfigError
from trainer.record import Record
from trainer.recorder import Recorder


def test_each_metric_shows_a_number_that_the_recorder_writes(tmp_path):
    recorder = Recorder(tmp_path, peak_lr=0.1)
    ready = {
        "phase": "ready",
        "time": 5.0,
        "device": "cpu",
        "precision": "fp32",
        "precision_reason": "so",
        "threads": 1,
        "data_seconds": 0.1,
        "process_began_at": 1.0,
        "entered_at": 4.0,
        "damaged": [],
        "step": 0,
        "resumed_from": None,
    }
    recorder.after_report(None, [ready], None)
    epoch = {
        "phase": "epoch",
        "epoch": 1,
        "step": 7,
        "lr": 0.5,
        "loss_sum": 10.0,
        "samples": 4,
        "seconds": 2.0,
        "saving_seconds": 0.0,
    }
    recorder.after_report(None, [{**epoch, "test_loss": 0.4, "test_accuracy": 0.9, "evaluation_seconds": 1.0}], None)
    (point,) = Record(tmp_path).points()
    known = {*point, "progress"}  # which the exporter adds: only it knows how many steps there will be
    assert [metric.name for metric in metrics.METRICS if metric.key not in known] == []


def test_names_are_prometheus_names_each_declared_once():
    names = [metric.exported for metric in metrics.METRICS]
    assert len(set(names)) == len(names)
    assert [name for name in names if not re.fullmatch(r"ray_trainer_[a-z_]+", name)] == []
    assert [metric.name for metric in metrics.METRICS if not (metric.help.endswith(".") and metric.unit)] == []


@pytest.mark.parametrize("given", ["soon", "-1", "inf", "nan"])
def test_a_time_for_the_last_scrape_that_is_none_is_refused(monkeypatch, given):
    monkeypatch.setenv(metrics.LAST_SCRAPE, given)
    with pytest.raises(ConfigError, match=f"TRAINER_LAST_SCRAPE_S: '{given}' is no number of seconds"):
        metrics.Exporter("one", 10)


def test_a_run_that_set_nothing_waits_for_no_scrape(monkeypatch):
    monkeypatch.setenv(metrics.LAST_SCRAPE, "3600")
    metrics.Exporter("one", 10).wait_for_last_scrape()
