"""How long a silent or refusing cluster is asked again, on a clock of the test's own."""

import pytest

from trainer.cluster import patience
from trainer.cluster.patience import Patience
from trainer.errors import ClusterError, LostConnectionError

LOST = LostConnectionError("cluster: no answer")
REFUSED = ClusterError("rights: you may not get rayjobs")


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(patience.time, "monotonic", lambda: now[0])
    return now


def test_a_silence_is_announced_once(clock):
    waiting = Patience()
    assert [waiting.failed(LOST) for _ in range(3)] == [True, False, False]


def test_a_refusal_is_announced_beside_a_silence(clock):
    waiting = Patience()
    assert [waiting.failed(error) for error in (LOST, REFUSED, LOST, REFUSED)] == [True, True, False, False]


def test_a_new_silence_is_announced_again(clock):
    waiting = Patience()
    waiting.failed(LOST)
    waiting.succeeded()
    assert waiting.failed(LOST) is True


def test_an_answer_says_how_long_the_silence_was(clock):
    waiting = Patience()
    assert waiting.succeeded() is None
    waiting.failed(LOST)
    clock[0] = 12.0
    assert waiting.succeeded() == 12.0
    assert waiting.succeeded() is None


@pytest.mark.parametrize(("error", "limit_s"), [(LOST, 900.0), (REFUSED, 60.0)])
def test_what_lasts_too_long_is_raised(clock, error, limit_s):
    waiting = Patience()
    waiting.failed(error)
    clock[0] = limit_s
    waiting.failed(error)
    clock[0] = limit_s + 1
    with pytest.raises(type(error)) as raised:
        waiting.failed(error)
    assert raised.value is error


def test_the_minute_of_refusals_begins_after_the_silence(clock):
    waiting = Patience()
    waiting.failed(LOST)
    clock[0] = 800.0
    waiting.failed(REFUSED)
    clock[0] = 860.0
    assert waiting.failed(REFUSED) is False


def test_a_silence_between_refusals_begins_a_new_minute(clock):
    waiting = Patience()
    waiting.failed(REFUSED)
    clock[0] = 50.0
    waiting.failed(LOST)
    clock[0] = 100.0
    assert waiting.failed(REFUSED) is False


def test_the_quarter_of_an_hour_includes_refusals(clock):
    waiting = Patience()
    waiting.failed(REFUSED)
    clock[0] = 901.0
    with pytest.raises(LostConnectionError):
        waiting.failed(LOST)
