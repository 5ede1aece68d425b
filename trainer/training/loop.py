"""The training loop: the function that every Ray worker runs. Read it from top to bottom.

It only trains. It reports plain numbers through ``ray.train.report``; `recorder.py` makes progress, record and metrics
of them. It does not know whether it runs on a laptop or a cluster, alone or as one of many.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import ray.train
import safetensors.torch
import torch
import torch.distributed
from ray.train.torch import prepare_model
from torch import Tensor, nn

from trainer.config import Config
from trainer.errors import DivergedError
from trainer.storage import manifest, store
from trainer.storage.checkpoints import WEIGHTS
from trainer.training import data, device, evaluate, fetch, model, optimizer
from trainer.training.checkpointer import Checkpoints
from trainer.training.watchdog import Watchdog

AGREE_EVERY_STEPS = 10  # several workers must report at the same step; this often they ask rank 0 whether to
WHITENING_SAMPLES = 5000  # as many images as it takes for the statistics of their patches to be stable


def train(settings: dict[str, Any]) -> dict[str, Any]:
    """Train one model on this worker, together with the others of its group.

    `settings` holds ``config``, a resolved `Config` as a mapping; ``data_folder``, where to look for the data set, or
    None; ``run``, the run's URI, ``fence``, the number of its lease, and ``attempt``, that of this group of workers:
    there it continues from the newest checkpoint, and rank 0 puts checkpoints and the final weights; ``preemptible``,
    whether Ray tells of nodes that will go. Returns the numbers of the last report.
    """
    entered_at = time.time()
    config = Config.model_validate(settings["config"])
    me = _Worker(config)

    # ── Data: uint8, once, on the device ──────────────────────────────────────────────────────────────────────────────
    data_began = time.perf_counter()
    train_set, test_share, test_positions = _load(settings["data_folder"], config, me)
    data_seconds = time.perf_counter() - data_began

    # ── Model and optimizer ───────────────────────────────────────────────────────────────────────────────────────────
    torch.manual_seed(config.seed)  # the same weights on every rank ...
    network = _new_network(config, train_set).to(me.device)
    wrapped = prepare_model(network, move_to_device=False)  # DDP if there are several workers
    torch.manual_seed(config.seed + me.rank)  # ... and dropout of its own
    parameters = list(network.parameters())
    optimizers = optimizer.build(network, config.optimizer)
    loss_function = nn.CrossEntropyLoss(label_smoothing=config.optimizer.label_smoothing)

    # ── Where it left off ─────────────────────────────────────────────────────────────────────────────────────────────
    checkpoints = Checkpoints(settings, config, network, optimizers, me.device, me.rank, me.world_size)
    step = checkpoints.resume()
    times = {"entered_at": entered_at, "time": time.time(), "data_seconds": data_seconds}
    _report({"phase": "ready", **me.facts(), **times, **checkpoints.resumed})

    # ── Training ──────────────────────────────────────────────────────────────────────────────────────────────────────
    share_of_peak = optimizer.schedule(config.optimizer, max(0, step - 1), config.total_steps)
    watchdog = Watchdog()
    epoch_end = _EpochEnd(settings, config, me, network, checkpoints, test_share, test_positions)
    first_epoch = max(1, -(-step // config.steps_per_epoch))  # one that was trained to its end is evaluated again
    for epoch in range(first_epoch, config.epochs + 1):
        interval = _Interval(me.device)
        start = step - (epoch - 1) * config.steps_per_epoch
        for batch in data.Batches(train_set, config, epoch, me.rank, me.world_size, start):
            watchdog.step()
            if checkpoints.leave_out(step):
                step += 1
                continue
            share_of_peak = optimizer.schedule(config.optimizer, step, config.total_steps)
            _set_learning_rate(optimizers, share_of_peak)

            with me.autocast:
                logits = wrapped(batch.images)
                loss = loss_function(logits, batch.labels) if len(batch.labels) else logits.sum()  # mean of none: nan
            for parameter in parameters:
                parameter.grad = None
            (loss * batch.weight if batch.weight != 1.0 else loss).backward()
            _update(parameters, optimizers, config.optimizer.grad_clip_norm)

            step += 1
            interval.add(loss, len(batch.labels))
            due = interval.is_over(config.report_every_s), checkpoints.is_due(), checkpoints.may_be_called_for()
            report, save, ask = _rank_zero_says(due, step, me)
            if (ask and checkpoints.are_called_for()) or save:
                interval.check_finite(epoch, step)
                _check_weights(network, epoch, step)
                checkpoints.save(step, epoch)
            if report:
                trained = interval.take(epoch, step) | checkpoints.take_numbers()
                _report({"phase": "progress", "epoch": epoch, "step": step, "lr": share_of_peak, **trained})
        watchdog.pause()
        last = epoch_end.report(epoch, step, share_of_peak, interval)
    return {key: last[key] for key in ("epoch", "step", "test_loss", "test_accuracy")}


class _Worker:
    """Which worker of its group this one is, and what it computes on."""

    def __init__(self, config: Config):
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device = device.choose(config)
        device.prepare(self.device)
        self._precision, self._precision_reason = device.choose_precision(config, self.device)
        self.autocast = torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._precision == "bf16")

    def facts(self) -> dict[str, Any]:
        """What the record says of it."""
        return {
            "device": str(self.device),
            "precision": self._precision,
            "precision_reason": self._precision_reason,
            "threads": torch.get_num_threads(),
            "process_began_at": device.process_began(),
        }


def _load(data_folder: Path | None, config: Config, me: _Worker) -> tuple[data.Samples, data.Samples, Tensor]:
    """The training set, this worker's share of the test set, and where that stands in the whole."""
    train_set, test_set = data.load(fetch.find(data_folder, log=lambda _: None), config.data.validation_samples)
    test_share, test_positions = data.share(test_set, me.rank, me.world_size)
    return train_set.to(me.device), test_share.to(me.device), test_positions


