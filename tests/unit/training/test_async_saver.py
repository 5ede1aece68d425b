import threading
import time

import pytest
import torch
from torch import nn

from trainer import resolve
from trainer.errors import CheckpointError, OutageError, StorageError
from trainer.storage import checkpoints, lease, store
from trainer.training import async_saver, model, optimizer
from trainer.training.async_saver import Saver
from trainer.training.state import capture, from_files, restore, to_files

CPU = torch.device("cpu")


def training(name, seed=0):
    """A small network with dropout, its optimizers, and a function that trains it one step."""
    settings = ["model.hidden=[16]", "model.dropout=0.5", f"optimizer.name={name}", "optimizer.lr=0.01"]
    config = resolve.load(None, None, settings)
    torch.manual_seed(seed)
    network = model.build(config.model)
    optimizers = optimizer.build(network, config.optimizer)

    def step():
        loss = nn.functional.cross_entropy(network(torch.rand(8, 784)), torch.randint(10, (8,)))
        network.zero_grad()
        loss.backward()
        for each in optimizers:
            each.step()

    return network, optimizers, step


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_training_goes_on_from_a_state_as_if_nothing_had_happened(name):
    network, optimizers, step = training(name)
    for _ in range(3):
        step()
    files = to_files(capture(network, optimizers, CPU, 1))
    for _ in range(3):
        step()
    expected = capture(network, optimizers, CPU, 1)
    network, optimizers, step = training(name, seed=9)  # another process
    assert restore(from_files(files), network, optimizers, CPU, 0)
    for _ in range(3):
        step()
    again = capture(network, optimizers, CPU, 1)
    assert again.keys() == expected.keys()
    assert [key for key in again if not torch.equal(again[key], expected[key])] == []


def test_a_state_is_a_copy_that_later_steps_do_not_change():
    network, optimizers, step = training("muon")
    step()
    state = capture(network, optimizers, CPU, 1)
    before = to_files(state)
    step()
    assert to_files(state) == before


def test_a_rank_that_was_not_there_is_told_so():
    network, optimizers, step = training("sgd")
    step()
    assert not restore(capture(network, optimizers, CPU, 1), network, optimizers, CPU, 1)


@pytest.fixture
def run(tmp_path):
    with lease.Lease(str(tmp_path / "r"), lambda: None):
        yield str(tmp_path / "r")


def state(value=0.0):
    return {"model.w": torch.full((3,), value), "optimizer.0.0.m": torch.zeros(3), "rng.0.cpu": torch.get_rng_state()}


def test_what_is_given_is_committed_with_its_facts(run):
    saves = Saver(run, 1, {"seed": 4}, keep=3, max_outage_s=1)
    saves.save(7, 2, state(1.0))
    saves.finish()
    found, files, manifest = checkpoints.newest_valid(run, None)
    assert (found.step, manifest["epoch"], manifest["seed"]) == (7, 2, 4)
    assert torch.equal(from_files(files)["model.w"], torch.ones(3))


def test_while_one_is_being_saved_the_newest_waits_and_those_between_are_left_out(run, monkeypatch):
    go, began = threading.Event(), threading.Event()
    real = checkpoints.commit

    def slow(*arguments):
        began.set()
        assert go.wait(10)
        real(*arguments)

    monkeypatch.setattr(checkpoints, "commit", slow)
    saves = Saver(run, 1, {}, keep=3, max_outage_s=1)
    saves.save(1, 1, state())
    assert began.wait(10)
    for step in (2, 3, 4):
        saves.save(step, 1, state())  # returns at once: training is not held up
    go.set()
    saves.finish()
    assert [each.step for each in checkpoints.look(run).committed] == [4, 1]


def test_an_outage_shorter_than_allowed_costs_nothing(run, monkeypatch):
    monkeypatch.setattr(store, "RETRY_EVERY_S", 0.01)
    tries, real = [], store.write

    def failing(uri, content):
        if checkpoints.FOLDER in uri:
            tries.append(uri)
            if len(tries) < 5:
                raise OutageError("storage: away.")
        real(uri, content)

    monkeypatch.setattr(store, "write", failing)
    saves = Saver(run, 1, {}, keep=3, max_outage_s=30)
    saves.save(1, 1, state())
    saves.finish()
    assert [each.step for each in checkpoints.look(run).committed] == [1]


def test_an_outage_that_lasts_too_long_is_an_error_at_the_next_save_and_at_the_end(run, monkeypatch):
    monkeypatch.setattr(store, "RETRY_EVERY_S", 0.01)

    def failing(uri, content):
        raise OutageError("storage: away.")

    monkeypatch.setattr(checkpoints, "commit", lambda *_: failing("", b""))
    saves = Saver(run, 1, {}, keep=3, max_outage_s=0.05)
    saves.save(1, 1, state())
    with pytest.raises(OutageError, match=r"storage: away. No checkpoint could be saved for 0 s"):
        saves.finish()
    with pytest.raises(OutageError):
        saves.save(2, 1, state())


def test_a_step_that_is_saved_already_is_not_saved_again_but_a_damaged_one_is(run):
    for expected in (["step-00000007-0001"], ["step-00000007-0001"]):
        saves = Saver(run, 1, {}, keep=3, max_outage_s=1)
        saves.save(7, 2, state())
        saves.finish()
        assert [each.name for each in checkpoints.look(run).committed] == expected
    checkpoints.mark(run, checkpoints.Checkpoint(7, 1), "for the test")
    saves = Saver(run, 1, {}, keep=3, max_outage_s=1)
    saves.save(7, 2, state(1.0))
    saves.finish()
    found, *_ = checkpoints.newest_valid(run, None)
    assert found.name == "step-00000007-0001-1"


