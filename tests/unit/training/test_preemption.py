"""Notices as Ray gives them; that a real drain leads to one is shown in tests/faults."""

from types import SimpleNamespace

import pytest
import ray.train

from trainer.training.preemption import Notice


@pytest.fixture
def told(monkeypatch):
    """A function that sets what Ray says: the deadline of a node, or None."""
    known = [None]
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: known[0])

    def say(deadline_ms):
        known[0] = None if deadline_ms is None else SimpleNamespace(deadline_ms=deadline_ms)

    return say


def test_a_notice_is_new_once_and_holds_until_ray_takes_it_back(told):
    notice = Notice()
    assert not notice.is_new()
    assert not notice.holds
    told(1000)
    assert notice.is_new()
    assert not notice.is_new()
    assert notice.holds
    told(2000)  # another node
    assert notice.is_new()
    told(None)
    assert not notice.is_new()
    assert not notice.holds


def test_asking_is_dear_and_not_done_again_at_once():
    notice = Notice()
    assert not notice.may_be_asked()
    notice._asked -= 1.5
    assert notice.may_be_asked()
    assert not Notice().may_be_asked()
