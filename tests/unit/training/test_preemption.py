"""Notices with a mocked Ray; tests/faults shows that a real drain leads to one."""

from types import SimpleNamespace

import pytest
import ray.train

from trainer.training.preemption import Notice


@pytest.fixture
def announce(monkeypatch):
    """A function that sets Ray's answer: the deadline of a node, or None."""
    answer = [None]
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: answer[0])

    def announce(deadline_ms):
        answer[0] = None if deadline_ms is None else SimpleNamespace(deadline_ms=deadline_ms)

    return announce


def test_a_notice_is_new_once_and_holds_until_ray_withdraws_it(announce):
    notice = Notice()
    assert not notice.ask()
    assert not notice.holds
    announce(1000)
    assert notice.ask()
    assert not notice.ask()
    assert notice.holds
    announce(2000)  # another node
    assert notice.ask()
    announce(None)
    assert not notice.ask()
    assert not notice.holds


def test_ray_is_not_asked_again_at_once():
    notice = Notice()
    assert not notice.is_time_to_ask()
    notice._asked_at -= 1.5
    assert notice.is_time_to_ask()
    assert not Notice().is_time_to_ask()