def test_an_error_that_nobody_foresaw_ends_the_run_and_does_not_hold_it_up(run, monkeypatch):
    def broken(*_):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(checkpoints, "commit", broken)
    saves = Saver(run, 1, {}, keep=3, max_outage_s=600)
    saves.save(1, 1, state())
    with pytest.raises(CheckpointError, match="A checkpoint could not be saved: RuntimeError: out of luck"):
        saves.finish()


def test_a_refusal_is_not_tried_again(run, monkeypatch):
    tries = []

    def refused(*_):
        tries.append(1)
        raise StorageError("storage: refused.")

    monkeypatch.setattr(checkpoints, "commit", refused)
    saves = Saver(run, 1, {}, keep=3, max_outage_s=600)
    saves.save(1, 1, state())
    with pytest.raises(StorageError, match="refused"):
        saves.finish()
    assert tries == [1]


def test_a_process_whose_run_was_taken_over_commits_nothing(run):
    store.write(lease._object(run, 2, "json"), b"{}")
    saves = Saver(run, 1, {}, keep=3, max_outage_s=1)
    saves.save(1, 1, state())
    with pytest.raises(CheckpointError, match="Another process has taken over"):
        saves.finish()
    assert checkpoints.look(run).committed == []


def test_it_is_due_when_the_time_is_over_and_not_before(run, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(async_saver.time, "monotonic", lambda: now[0])
    saves = Saver(run, 1, {}, keep=3, max_outage_s=1)
    assert not saves.is_due(30)
    now[0] += 30
    assert saves.is_due(30)
    assert not saves.is_due(31)
    monkeypatch.setattr(async_saver.time, "monotonic", time.perf_counter)
    saves.finish()


def test_the_best_is_kept_besides_the_newest_and_across_processes(run):
    saves = Saver(run, 1, {}, keep=1, max_outage_s=1)
    for step, accuracy in ((1, 0.5), (2, 0.9), (3, 0.7)):
        saves.save(step, 1, state())
        saves.score(step, accuracy)
        while checkpoints.look(run).committed[:1] != [checkpoints.Checkpoint(step, 1)]:
            time.sleep(0.01)
    saves.finish()
    assert [each.step for each in checkpoints.look(run).committed] == [3, 2]
    assert checkpoints.best(run) == checkpoints.Best(2, 0.9)
    saves = Saver(run, 1, {}, keep=1, max_outage_s=1)
    saves.save(4, 2, state())
    saves.score(4, 0.8)
    saves.finish()
    assert [each.step for each in checkpoints.look(run).committed] == [4, 2]


def test_a_state_that_was_never_saved_is_not_the_best(run):
    saves = Saver(run, 1, {}, keep=1, max_outage_s=1)
    saves.save(1, 1, state())
    saves.score(2, 0.99)
    saves.finish()
    assert checkpoints.best(run) is None


def taken_away(monkeypatch):
    """No checkpoint can be committed until the first event is cleared; the second says that one was tried."""
    monkeypatch.setattr(store, "RETRY_EVERY_S", 0.01)
    away, tried, real = threading.Event(), threading.Event(), checkpoints.commit
    away.set()

    def commit(*arguments):
        tried.set()
        if away.is_set():
            raise OutageError("storage: away.")
        real(*arguments)

    monkeypatch.setattr(checkpoints, "commit", commit)
    return away, tried


def test_during_an_outage_a_newer_state_takes_the_place_of_the_one_that_waits(run, monkeypatch):
    away, tried = taken_away(monkeypatch)
    saves = Saver(run, 1, {}, keep=3, max_outage_s=30)
    saves.save(1, 1, state())
    assert tried.wait(10)
    saves.save(2, 1, state())
    while saves.outage is None or saves._waiting is not None:
        time.sleep(0.01)
    assert "away" in saves.outage
    away.clear()
    saves.finish()
    assert [each.step for each in checkpoints.look(run).committed] == [2]
    assert saves.outage is None


def test_a_store_that_is_away_at_the_end_is_known_to_hold_it_up_until_it_is_back(run, monkeypatch):
    away, _ = taken_away(monkeypatch)
    saves = Saver(run, 1, {}, keep=3, max_outage_s=30)
    saves.save(1, 1, state())
    while saves.outage is None:
        time.sleep(0.01)
    why, waits_s = saves.held_up(60)  # it is known already: nobody waits a minute
    assert why == "storage: away."
    assert 80 < waits_s < 91  # what is left of the 30 s, and a request that then is not answered
    away.clear()
    saves.finish()
    assert saves.held_up(60) is None


def test_a_store_that_does_not_answer_at_the_end_is_said_to_hold_it_up_before_the_request_fails(run, monkeypatch):
    back, real = threading.Event(), checkpoints.commit

    def commit(*arguments):
        assert back.wait(30)
        real(*arguments)

    monkeypatch.setattr(checkpoints, "commit", commit)
    saves = Saver(run, 1, {}, keep=3, max_outage_s=30)
    saves.save(1, 1, state())
    why, _ = saves.held_up(0.05)
    assert why == f"storage: {run} has not taken the last checkpoint in 0.05 s."
    back.set()
    assert saves.held_up(60) is None
    saves.finish()


def test_what_could_not_be_saved_is_no_hold_up_but_an_error(run, monkeypatch):
    def refused(*_):
        raise StorageError("storage: refused.")

    monkeypatch.setattr(checkpoints, "commit", refused)
    saves = Saver(run, 1, {}, keep=3, max_outage_s=600)
    saves.save(1, 1, state())
    assert saves.held_up(60) is None
    with pytest.raises(StorageError, match="refused"):
        saves.finish()