def _new_network(config: Config, train_set: data.Samples) -> nn.Module:
    network = model.build(config.model)
    if isinstance(network, model.Cnn):
        model.whiten(network, data.normalise(train_set.images[:WHITENING_SAMPLES].cpu(), config.data))
    return network


class _EpochEnd:
    """What follows an epoch's last step: the state is saved and scored, on each rank by a share of the test set."""

    def __init__(
        self,
        settings: dict[str, Any],
        config: Config,
        me: _Worker,
        network: nn.Module,
        checkpoints: Checkpoints,
        test_share: data.Samples,
        test_positions: Tensor,
    ):
        self._run, self._config, self._me, self._network = settings["run"], config, me, network
        self._checkpoints, self._test_share, self._test_positions = checkpoints, test_share, test_positions

    def report(self, epoch: int, step: int, share_of_peak: float, interval: _Interval) -> dict[str, Any]:
        """Report on an epoch, on every rank; what it said. After the last one all is saved by then, final weights too.

        Raises:
            DivergedError: a loss or a weight is not finite.
            StorageError, CheckpointError: as `Checkpoints.save` and `Checkpoints.finish`.
        """
        trained = interval.take(epoch, step) | self._checkpoints.take_numbers()
        _check_weights(self._network, epoch, step)
        self._checkpoints.save(step, epoch)

        began = time.perf_counter()
        mine, log_probabilities = evaluate.score(self._network, self._test_share, self._config.data, self._me.autocast)
        scores = _summed(mine, self._me)
        _check_finite(scores.loss, epoch, step)
        self._checkpoints.score(step, scores.accuracy)
        numbers = {"phase": "epoch", "epoch": epoch, "step": step, "lr": share_of_peak, **trained}
        numbers |= {"test_loss": scores.loss, "test_accuracy": scores.accuracy}
        last = epoch == self._config.epochs
        if last:
            numbers["confusion"] = scores.confusion.tolist()
            numbers["mistakes"] = evaluate.worst_mistakes(self._test_share, self._test_positions, log_probabilities)
        numbers["evaluation_seconds"] = time.perf_counter() - began
        if last:
            began = time.perf_counter()
            if held_up := self._checkpoints.held_up():
                _report({"phase": "saving", **held_up})
            self._checkpoints.finish()
            numbers["outage"] = None  # if there was one: all is saved now
            if self._me.rank == 0:
                numbers["weights"] = store.through_outage(self._save_weights, self._config.checkpoint.max_outage_s)
            numbers["last_save_seconds"] = time.perf_counter() - began
        _report({**numbers, "time": time.time()})
        return numbers

    def _save_weights(self) -> dict[str, Any]:
        return save_weights(self._network, store.join(self._run, WEIGHTS))


