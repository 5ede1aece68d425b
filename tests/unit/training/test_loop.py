"""The whole loop in this process, on a small data set; tests/local runs it with real Ray."""

import inspect
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import ray.train
import torch
from safetensors.torch import load

from trainer import resolve
from trainer.errors import DivergedError
from trainer.storage import checkpoints, layout, lease, skipped_steps, store
from trainer.training import data, fetch, loop
from trainer.training import job as jobs

CONFIG = resolve.load(
    "fast",
    None,
    ["epochs=3", "global_batch_size=20", "model.hidden=[16]", "model.dropout=0.3", "report_every_s=1000"],
)
STEPS_PER_EPOCH = 5


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The URI of a run whose lease this process holds."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (120, 784), dtype=torch.uint8, generator=generator)
    samples = data.Samples(images, torch.randint(10, (120,), generator=generator))
    monkeypatch.setattr(fetch, "find_dataset", lambda folder: None)
    monkeypatch.setattr(data, "load", lambda folder, validation_samples: (samples[:100], samples[100:]))
    context = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    monkeypatch.setattr(loop, "prepare_model", lambda network, move_to_device: network)
    monkeypatch.setattr(jobs, "import_hook", lambda name: lambda batch: batch)
    with lease.Lease(str(tmp_path / "r"), lambda: None):
        yield str(tmp_path / "r")


@pytest.fixture
def sent(monkeypatch):
    """The reports that Ray Train received."""
    reports = []
    monkeypatch.setattr(ray.train, "report", reports.append)
    return reports


def settings(run, config=CONFIG):
    """Return what the driver hands to the loop."""
    return {
        "config": config.model_dump(),
        "data_folder": None,
        "run": run,
        "fence": 1,
        "attempt": 1,
        "preemptible": False,
    }


def weights(run):
    return load(store.read(f"{run}/{layout.WEIGHTS}"))


def hook(monkeypatch, function):
    """Let the loop call a function as its step hook."""
    monkeypatch.setattr(jobs, "import_hook", lambda name: function)


def await_checkpoint(run, step):
    """Wait until the thread of an interrupted training has committed its last state."""
    deadline = time.monotonic() + 30
    while [checkpoint.step for checkpoint in checkpoints.list_checkpoints(run).committed][:1] != [step]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def stop_at(step):
    """Return a step hook that raises once."""
    raised = []

    def on_step(batch):
        if batch.step == step and not raised:
            raised.append(step)
            raise KeyboardInterrupt
        return batch

    return on_step


def test_the_loop_fits_on_one_screen():
    assert len(inspect.getsource(loop.train).splitlines()) <= 75


def test_a_run_reports_ready_then_each_epoch_and_returns_its_last_numbers(run, sent):
    last = loop.train(settings(run))
    assert [report["phase"] for report in sent] == ["ready", "epoch", "epoch", "epoch"]
    assert [(report["epoch"], report["step"]) for report in sent[1:]] == [(1, 5), (2, 10), (3, 15)]
    assert [report["samples"] for report in sent[1:]] == [100] * 3
    assert ["confusion" in report for report in sent] == [False, False, False, True]
    assert last == {key: sent[-1][key] for key in ("epoch", "step", "test_loss", "test_accuracy")}
    assert checkpoints.list_checkpoints(run).committed[0].step == 15


def test_progress_is_reported_within_an_epoch_when_it_is_due(run, sent, monkeypatch):
    monkeypatch.setattr(loop.Reporter, "is_due", lambda self: True)
    loop.train(settings(run))
    steps = [report["step"] for report in sent if report["phase"] == "progress"]
    assert steps == list(range(1, 16))


def test_the_step_hook_sees_every_batch_before_its_step(run, sent, monkeypatch):
    seen = []
    hook(monkeypatch, lambda batch: seen.append((batch.epoch, batch.step, len(batch.rows))) or batch)
    loop.train(settings(run))
    assert seen == [(1 + step // STEPS_PER_EPOCH, step, 20) for step in range(15)]


def test_an_interrupted_run_resumes_to_bitwise_the_same_weights(run, sent, monkeypatch, tmp_path):
    with lease.Lease(str(tmp_path / "undisturbed"), lambda: None):
        loop.train(settings(str(tmp_path / "undisturbed")))
    hook(monkeypatch, stop_at(7))
    often = CONFIG.model_copy(update={"checkpoint": CONFIG.checkpoint.model_copy(update={"every_s": 0.0})})
    with pytest.raises(KeyboardInterrupt):
        loop.train(settings(run, often))
    await_checkpoint(run, 7)
    loop.train(settings(run, often))
    assert sent[-1]["step"] == 15
    expected = weights(str(tmp_path / "undisturbed"))
    assert [name for name, tensor in weights(run).items() if not torch.equal(tensor, expected[name])] == []


def test_a_run_that_ended_after_its_last_step_is_scored_again(run, sent):
    loop.train(settings(run))
    loop.train(settings(run))
    assert sent[4]["phase"] == "ready"
    assert sent[4]["step"] == 15
    again = sent[5]
    assert (again["phase"], again["step"], again["samples"]) == ("epoch", 15, 0)
    assert (again["test_loss"], again["confusion"]) == (sent[3]["test_loss"], sent[3]["confusion"])
    assert len(sent) == 6


def test_gradients_that_are_not_finite_are_never_saved(run, sent, monkeypatch):
    hook(monkeypatch, lambda batch: replace(batch, weight=float("nan")) if batch.step == 9 else batch)
    with pytest.raises(DivergedError, match=r"A weight became NaN or infinite in epoch 2, by step 10") as caught:
        loop.train(settings(run))
    assert caught.value.step == 10
    assert {checkpoint.step for checkpoint in checkpoints.list_checkpoints(run).committed} <= {5}


def test_skipped_steps_are_neither_trained_nor_counted(run, sent, monkeypatch):
    hook(monkeypatch, stop_at(7))
    with pytest.raises(KeyboardInterrupt):
        loop.train(settings(run))
    await_checkpoint(run, 5)
    assert skipped_steps.write(run, 10)
    seen = []
    hook(monkeypatch, lambda batch: seen.append(batch.step) or batch)
    loop.train(settings(run))
    assert seen == [10, 11, 12, 13, 14]
    ready, _, second, third = sent[2:]  # the first epoch is scored again
    assert (ready["step"], ready["left_out"]) == (5, [6, 10])
    assert (second["epoch"], second["step"], second["samples"]) == (2, 10, 0)
    assert (third["epoch"], third["step"], third["samples"]) == (3, 15, 100)


def test_the_mean_loss_is_torchs_cross_entropy_and_zero_without_samples():
    logits = torch.randn(4, 10)
    labels = torch.tensor([1, 2, 3, 4])
    expected = torch.nn.CrossEntropyLoss(label_smoothing=0.1)(logits, labels)
    assert torch.equal(loop.mean_loss(logits, labels, 0.1), expected)
    empty = torch.zeros(0, 10, requires_grad=True)
    assert loop.mean_loss(empty, labels[:0], 0.1).item() == 0
    assert loop.mean_loss(empty, labels[:0], 0.1).requires_grad
