"""When to save and when to report: the same step on all ranks, since both are collective calls."""

from __future__ import annotations

from typing import NamedTuple

from trainer.training.checkpointer import Checkpointer
from trainer.training.job import Job
from trainer.training.preemption import SAVE_EVERY_S, Notice
from trainer.training.reporter import Reporter
from trainer.training.worker import Worker

AGREE_EVERY_STEPS = 10  # several workers agree only this often, since it costs a broadcast


class Due(NamedTuple):
    """What all ranks do after a step."""

    save: bool = False
    report: bool = False


class Cadence:
    """Decides after each step what is due, by the clock of rank 0."""

    def __init__(self, job: Job, worker: Worker, checkpointer: Checkpointer, reporter: Reporter):
        self._worker = worker
        self._checkpointer = checkpointer
        self._reporter = reporter
        self._save_every_s = job.config.checkpoint.every_s
        self._notice = Notice() if job.preemptible else None

    def due(self, done: int) -> Due:
        """Return what is due after `done` steps; every rank must call it after every step."""
        if self._worker.world_size > 1 and done % AGREE_EVERY_STEPS:
            return Due()
        report, save, ask = self._worker.flags_of_rank_zero(
            self._reporter.is_due(),
            self._checkpointer.is_due(SAVE_EVERY_S if self._node_is_leaving() else self._save_every_s),
            self._notice is not None and self._notice.is_time_to_ask(),
        )
        if ask and self._notice is not None and self._notice.ask():
            save = True
        return Due(save, report)

    def _node_is_leaving(self) -> bool:
        return self._notice is not None and self._notice.holds
