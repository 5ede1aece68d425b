"""The training loop: the function that every Ray worker runs. Read it from top to bottom.

It only trains and reports plain numbers; `driver/recorder.py` turns them into progress, record and metrics. It does not
know whether it runs on a laptop or on a cluster, alone or as one of many.
"""

from __future__ import annotations

from typing import Any

import torch
from ray.train.torch import prepare_model
from torch import Tensor
from torch.nn import functional

from trainer.training import data, divergence, evaluate, fetch, model, optimizer
from trainer.training.cadence import Cadence
from trainer.training.checkpointer import Checkpointer
from trainer.training.job import Job
from trainer.training.reporter import Reporter
from trainer.training.watchdog import Watchdog
from trainer.training.worker import Worker


def train(settings: dict[str, Any]) -> dict[str, Any]:
    """Train one model on this worker, together with the others of its group, and return its last numbers.

    `settings` holds the fields of a `Job`, with the config as a mapping.
    """
    job = Job.from_settings(settings)
    config = job.config
    worker = Worker.join(config)
    reporter = Reporter(config, worker)

    # ── Data: uint8, once, on the device ──────────────────────────────────────────────────────────────────────────────
    with reporter.timed("data"):
        folder = fetch.find_dataset(job.data_folder)
        train_set, test_set = data.load(folder, config.data.validation_samples)
        train_set = train_set.to(worker.device)
        test_share, test_positions = data.share(test_set, worker.rank, worker.world_size)
        test_share = test_share.to(worker.device)

    # ── Model and optimizer ───────────────────────────────────────────────────────────────────────────────────────────
    torch.manual_seed(config.seed)  # the same weights on every rank ...
    images = data.normalise(train_set.images[: model.WHITENING_IMAGES].cpu(), config.data)
    network = model.build(config.model, images).to(worker.device)
    ddp = prepare_model(network, move_to_device=False)  # the network itself if there is one worker
    torch.manual_seed(config.seed + worker.rank)  # ... but its own dropout
    optimizers = optimizer.build(network, config.optimizer)

    # ── Resume ────────────────────────────────────────────────────────────────────────────────────────────────────────
    checkpointer = Checkpointer(job, worker, network, optimizers)
    resumed = checkpointer.resume()
    reporter.ready(resumed)

    # ── Train ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    watchdog = Watchdog()
    cadence = Cadence(job, worker, checkpointer, reporter)
    for step in data.stream(train_set, config, worker.rank, worker.world_size, resumed.step, resumed.skipped):
        if isinstance(step, data.Batch):
            watchdog.step()
            batch = job.on_step(step)
            optimizer.set_lr(optimizers, config.optimizer, batch.step, config.total_steps)
            with worker.autocast:
                loss = mean_loss(ddp(batch.images), batch.labels, config.optimizer.label_smoothing)
            # DDP takes the mean of the workers' gradients; the weight makes it the mean over all samples
            (loss * batch.weight).backward()  # type: ignore[no-untyped-call] # PyTorch has no types for it
            optimizer.step(optimizers, network, config.optimizer.grad_clip_norm)
            reporter.add(loss, len(batch.labels))

            due = cadence.due(batch.done)  # the same on all ranks
            if due.save:
                checkpointer.save(batch.epoch, batch.done, reporter.loss_sum())
            if due.report:
                reporter.progress(reporter.take(batch.epoch, batch.done, checkpointer.take_saving()))

        else:  # the end of an epoch: save, then score
            watchdog.pause()
            trained = reporter.take(step.epoch, step.done, checkpointer.take_saving())
            checkpointer.save(step.epoch, step.done, trained["loss_sum"])
            with reporter.timed("evaluation"):
                scores, log_probabilities = evaluate.score(network, test_share, config.data, worker.autocast)
                scores = scores.summed_over_workers(worker)
            divergence.check_loss(scores.loss, step.epoch, step.done)
            checkpointer.note_score(step.done, scores.accuracy)
            if step.epoch < config.epochs:
                reporter.epoch(trained, scores)

    # ── Finish ────────────────────────────────────────────────────────────────────────────────────────────────────────
    mistakes = evaluate.worst_mistakes(test_share, test_positions, log_probabilities)
    finished = checkpointer.finish(reporter.held_up)
    return reporter.final(trained, scores, mistakes, finished)


def mean_loss(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Return the mean cross entropy of logits, float [n, 10], for labels, int64 [n]; 0 if there are none.

    A share without samples takes part in the backward pass all the same: the other ranks wait for its gradients.
    """
    if not len(labels):
        return logits.sum()  # the mean of nothing would be NaN
    return functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
