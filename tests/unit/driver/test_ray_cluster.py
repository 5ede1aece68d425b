import pytest

from trainer.driver import ray_cluster


@pytest.mark.parametrize(("address", "own"), [(None, True), ("10.0.0.1:6379", False), ("auto", False)])
def test_ray_address_says_whose_cluster_it_is(monkeypatch, address, own):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert ray_cluster.is_own() is own


@pytest.mark.parametrize(("address", "watcher"), [(None, "0"), ("10.0.0.1:6379", None)])
def test_only_a_shared_cluster_is_watched_for_preemption(monkeypatch, address, watcher):
    environment = {"RAY_ADDRESS": address} if address else {}
    monkeypatch.setattr(ray_cluster.os, "environ", environment)
    ray_cluster.set_timings()
    assert environment.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER") == watcher
    assert environment.items() >= ray_cluster.TIMINGS.items()


def test_what_is_set_already_wins(monkeypatch):
    environment = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "9"}
    monkeypatch.setattr(ray_cluster.os, "environ", environment)
    ray_cluster.set_timings()
    assert environment["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "9"
