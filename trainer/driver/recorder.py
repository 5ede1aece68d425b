"""The controller's side: turns the reports of all ranks into metric points and events of the run's record.

Ray Train calls it in the controller's process, which outlives the workers: what it holds is not lost with them.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from ray.train import UserCallback
from ray.train.v2._internal.execution.callback import WorkerCallback

from trainer.driver.ray_errors import described
from trainer.storage.record import Record

ATTEMPT = "TRAINER_ATTEMPT"  # in the environment of a worker: the number of its attempt


class Recorder(UserCallback):
    """Writes each report of a worker group, summed over its ranks, to the record of the run in `folder`.

    `attempt` is the number of the first attempt: each time a worker group starts counts as one.
    """

    def __init__(self, folder: Path, peak_lr: float, attempt: int = 1):
        self._folder, self._peak_lr = folder, peak_lr
        self._attempt = attempt - 1
        self._workers = 0
        self._evaluation_seconds = 0.0
        self._outage = False

    @property
    def next_attempt(self) -> int:
        """The number of the attempt of workers that are not ready yet."""
        return self._attempt + 1

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:  # noqa: ARG002 # Ray's signature
        """Take one report of every rank."""
        record = Record(self._folder)
        first = metrics[0]
        if first["phase"] == "ready":
            self._ready(record, metrics)
            return
        if first["phase"] == "saving":  # the last state, which an object store does not take
            record.add_event("storage_away", message=first["outage"], waits_s=first["waits_s"])
            self._outage = True
            return
        self._note_outage(record, first["outage"])
        record.add_point(self._point(metrics))
        if "confusion" in first:
            self._finished(record, metrics)

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002 # Ray's signature
        """Note which workers failed, and how."""
        for rank, error in sorted(worker_exceptions.items()):
            Record(self._folder).add_event("worker_failed", rank=rank, attempt=self._attempt, error=described(error))

    def _note_outage(self, record: Record, outage: str | None) -> None:
        if outage is not None and not self._outage:
            record.add_event("storage_away", message=outage)
        if outage is None and self._outage:
            record.add_event("storage_back")
        self._outage = outage is not None

    def _ready(self, record: Record, metrics: list[dict[str, Any]]) -> None:
        self._attempt += 1
        self._workers = len(metrics)
        self._evaluation_seconds = 0.0
        first = metrics[0]
        for damaged in first["damaged"]:
            record.add_event("checkpoint_damaged", checkpoint=damaged)
        for unfinished in first["unfinished"]:
            record.add_event("checkpoint_unfinished", checkpoint=unfinished)
        if first["left_out"]:
            record.add_event("rolled_back", attempt=self._attempt, left_out=first["left_out"])
        record.add_event(
            "training_started",
            attempt=self._attempt,
            workers=self._workers,
            processes_began_at=max(each["process_began_at"] for each in metrics),
            entered_at=max(each["entered_at"] for each in metrics),
            started_at=max(each["time"] for each in metrics),
            step=first["step"],
            resumed_from=first["resumed_from"],
            data_seconds=max(each["data_seconds"] for each in metrics),
            **{key: first[key] for key in ("device", "precision", "precision_reason", "threads")},
        )

    def _point(self, metrics: list[dict[str, Any]]) -> dict[str, Any]:
        first = metrics[0]
        samples = sum(each["samples"] for each in metrics)
        seconds = max(each["seconds"] for each in metrics)
        point = {
            "time": round(time.time(), 3),
            "attempt": self._attempt,
            "workers": self._workers,
            "epoch": first["epoch"],
            "step": first["step"],
            "learning_rate": first["lr"] * self._peak_lr,
            "train_loss": sum(each["loss_sum"] for each in metrics) / samples if samples else None,
            "samples": samples,
            "seconds": round(seconds, 6),
            "saving_seconds": round(max(each["saving_seconds"] for each in metrics), 6),
            "samples_per_second": round(samples / seconds, 1) if seconds else None,
        }
        if first["phase"] == "epoch":
            point |= {key: first[key] for key in ("test_loss", "test_accuracy")}
            point["evaluation_seconds"] = max(each["evaluation_seconds"] for each in metrics)
            self._evaluation_seconds += point["evaluation_seconds"]
        if "last_save_seconds" in first:
            point["last_save_seconds"] = round(max(each["last_save_seconds"] for each in metrics), 6)
        return point

    def _finished(self, record: Record, metrics: list[dict[str, Any]]) -> None:
        mistakes = sorted((m for each in metrics for m in each["mistakes"]), key=lambda m: -m["confidence"])
        record.write_evaluation({"confusion": metrics[0]["confusion"], "mistakes": mistakes[:25]})
        record.add_event(
            "training_finished",
            attempt=self._attempt,
            finished_at=max(each["time"] for each in metrics),
            evaluation_seconds=self._evaluation_seconds,
            weights=metrics[0]["weights"],
        )


class AttemptTold(WorkerCallback):
    """Tells each worker of which attempt it is. Ray Train hands it on from the controller as its workers start."""

    def __init__(self, recorder: Recorder):
        self._recorder = recorder

    def after_init_train_context(self) -> None:
        """Put it into the worker's environment."""
        os.environ[ATTEMPT] = str(self._recorder.next_attempt)