class _Interval:
    """What happened since the last report: loss and samples of this worker, and the time it took."""

    def __init__(self, on: torch.device):
        self._loss_sum = torch.zeros((), device=on, dtype=torch.float64 if on.type != "mps" else torch.float32)
        self._samples = 0
        self._began = time.perf_counter()

    def add(self, loss: Tensor, samples: int) -> None:
        # stays on the device: asking a GPU for a number each step would make it wait
        self._loss_sum.add_(loss.detach(), alpha=samples)
        self._samples += samples

    def is_over(self, seconds: float) -> bool:
        """Whether it is time to report."""
        return time.perf_counter() - self._began >= seconds

    def check_finite(self, epoch: int, step: int) -> float:
        """The loss so far, summed over the samples; on a GPU this waits for it.

        Raises:
            DivergedError: it is not finite.
        """
        loss_sum = float(self._loss_sum)
        _check_finite(loss_sum, epoch, step)
        return loss_sum

    def take(self, epoch: int, step: int) -> dict[str, float]:
        """The interval's numbers; a new one begins.

        Raises:
            DivergedError: the loss is not finite.
        """
        loss_sum, now = self.check_finite(epoch, step), time.perf_counter()
        numbers = {"loss_sum": loss_sum, "samples": self._samples, "seconds": now - self._began}
        self._loss_sum.zero_()
        self._samples, self._began = 0, now
        return numbers


def _check_finite(loss: float, epoch: int, step: int) -> None:
    if not math.isfinite(loss):
        raise _diverged(f"The loss became {loss}", epoch, step)


def _check_weights(network: nn.Module, epoch: int, step: int) -> None:
    """A gradient that was no number shows in the weights, on all ranks alike, even if the loss is still finite."""
    weights = [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
    if not math.isfinite(float(nn.utils.get_total_norm(weights))):
        raise _diverged("A weight became infinite or no number", epoch, step)


def _diverged(what: str, epoch: int, step: int) -> DivergedError:
    error = DivergedError(
        f"{what} in epoch {epoch}, by step {step}: training diverged; lower optimizer.lr, or set "
        "optimizer.grad_clip_norm=1."
    )
    error.step = step
    return error


def _update(parameters: list[nn.Parameter], optimizers: list[torch.optim.Optimizer], clip_norm: float | None) -> None:
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(parameters, clip_norm)
    for each in optimizers:
        each.step()


def save_weights(network: nn.Module, uri: str) -> dict[str, Any]:
    """Write a model's weights as a safetensors object, which appears whole or not at all; its size and sha256."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    content = safetensors.torch.save(weights)
    store.write(uri, content)
    return manifest.facts(content)


def _set_learning_rate(optimizers: list[torch.optim.Optimizer], share_of_peak: float) -> None:
    for group in (group for each in optimizers for group in each.param_groups):
        group["lr"] = group["peak_lr"] * share_of_peak


def _summed(mine: evaluate.Scores, me: _Worker) -> evaluate.Scores:
    if me.world_size == 1:
        return mine
    loss_sum, confusion = mine.loss_sum.to(me.device), mine.confusion.to(me.device)
    torch.distributed.all_reduce(loss_sum)
    torch.distributed.all_reduce(confusion)
    return evaluate.Scores(loss_sum.cpu(), confusion.cpu())


def _rank_zero_says(answers: tuple[bool, ...], step: int, me: _Worker) -> tuple[bool, ...]:
    """Rank 0's answers, for all ranks alike; with several ranks only every few steps, since asking costs time."""
    if me.world_size == 1:
        return answers
    if step % AGREE_EVERY_STEPS:
        return (False,) * len(answers)
    said = torch.tensor(answers, dtype=torch.uint8, device=me.device)
    torch.distributed.broadcast(said, src=0)
    return tuple(bool(answer) for answer in said.tolist())


def _report(numbers: dict[str, Any]) -> None:
    ray.train.report(numbers)
