import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load

from trainer import resolve
from trainer.errors import CheckpointError, DivergedError
from trainer.storage import checkpoints, layout, lease, skipped_steps, store
from trainer.training import checkpointer, model, optimizer
from trainer.training.async_saver import AsyncSaver, HeldUp
from trainer.training.checkpointer import Checkpointer
from trainer.training.job import Job
from trainer.training.worker import Worker

CONFIG = resolve.load(None, None, ["model.hidden=[16]", "optimizer.name=muon", "model.dropout=0.5"])
WORKER = Worker(0, 1, torch.device("cpu"), torch.autocast("cpu", enabled=False), {})


@pytest.fixture
def job(tmp_path):
    with lease.Lease(str(tmp_path / "r"), lambda: None):
        yield Job(CONFIG, None, str(tmp_path / "r"), 1, 2, False, lambda batch: batch)


def begin(job, worker=WORKER, seed=0):
    """Return a checkpointer and the network that it saves."""
    torch.manual_seed(seed)
    network = model.build(CONFIG.model)
    return Checkpointer(job, worker, network, optimizer.build(network, CONFIG.optimizer)), network


def finish(checkpointer):
    return checkpointer.finish(lambda hold_up: pytest.fail(f"held up: {hold_up}"))


def test_a_run_without_checkpoints_begins_at_step_zero(job):
    resumed = begin(job)[0].resume()
    assert (resumed.step, resumed.resumed_from, resumed.left_out, resumed.skipped) == (0, None, None, range(0))
    assert (resumed.damaged, resumed.unfinished) == ([], [])


def test_a_run_resumes_from_its_newest_checkpoint(job):
    first, network = begin(job)
    first.save(1, 7, 0.5)
    finish(first)
    second, other = begin(job, seed=9)
    resumed = second.resume()
    assert (resumed.step, resumed.resumed_from) == (7, "step-00000007-0001")
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))


def test_the_manifest_places_a_checkpoint_in_the_order_of_samples(job):
    saving, _ = begin(job)
    saving.save(1, 7, 0.5)
    finish(saving)
    _, _, manifest = checkpoints.newest_valid(job.run, None)
    expected = {"step": 7, "epoch": 1, "attempt": 2, "seed": CONFIG.seed, "world_size": 1}
    expected |= {"global_batch_size": CONFIG.global_batch_size, "steps_per_epoch": CONFIG.steps_per_epoch}
    assert {key: manifest[key] for key in expected} == expected


def test_resume_reports_damaged_and_unfinished_checkpoints(job):
    saving, _ = begin(job)
    saving.save(1, 7, 0.5)
    finish(saving)
    checkpoints.commit(job.run, checkpoints.Checkpoint(8, 1), dict.fromkeys(checkpoints.FILES, b"x"), {})
    store.write(f"{job.run}/checkpoints/step-00000008-0001/model.safetensors", b"y")
    store.write(f"{job.run}/checkpoints/step-00000009-0001/model.safetensors", b"")
    resumed = begin(job)[0].resume()
    assert resumed.step == 7
    assert resumed.damaged == ["step-00000008-0001: model.safetensors " + resumed.damaged[0].split(" ", 2)[2]]
    assert resumed.unfinished == ["step-00000009-0001"]


def test_resume_refuses_a_run_without_an_intact_checkpoint(job):
    checkpoints.commit(job.run, checkpoints.Checkpoint(8, 1), dict.fromkeys(checkpoints.FILES, b"x"), {})
    store.write(f"{job.run}/checkpoints/step-00000008-0001/model.safetensors", b"y")
    with pytest.raises(CheckpointError):
        begin(job)[0].resume()


def test_resume_skips_the_steps_that_led_to_divergence(job):
    saving, _ = begin(job)
    saving.save(1, 7, 0.5)
    finish(saving)
    assert skipped_steps.write(job.run, 12)
    resumed = begin(job)[0].resume()
    assert resumed.skipped == range(7, 12)
    assert resumed.left_out == [8, 12]


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_save_refuses_a_loss_that_is_not_finite(job, loss):
    saving, _ = begin(job)
    with pytest.raises(DivergedError):
        saving.save(1, 7, loss)
    finish(saving)
    assert checkpoints.list_checkpoints(job.run).committed == []


def test_save_refuses_weights_that_are_not_finite(job):
    saving, network = begin(job)
    with torch.no_grad():
        next(network.parameters())[0, 0] = math.nan
    with pytest.raises(DivergedError):
        saving.save(1, 7, 0.5)
    finish(saving)
    assert checkpoints.list_checkpoints(job.run).committed == []


def test_take_saving_counts_from_the_last_call(job):
    saving, _ = begin(job)
    saving.save(1, 7, 0.5)
    taken = saving.take_saving()
    assert taken["saving_seconds"] > 0
    assert taken["outage"] is None
    assert saving.take_saving()["saving_seconds"] == 0
    finish(saving)


def test_the_best_scored_checkpoint_is_noted(job):
    saving, _ = begin(job)
    saving.save(1, 7, 0.5)
    saving.note_score(7, 0.8)
    finish(saving)
    assert checkpoints.best(job.run) == checkpoints.Best(7, 0.8)


def test_finish_writes_the_final_weights_and_returns_their_hash(job):
    saving, network = begin(job)
    finished = finish(saving)
    content = store.read(f"{job.run}/{layout.WEIGHTS}")
    assert finished["weights"]["size"] == len(content)
    assert finished["last_save_seconds"] > 0
    weights = load(content)
    assert all(torch.equal(weights[name], tensor) for name, tensor in network.state_dict().items())


def test_finish_tells_that_an_object_store_holds_it_up(job, monkeypatch):
    remote = SimpleNamespace(**{**vars(store), "is_remote": lambda uri: True})
    monkeypatch.setattr(checkpointer, "store", remote)
    monkeypatch.setattr(AsyncSaver, "held_up", lambda self, quiet_s: HeldUp("storage: away.", 12.0))
    heard = []
    begin(job)[0].finish(heard.append)
    assert heard == [{"outage": "storage: away.", "waits_s": 12.0}]


def test_ranks_above_zero_write_nothing(job):
    rank_one = replace(WORKER, rank=1)
    saving, _ = begin(job, rank_one)
    saving.save(1, 7, 0.5)
    saving.note_score(7, 0.8)
    assert not saving.is_due(0)
    assert finish(saving)["weights"] is None
    assert checkpoints.list_checkpoints(job.run).committed == []
    assert store.read(f"{job.run}/{layout.WEIGHTS}") is None
