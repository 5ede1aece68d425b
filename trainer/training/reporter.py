"""What a worker reports to Ray Train's controller: plain numbers, typed by phase. `driver/recorder.py` reads them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypedDict, cast

import ray.train
import torch
from torch import Tensor

from trainer.config import Config
from trainer.training import divergence, optimizer
from trainer.training.checkpointer import Finished, HoldUp, Resumed, Saving
from trainer.training.evaluate import Mistake, Scores
from trainer.training.worker import Worker, WorkerFacts


class ReadyReport(WorkerFacts):
    """Sent once, before the first step."""

    phase: Literal["ready"]
    entered_at: float  # seconds since 1970: the loop was called
    time: float  # seconds since 1970: training begins
    data_seconds: float
    step: int  # steps done before this group of workers
    resumed_from: str | None  # name of a checkpoint
    left_out: list[int] | None  # first and last of the steps ahead that are skipped, counted from 1
    damaged: list[str]  # one sentence per checkpoint that was quarantined
    unfinished: list[str]  # names of newer checkpoints without a manifest


class Interval(TypedDict):
    """What this worker did since its last report."""

    loss_sum: float  # mean loss of each step times its samples
    samples: int
    seconds: float


class TrainedReport(Interval, Saving):
    """The fields of every report on steps."""

    epoch: int
    step: int  # steps of the run done so far
    lr: float  # the last step's share of the peak learning rate, 0..1


class ProgressReport(TrainedReport):
    """Sent every `report_every_s` seconds within an epoch."""

    phase: Literal["progress"]


class EpochReport(TrainedReport):
    """Sent at the end of an epoch, with the scores over all workers."""

    phase: Literal["epoch"]
    test_loss: float
    test_accuracy: float  # 0..1
    evaluation_seconds: float
    time: float  # seconds since 1970


class FinalReport(EpochReport, Finished):
    """The report of the last epoch: everything is saved."""

    confusion: list[list[int]]  # samples by label and prediction
    mistakes: list[Mistake]  # of this worker's share of the test set


class SavingReport(HoldUp):
    """Sent when an object store holds up the end of a run."""

    phase: Literal["saving"]


class Reporter:
    """Measures what this worker does, and reports it. Every rank must report at the same step."""

    def __init__(self, config: Config, worker: Worker):
        self._config = config
        self._worker = worker
        self._entered_at = time.time()
        self._seconds: dict[str, float] = {}
        # summed on the device: asking a GPU for a number at each step would make it wait
        on = worker.device
        self._loss_sum = torch.zeros((), device=on, dtype=torch.float64 if on.type != "mps" else torch.float32)
        self._samples = 0
        self._interval_began = time.perf_counter()

    @contextmanager
    def timed(self, part: Literal["data", "evaluation"]) -> Iterator[None]:
        """Measure how long a part takes, for the next report about it."""
        began = time.perf_counter()
        yield
        self._seconds[part] = time.perf_counter() - began

    def ready(self, resumed: Resumed) -> None:
        """Report where training begins."""
        report: ReadyReport = {
            **self._worker.facts,
            "phase": "ready",
            "entered_at": self._entered_at,
            "time": time.time(),
            "data_seconds": self._seconds["data"],
            "step": resumed.step,
            "resumed_from": resumed.resumed_from,
            "left_out": resumed.left_out,
            "damaged": resumed.damaged,
            "unfinished": resumed.unfinished,
        }
        self._send(report)
        self._interval_began = time.perf_counter()

    def add(self, loss: Tensor, samples: int) -> None:
        """Add one step: its mean loss over so many samples of this worker."""
        self._loss_sum.add_(loss.detach(), alpha=samples)
        self._samples += samples

    def is_due(self) -> bool:
        """Return whether the last report was `report_every_s` seconds ago, by this worker's clock."""
        return time.perf_counter() - self._interval_began >= self._config.report_every_s

    def loss_sum(self) -> float:
        """Return the sum of the loss over the samples since the last report; on a GPU this waits for it."""
        return float(self._loss_sum)

    def take(self, epoch: int, done: int, saving: Saving) -> TrainedReport:
        """Return the numbers since the last report, after `done` steps of the run, and begin a new interval.

        Raises:
            DivergedError: the loss is not finite.
        """
        loss_sum = self.loss_sum()  # before the clock is read: on a GPU the steps are finished only then
        divergence.check_loss(loss_sum, epoch, done)
        now = time.perf_counter()
        trained: TrainedReport = {
            "epoch": epoch,
            "step": done,
            "lr": optimizer.schedule(self._config.optimizer, done - 1, self._config.total_steps),
            "loss_sum": loss_sum,
            "samples": self._samples,
            "seconds": now - self._interval_began,
            **saving,
        }
        self._loss_sum.zero_()
        self._samples = 0
        self._interval_began = now
        return trained

    def progress(self, trained: TrainedReport) -> None:
        """Report on steps within an epoch."""
        report: ProgressReport = {**trained, "phase": "progress"}
        self._send(report)

    def epoch(self, trained: TrainedReport, scores: Scores) -> None:
        """Report on the last steps of an epoch and its scores over all workers."""
        self._send(self._epoch_report(trained, scores))
        self._interval_began = time.perf_counter()

    def held_up(self, hold_up: HoldUp) -> None:
        """Report that an object store holds up the end of the run."""
        report: SavingReport = {**hold_up, "phase": "saving"}
        self._send(report)

    def final(
        self, trained: TrainedReport, scores: Scores, mistakes: list[Mistake], finished: Finished
    ) -> dict[str, Any]:
        """Report on the last epoch, when everything is saved, and return how the run ended."""
        report: FinalReport = {
            **self._epoch_report(trained, scores),
            "confusion": scores.confusion.tolist(),
            "mistakes": mistakes,
            "outage": None,  # if there was one: everything is saved now
            **finished,
        }
        self._send(report)
        return {key: value for key, value in report.items() if key in ("epoch", "step", "test_loss", "test_accuracy")}

    def _epoch_report(self, trained: TrainedReport, scores: Scores) -> EpochReport:
        return {
            **trained,
            "phase": "epoch",
            "test_loss": scores.loss,
            "test_accuracy": scores.accuracy,
            "evaluation_seconds": self._seconds["evaluation"],
            "time": time.time(),
        }

    def _send(self, report: ReadyReport | ProgressReport | EpochReport | FinalReport | SavingReport) -> None:
        ray.train.report(cast("dict[str, Any]", report))
