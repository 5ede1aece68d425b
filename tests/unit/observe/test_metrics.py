import json
import re

import pytest
from support.points import EPOCH, POINT

from trainer import __version__
from trainer.config import Config
from trainer.errors import ConfigError
from trainer.observe import cost, metrics
from trainer.storage.record import Record


def test_names_are_prometheus_names_each_declared_once():
    names = [metric.exported for metric in metrics.METRICS]
    assert len(set(names)) == len(names)
    assert [name for name in names if not re.fullmatch(r"ray_trainer_[a-z_]+", name)] == []
    assert [metric.name for metric in metrics.METRICS if not (metric.help.endswith(".") and metric.unit)] == []


class Gauges:
    """Takes the place of Ray's gauges: what each series was last set to."""

    def __init__(self):
        self.series = {}

    def __call__(self, name, _description, tag_keys):
        return type("Gauge", (), {"set": lambda _, value, tags: self._set(name, tag_keys, value, tags)})()

    def _set(self, name, tag_keys, value, tags):
        assert set(tags) == set(tag_keys)
        self.series[(name, *(tags[key] for key in tag_keys if key != "run"))] = value


@pytest.fixture
def exported(monkeypatch, tmp_path):
    """An exporter of a run of two workers, and what it exports."""
    import ray.util.metrics

    gauges = Gauges()
    monkeypatch.setattr(ray.util.metrics, "Gauge", gauges)
    record = Record(tmp_path / "r1")
    exporter = metrics.Exporter(record, Config(workers=2, epochs=1), image="trainer:1.0")
    exporter.event({"event": "run_started", "process_created": 1000.0, "time": 1001.0})
    yield exporter, gauges.series
    exporter._stop()


STARTED = {
    "event": "training_started",
    "attempt": 1,
    "workers": 2,
    "workers_wanted": 2,
    "processes_began_at": 1002.0,
    "entered_at": 1004.0,
    "started_at": 1005.0,
    "step": 0,
    "device": "cpu",
    "precision": "fp32",
    "time": 1005.0,
}
STEPS = {**POINT, "workers": 2, "step": 59, "time": 1015.0, "samples": 30208}


def test_a_run_is_seen_as_soon_as_it_has_workers(exported):
    exporter, series = exported
    exporter.event(STARTED)
    assert series["trainer_workers",] == series["trainer_workers_wanted",] == 2
    assert [series[f"trainer_{name}",] for name in ("worker_failures", "preemptions", "rollbacks")] == [0, 0, 0]
    assert series["trainer_storage_away",] == 0
    assert series["trainer_start_timestamp_seconds",] == 1000.0
    (info,) = [key[1:] for key in series if key[0] == "trainer_info"]
    assert info[1:] == (Config(workers=2, epochs=1).sha256[:12], "trainer:1.0", "cpu", "fp32", __version__)


def test_what_happens_to_a_run_is_counted_over_all_its_attempts(exported):
    exporter, series = exported
    exporter.event(STARTED)
    exporter.point({**STEPS, "checkpoint_step": 50, "checkpoint_at": 1014.0})
    for rank in (0, 1):
        exporter.event({"event": "worker_failed", "attempt": 1, "rank": rank, "time": 1016.0})
    exporter.event({"event": "preempted", "attempt": 1, "time": 1016.0})
    exporter.event({"event": "rolled_back", "attempt": 2, "time": 1017.0})
    exporter.event({**STARTED, "attempt": 2, "started_at": 1020.0, "time": 1020.0, "step": 50})
    assert [series[f"trainer_{name}",] for name in ("worker_failures", "preemptions", "rollbacks")] == [2, 1, 1]
    assert (series["trainer_checkpoint_step",], series["trainer_checkpoint_timestamp_seconds",]) == (50, 1014.0)
    assert series["trainer_time_seconds", "recovery"] == 4.0
    assert series["trainer_attempt",] == 2
    assert series["trainer_paid_worker_seconds",] == 40.0
    assert (series["trainer_progress_ratio",], series["trainer_eta_seconds",]) == (0.5, pytest.approx(10.0))
    exporter.point({**STEPS, "attempt": 2, "step": 60, "seconds": 5.0, "time": 1025.0})
    # step 59 came after the checkpoint at step 50
    assert (series["trainer_time_seconds", "redone"], series["trainer_productive_worker_seconds",]) == (11.0, 10.0)


def test_money_is_exported_where_there_are_prices(monkeypatch, tmp_path):
    import ray.util.metrics

    gauges = Gauges()
    monkeypatch.setattr(ray.util.metrics, "Gauge", gauges)
    prices = {"currency": "EUR", "groups": {"head": {"perHour": 3.6}}}
    monkeypatch.setenv(cost.PRICES, json.dumps(prices))
    monkeypatch.setenv(cost.BUDGET, "5")
    record = Record(tmp_path)
    record.add_node({"time": 1000.0, "node": "a", "alive": True, "pod": "p", "group": "head", "spot": False})
    exporter = metrics.Exporter(record, Config(epochs=1))
    exporter.event({"event": "run_started", "process_created": 1000.0, "time": 1001.0})
    exporter.event(STARTED)
    exporter.point({**STEPS, "time": 1100.0, "seconds": 50.0})
    exporter._stop()
    money = ("price_per_hour", "cost", "productive_cost", "budget")
    found = {name: gauges.series[f"trainer_{name}", "EUR"] for name in money}
    assert found == {
        "price_per_hour": pytest.approx(3.6),
        "cost": pytest.approx(0.1),
        "productive_cost": pytest.approx(0.05),
        "budget": 5.0,
    }


@pytest.mark.parametrize("end", ["storage_back", "training_started"])
def test_a_storage_is_away_until_it_is_back_or_training_starts_again(exported, end):
    exporter, series = exported
    exporter.event(STARTED)
    exporter.event({"event": "storage_away", "time": 1006.0})
    exporter.event({"event": "storage_away", "time": 1007.0})
    assert series["trainer_storage_away",] == 1
    exporter.event({**STARTED, "event": end, "time": 1008.0})
    assert series["trainer_storage_away",] == 0


def test_a_run_has_no_more_series_than_the_docs_say(exported):
    exporter, series = exported
    exporter.event(STARTED)
    for step in range(59, 118):
        exporter.point({**STEPS, **EPOCH, "step": step, "checkpoint_step": 50, "checkpoint_at": 1014.0})
        exporter.event({"event": "worker_failed", "attempt": 1, "rank": step, "time": 1016.0})
    money = ("price_per_hour", "cost", "productive_cost", "budget")  # of a cluster without prices there are none
    assert len(series) + len(money) == metrics.MOST_SERIES


@pytest.mark.parametrize("given", ["soon", "-1", "inf", "nan"])
def test_a_time_for_the_last_scrape_that_is_none_is_refused(monkeypatch, tmp_path, given):
    monkeypatch.setenv(metrics.LAST_SCRAPE, given)
    with pytest.raises(ConfigError, match=f"TRAINER_LAST_SCRAPE_S: '{given}' must be a number of seconds"):
        metrics.Exporter(Record(tmp_path), Config())


def test_a_run_that_set_nothing_waits_for_no_scrape(monkeypatch, tmp_path):
    monkeypatch.setenv(metrics.LAST_SCRAPE, "3600")
    metrics.Exporter(Record(tmp_path), Config()).wait_for_last_scrape()
