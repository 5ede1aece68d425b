import threading
import time

import pytest
import torch

from trainer.errors import CheckpointError, OutageError, StorageError
from trainer.storage import checkpoints, lease, store
from trainer.training import async_saver
from trainer.training.async_saver import AsyncSaver, NullSaver
from trainer.training.state import from_files


@pytest.fixture
def run(tmp_path):
    with lease.Lease(str(tmp_path / "r"), lambda: None):
        yield str(tmp_path / "r")


def state(value=0.0):
    return {"model.w": torch.full((3,), value), "optimizer.0.0.m": torch.zeros(3), "rng.0.cpu": torch.get_rng_state()}


def test_a_saved_state_is_committed_with_its_facts(run):
    saver = AsyncSaver(run, 1, {"seed": 4}, keep=3, max_outage_s=1)
    saver.save(7, 2, state(1.0))
    saver.finish()
    found, files, manifest = checkpoints.newest_valid(run, None)
    assert (found.step, manifest["epoch"], manifest["seed"]) == (7, 2, 4)
    assert torch.equal(from_files(files)["model.w"], torch.ones(3))


def test_only_the_newest_state_waits_for_a_slow_commit(run, monkeypatch):
    go, began = threading.Event(), threading.Event()
    real = checkpoints.commit

    def slow(*arguments):
        began.set()
        assert go.wait(10)
        real(*arguments)

    monkeypatch.setattr(checkpoints, "commit", slow)
    saver = AsyncSaver(run, 1, {}, keep=3, max_outage_s=1)
    saver.save(1, 1, state())
    assert began.wait(10)
    for step in (2, 3, 4):
        saver.save(step, 1, state())  # returns at once: training continues
    go.set()
    saver.finish()
    assert [checkpoint.step for checkpoint in checkpoints.list_checkpoints(run).committed] == [4, 1]


def test_a_short_outage_loses_no_checkpoint(run, monkeypatch):
    monkeypatch.setattr(store, "RETRY_EVERY_S", 0.01)
    tries, real = [], store.write

    def failing(uri, content):
        if checkpoints.FOLDER in uri:
            tries.append(uri)
            if len(tries) < 5:
                raise OutageError("storage: away")
        real(uri, content)

    monkeypatch.setattr(store, "write", failing)
    saver = AsyncSaver(run, 1, {}, keep=3, max_outage_s=30)
    saver.save(1, 1, state())
    saver.finish()
    assert [checkpoint.step for checkpoint in checkpoints.list_checkpoints(run).committed] == [1]


def test_a_long_outage_raises_at_finish_and_at_the_next_save(run, monkeypatch):
    monkeypatch.setattr(store, "RETRY_EVERY_S", 0.01)

    def failing(uri, content):
        raise OutageError("storage: away")

    monkeypatch.setattr(checkpoints, "commit", lambda *_: failing("", b""))
    saver = AsyncSaver(run, 1, {}, keep=3, max_outage_s=0.05)
    saver.save(1, 1, state())
    with pytest.raises(OutageError, match=r"No checkpoint could be saved for 0 s: storage: away"):
        saver.finish()
    with pytest.raises(OutageError):
        saver.save(2, 1, state())


def test_a_step_is_saved_again_only_if_its_checkpoint_is_damaged(run):
    for expected in (["step-00000007-0001"], ["step-00000007-0001"]):
        saver = AsyncSaver(run, 1, {}, keep=3, max_outage_s=1)
        saver.save(7, 2, state())
        saver.finish()
        assert [checkpoint.name for checkpoint in checkpoints.list_checkpoints(run).committed] == expected
    checkpoints.quarantine(run, checkpoints.Checkpoint(7, 1), "for the test")
    saver = AsyncSaver(run, 1, {}, keep=3, max_outage_s=1)
    saver.save(7, 2, state(1.0))
    saver.finish()
    found, *_ = checkpoints.newest_valid(run, None)
    assert found.name == "step-00000007-0001-1"


def test_an_unexpected_error_ends_the_run_at_once(run, monkeypatch):
    def broken(*_):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(checkpoints, "commit", broken)
    saver = AsyncSaver(run, 1, {}, keep=3, max_outage_s=600)
    saver.save(1, 1, state())
    with pytest.raises(CheckpointError, match="A checkpoint could not be saved: RuntimeError: out of luck"):
        saver.finish()


def test_a_refused_commit_is_not_retried(run, monkeypatch):
    tries = []

    def refused(*_):
        tries.append(1)
        raise StorageError("storage: refused")

    monkeypatch.setattr(checkpoints, "commit", refused)
    saver = AsyncSaver(run, 1, {}, keep=3, max_outage_s=600)
    saver.save(1, 1, state())
    with pytest.raises(StorageError, match="refused"):
        saver.finish()
    assert tries == [1]


