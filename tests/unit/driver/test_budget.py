import pytest
from support.points import POINT

from trainer.config import Config
from trainer.driver import budget as budgets
from trainer.driver import interrupts
from trainer.driver.budget import Guard
from trainer.errors import ExitCode
from trainer.observe.cost import Budget, Prices
from trainer.storage.record import Record

CONFIG = Config(epochs=1)
PRICES = Prices("EUR", {"cpu": 3.60}, {})  # a thousandth a second


@pytest.fixture
def ended(monkeypatch):
    """The errors that the run was ended with."""
    errors = []
    monkeypatch.setattr(interrupts, "give_up", errors.append)
    return errors


@pytest.fixture
def at(monkeypatch):
    """Set the time."""
    return lambda seconds: monkeypatch.setattr(budgets.time, "time", lambda: seconds)


@pytest.fixture
def record(tmp_path):
    """A run with one pod since second 1000, half done after 100 s of training."""
    record = Record(tmp_path)
    record.add_node({"time": 1000.0, "node": "a", "alive": True, "pod": "p", "group": "cpu", "spot": False})
    half = {"step": 59, "samples": 59 * CONFIG.global_batch_size, "seconds": 100.0}
    record.add_point({**POINT, **half, "time": 1100.0})
    return record


def warnings(record):
    return [event["message"] for event in record.events() if event["event"] == "warning"]


def test_a_run_that_is_going_to_cost_more_warns_once(record, ended, at):
    at(1100.0)
    guard = Guard(record, CONFIG, PRICES, Budget(0.15, stop=False))
    guard.check()
    guard.check()
    (warning,) = warnings(record)
    assert warning == "budget: the run is going to cost 0.20 EUR, and its budget is 0.15 EUR; it continues"
    at(1300.0)
    guard.check()
    assert (len(warnings(record)), ended) == (1, [])


def test_a_run_within_its_budget_says_nothing(record, ended, at):
    at(1100.0)
    Guard(record, CONFIG, PRICES, Budget(0.25, stop=True)).check()
    Guard(record, CONFIG, PRICES, None).check()
    Guard(record, CONFIG, None, Budget(0.01, stop=True)).check()
    assert (warnings(record), ended) == ([], [])


def test_a_run_that_has_spent_its_budget_ends_after_a_checkpoint(record, ended, at):
    guard = Guard(record, CONFIG, PRICES, Budget(0.15, stop=True))
    at(1160.0)
    guard.check()
    assert warnings(record)[0].endswith("it ends when that is spent")
    record.add_point({**POINT, "time": 1165.0, "checkpoint_step": 59, "checkpoint_at": 1159.0})  # made before
    at(1166.0)
    guard.check()
    assert ended == []
    record.add_point({**POINT, "time": 1171.0, "checkpoint_step": 80, "checkpoint_at": 1170.0})
    at(1172.0)
    guard.check()
    (error,) = ended
    assert error.exit_code is ExitCode.BUDGET
    assert not error.retry
    assert "cost 0.17 EUR of 0.15 EUR" in error.problem
    assert "raise budget.amount" in error.fix
