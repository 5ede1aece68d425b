import re

import pytest

from trainer.config import Config
from trainer.errors import ConfigError
from trainer.observe import metrics
from trainer.storage.record import Record


def test_names_are_prometheus_names_each_declared_once():
    names = [metric.exported for metric in metrics.METRICS]
    assert len(set(names)) == len(names)
    assert [name for name in names if not re.fullmatch(r"ray_trainer_[a-z_]+", name)] == []
    assert [metric.name for metric in metrics.METRICS if not (metric.help.endswith(".") and metric.unit)] == []


@pytest.mark.parametrize("given", ["soon", "-1", "inf", "nan"])
def test_a_time_for_the_last_scrape_that_is_none_is_refused(monkeypatch, tmp_path, given):
    monkeypatch.setenv(metrics.LAST_SCRAPE, given)
    with pytest.raises(ConfigError, match=f"TRAINER_LAST_SCRAPE_S: '{given}' must be a number of seconds"):
        metrics.Exporter(Record(tmp_path), Config())


def test_a_run_that_set_nothing_waits_for_no_scrape(monkeypatch, tmp_path):
    monkeypatch.setenv(metrics.LAST_SCRAPE, "3600")
    metrics.Exporter(Record(tmp_path), Config()).wait_for_last_scrape()