def test_nothing_is_committed_after_another_process_took_the_run(run):
    store.write(lease._object(run, 2, "json"), b"{}")
    saver = AsyncSaver(run, 1, {}, keep=3, max_outage_s=1)
    saver.save(1, 1, state())
    with pytest.raises(CheckpointError, match="Another process has taken over"):
        saver.finish()
    assert checkpoints.list_checkpoints(run).committed == []


def test_a_save_is_due_every_so_many_seconds(run, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(async_saver.time, "monotonic", lambda: now[0])
    saver = AsyncSaver(run, 1, {}, keep=3, max_outage_s=1)
    assert not saver.is_due(30)
    now[0] += 30
    assert saver.is_due(30)
    assert not saver.is_due(31)
    monkeypatch.setattr(async_saver.time, "monotonic", time.perf_counter)
    saver.finish()


def test_the_best_checkpoint_is_kept_also_by_the_next_process(run):
    saver = AsyncSaver(run, 1, {}, keep=1, max_outage_s=1)
    for step, accuracy in ((1, 0.5), (2, 0.9), (3, 0.7)):
        saver.save(step, 1, state())
        saver.note_score(step, accuracy)
        while checkpoints.list_checkpoints(run).committed[:1] != [checkpoints.Checkpoint(step, 1)]:
            time.sleep(0.01)
    saver.finish()
    assert [checkpoint.step for checkpoint in checkpoints.list_checkpoints(run).committed] == [3, 2]
    assert checkpoints.best(run) == checkpoints.Best(2, 0.9)
    saver = AsyncSaver(run, 1, {}, keep=1, max_outage_s=1)
    saver.save(4, 2, state())
    saver.note_score(4, 0.8)
    saver.finish()
    assert [checkpoint.step for checkpoint in checkpoints.list_checkpoints(run).committed] == [4, 2]


def test_a_score_without_a_saved_state_is_not_the_best(run):
    saver = AsyncSaver(run, 1, {}, keep=1, max_outage_s=1)
    saver.save(1, 1, state())
    saver.note_score(2, 0.99)
    saver.finish()
    assert checkpoints.best(run) is None


def take_away(monkeypatch):
    """Let every commit fail until the first event is cleared; the second is set by the first try."""
    monkeypatch.setattr(store, "RETRY_EVERY_S", 0.01)
    away, tried, real = threading.Event(), threading.Event(), checkpoints.commit
    away.set()

    def commit(*arguments):
        tried.set()
        if away.is_set():
            raise OutageError("storage: away")
        real(*arguments)

    monkeypatch.setattr(checkpoints, "commit", commit)
    return away, tried


def test_a_newer_state_replaces_an_older_one_during_an_outage(run, monkeypatch):
    away, tried = take_away(monkeypatch)
    saver = AsyncSaver(run, 1, {}, keep=3, max_outage_s=30)
    saver.save(1, 1, state())
    assert tried.wait(10)
    saver.save(2, 1, state())
    while saver.outage is None or saver._waiting is not None:
        time.sleep(0.01)
    assert "away" in saver.outage
    away.clear()
    saver.finish()
    assert [checkpoint.step for checkpoint in checkpoints.list_checkpoints(run).committed] == [2]
    assert saver.outage is None


def test_a_known_outage_holds_up_the_end_without_delay(run, monkeypatch):
    away, _ = take_away(monkeypatch)
    saver = AsyncSaver(run, 1, {}, keep=3, max_outage_s=30)
    saver.save(1, 1, state())
    while saver.outage is None:
        time.sleep(0.01)
    why, waits_s = saver.held_up(60)  # the outage is known already, so this does not wait a minute
    assert why == "storage: away."
    assert 80 < waits_s < 91  # the rest of the 30 s, a pause, and a request without an answer
    away.clear()
    saver.finish()
    assert saver.held_up(60) is None


def test_a_silent_store_holds_up_the_end_after_the_quiet_time(run, monkeypatch):
    back, real = threading.Event(), checkpoints.commit

    def commit(*arguments):
        assert back.wait(30)
        real(*arguments)

    monkeypatch.setattr(checkpoints, "commit", commit)
    saver = AsyncSaver(run, 1, {}, keep=3, max_outage_s=30)
    saver.save(1, 1, state())
    why, _ = saver.held_up(0.05)
    assert why == f"storage: {run} has not taken the last checkpoint in 0.05 s."
    back.set()
    assert saver.held_up(60) is None
    saver.finish()


def test_a_failed_commit_is_an_error_and_not_a_hold_up(run, monkeypatch):
    def refused(*_):
        raise StorageError("storage: refused")

    monkeypatch.setattr(checkpoints, "commit", refused)
    saver = AsyncSaver(run, 1, {}, keep=3, max_outage_s=600)
    saver.save(1, 1, state())
    assert saver.held_up(60) is None
    with pytest.raises(StorageError, match="refused"):
        saver.finish()


def test_a_null_saver_takes_everything_and_commits_nothing():
    saver = NullSaver()
    saver.save(1, 1, state())
    saver.note_score(1, 0.9)
    saver.finish()
    assert not saver.is_due(0)
    assert saver.held_up(60) is None
    assert saver.outage is None
