"""One rank's view of a run's checkpoints: where to resume, what to save, and how saving ends.

Between two steps every rank gives its part of the state; `async_saver.py` then commits it while training continues.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypedDict

import safetensors.torch
import torch
from torch import nn

from trainer import __version__
from trainer.errors import CheckpointError, one_line
from trainer.storage import checkpoints, layout, manifest, skipped_steps, store
from trainer.storage.checkpoints import Checkpoint
from trainer.storage.schema import FileFacts
from trainer.training import divergence, fetch
from trainer.training.async_saver import AsyncSaver, Committed, NullSaver
from trainer.training.job import Job
from trainer.training.state import capture, from_files, restore
from trainer.training.worker import Worker

QUIET_S = 5.0  # how long the end of a run waits for an object store before it reports that


@dataclass
class Resumed:
    """Where training begins.

    `resumed_from` is the name of a checkpoint, or None. `skipped` holds the steps to skip, counted from 0, and
    `left_out` the first and last of those that lie ahead, counted from 1, or None. `damaged` has one sentence for each
    checkpoint that was quarantined, `unfinished` the names of newer ones without a manifest.
    """

    step: int = 0
    resumed_from: str | None = None
    skipped: range = range(0)
    left_out: list[int] | None = None
    damaged: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)


class Saving(TypedDict):
    """How saving goes, for a report."""

    saving_seconds: float  # how long it held up training since the last report
    outage: str | None  # why no checkpoint can be saved at the moment
    committed: Committed | None  # the newest checkpoint, on rank 0


class HoldUp(TypedDict):
    """An object store does not take the last state."""

    outage: str
    waits_s: float  # how long `Checkpointer.finish` waits for it at most


class Finished(TypedDict):
    """The last checkpoint and the final weights are saved."""

    last_committed_at: float | None  # seconds since 1970, on rank 0
    weights: FileFacts | None  # size and sha256 of the final weights, on rank 0
    last_save_seconds: float


class _Agreed(NamedTuple):
    checkpoint: Checkpoint | None
    skipped: range


class Checkpointer:
    """Resumes a run from its newest valid checkpoint, and saves new ones, as one rank of its training."""

    def __init__(self, job: Job, worker: Worker, network: nn.Module, optimizers: list[torch.optim.Optimizer]):
        self._run = job.run
        self._seed = job.config.seed
        self._max_outage_s = job.config.checkpoint.max_outage_s
        self._worker = worker
        self._network = network
        self._optimizers = optimizers
        self._saving_seconds = 0.0
        self._saver: AsyncSaver | NullSaver = NullSaver()
        if worker.rank == 0:
            self._saver = AsyncSaver(
                job.run, job.fence, _facts(job, worker), job.config.checkpoint.keep, self._max_outage_s
            )

    def resume(self) -> Resumed:
        """Restore the newest valid checkpoint, if there is one; every rank must call it.

        Raises:
            StorageError, CheckpointError: the storage does not answer, or no checkpoint is intact.
        """
        resumed = Resumed()
        # every rank reads for itself, so that none waits in a collective call during an outage of the storage ...
        own, files = store.through_outage(lambda: self._read_newest(resumed), self._max_outage_s)
        agreed = self._worker.object_of_rank_zero(own)  # ... and all take rank 0's choice
        resumed.skipped = agreed.skipped
        if agreed.checkpoint is None:
            return resumed
        if agreed.checkpoint != own.checkpoint:
            files, _ = checkpoints.read(self._run, agreed.checkpoint)
        step = agreed.checkpoint.step
        rank = self._worker.rank
        if not self._restore(agreed.checkpoint, files):
            torch.manual_seed(self._seed + rank + step)  # the number of workers has changed: this rank is new
        resumed.step = step
        resumed.resumed_from = agreed.checkpoint.name
        if step < agreed.skipped.stop:
            resumed.left_out = [agreed.skipped.start + 1, agreed.skipped.stop]
        return resumed

    def _restore(self, checkpoint: Checkpoint, files: dict[str, bytes]) -> bool:
        try:
            return restore(from_files(files), self._network, self._optimizers, self._worker.device, self._worker.rank)
        except Exception as error:  # each library has errors of its own for what is no tensor, or one of another shape
            place = store.join(self._run, layout.CHECKPOINTS, checkpoint.name)
            raise CheckpointError(
                f"{place} is as it was written, but holds no state of this network ({one_line(error)})",
                "start again under another name",
            ) from error

    def _read_newest(self, resumed: Resumed) -> tuple[_Agreed, dict[str, bytes]]:
        def note_damage(checkpoint: Checkpoint, damage: str) -> None:
            resumed.damaged.append(f"{checkpoint.name}: {damage}")

        def note_unfinished(checkpoint: Checkpoint) -> None:
            resumed.unfinished.append(checkpoint.name)

        resumed.unfinished.clear()  # of a try before an outage; what was quarantined then is not reported again
        newest = checkpoints.newest_valid(self._run, note_damage, note_unfinished)
        skipped = skipped_steps.read(self._run)
        if newest is None:
            return _Agreed(None, skipped), {}
        checkpoint, files, _ = newest
        return _Agreed(checkpoint, skipped), files

    def is_due(self, every_s: float) -> bool:
        """Return whether the last save began `every_s` seconds ago; rank 0 knows, others return False."""
        return self._saver.is_due(every_s)

    def save(self, epoch: int, done: int, loss: float) -> None:
        """Save the state after `done` steps, with `loss` the latest loss; every rank must call it.

        A state that is not finite is never saved.

        Raises:
            DivergedError: the loss or a weight is not finite.
            StorageError, CheckpointError: earlier states could not be saved, see `AsyncSaver.save`.
        """
        divergence.check(self._network, loss, epoch, done)
        began = time.perf_counter()
        state = capture(self._network, self._optimizers, self._worker.device, self._worker.world_size)
        self._saver.save(done, epoch, state)
        self._saving_seconds += time.perf_counter() - began

    def note_score(self, done: int, accuracy: float) -> None:
        """Note the test accuracy, 0..1, after `done` steps: the best checkpoint is kept."""
        self._saver.note_score(done, accuracy)

    def take_saving(self) -> Saving:
        """Return how saving went since the last call."""
        saving: Saving = {
            "saving_seconds": self._saving_seconds,
            "outage": self._saver.outage,
            "committed": self._saver.committed,
        }
        self._saving_seconds = 0.0
        return saving

    def finish(self, held_up: Callable[[HoldUp], None]) -> Finished:
        """Return when the last state and the final weights are saved; every rank must call it.

        `held_up` is called, on every rank, if an object store does not take the last state within a few seconds.

        Raises:
            StorageError, CheckpointError: they could not be saved.
        """
        began = time.perf_counter()
        if store.is_remote(self._run):
            hold_up = self._worker.object_of_rank_zero(self._saver.held_up(QUIET_S))
            if hold_up is not None:
                held_up({"outage": hold_up.reason, "waits_s": hold_up.waits_s})
        self._saver.finish()
        weights = None
        if self._worker.rank == 0:
            weights = store.through_outage(
                lambda: save_weights(self._network, store.part(self._run, layout.WEIGHTS)), self._max_outage_s
            )
        return {
            "weights": weights,
            "last_save_seconds": time.perf_counter() - began,
            "last_committed_at": self._saver.committed.at if self._saver.committed else None,
        }


def _facts(job: Job, worker: Worker) -> dict[str, Any]:
    config = job.config
    return {
        "attempt": job.attempt,
        "config_sha256": config.sha256,
        "data_sha256": {name: facts.sha256 for name, facts in fetch.FILES.items()},
        "world_size": worker.world_size,
        # with these three, a step is a position in the order of samples
        "seed": config.seed,
        "global_batch_size": config.global_batch_size,
        "steps_per_epoch": config.steps_per_epoch,
        "versions": {"trainer": __version__, "torch": torch.__version__},
    }


def save_weights(network: nn.Module, uri: str) -> FileFacts:
    """Write a model's weights as one safetensors object, atomically, and return its size and sha256.

    Raises:
        StorageError: the storage does not take it.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    content = safetensors.torch.save(weights)
    store.write(uri, content)
    return manifest.facts(content)
