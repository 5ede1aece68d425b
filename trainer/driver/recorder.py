"""The controller's side: turns the reports of all ranks into metric points and events of the run's record.

Ray Train calls it in the controller's process, which outlives the workers: what it holds is not lost with them.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray.train import UserCallback

from trainer.config import Config
from trainer.driver.ray_errors import causes, described, is_death, root_causes
from trainer.errors import StorageError
from trainer.storage import logs
from trainer.storage.record import Record
from trainer.storage.schema import Point, TrainingStarted, WorkerFailed

Report = dict[str, Any]  # one of training/reporter.py, as Ray hands it on
MISTAKES = 25


class Recorder(UserCallback):
    """Writes each report of a worker group, combined over its ranks, to the record of the run in `folder`.

    `attempt` is the number of the first attempt: each start of a worker group counts as one. `run` is the run's URI,
    if that is not the folder.
    """

    def __init__(self, folder: Path, config: Config, attempt: int = 1, run: str | None = None):
        self._folder = folder
        self._run = run or str(folder)
        self._peak_lr = config.optimizer.lr
        _, self._workers_wanted = config.worker_range
        self._attempt = attempt - 1
        self._workers = 0
        self._hosts: list[str] = []
        self._outputs: list[dict[str, str]] = []
        self._evaluation_seconds = 0.0
        self._outage = False

    @property
    def next_attempt(self) -> int:
        """The number of the attempt whose workers are not ready yet."""
        return self._attempt + 1

    def after_report(self, run_context: Any, metrics: list[Report], checkpoint: Any) -> None:  # noqa: ARG002 # Ray's signature
        """Take one report of every rank."""
        record = Record(self._folder)
        first = metrics[0]
        if first["phase"] == "ready":
            self._ready(record, metrics)
        elif first["phase"] == "saving":  # the object store does not take the last state
            record.add_event({"event": "storage_away", "message": first["outage"], "waits_s": first["waits_s"]})
            self._outage = True
        else:
            self._note_outage(record, first["outage"])
            record.add_point(self._point(metrics))
            if "confusion" in first:
                self._finished(record, metrics)

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002 # Ray's signature
        """Note which workers failed, and how; errors of other ranks that only follow from a loss are left out."""
        record = Record(self._folder)
        for rank, error in root_causes(causes(worker_exceptions)).items():
            failed: WorkerFailed = {
                "event": "worker_failed",
                "rank": rank,
                "attempt": self._attempt,
                "error": described(error),
                "lost": is_death(error),
            }
            if rank < len(self._hosts) and len(set(self._hosts)) > 1:  # on one machine it says nothing
                failed["host"] = self._hosts[rank]
            record.add_event(failed)
            self._keep_output(rank)

    def _keep_output(self, rank: int) -> None:
        """Keep the last words of a worker that could not keep them itself; those on other nodes are out of reach."""
        if rank < len(self._outputs):
            files = {f"worker-{rank}.{name}": Path(file) for name, file in self._outputs[rank].items()}
            place = logs.folder(self._run, self._attempt)
            # a thread: a store that does not answer must not hold up the next attempt
            threading.Thread(target=logs.keep, args=(files, place), name="keep-output", daemon=True).start()

    def note_preemption(self) -> None:
        """Note that the workers of the newest attempt ended because a node is taken away.

        Ray Train gives its failure policy a copy of this object, whose numbers stand still: the record has the attempt.
        """
        record = Record(self._folder)
        with suppress(StorageError):  # the workers are to be started again all the same
            starts = [event["attempt"] for event in record.events() if event["event"] == "training_started"]
            record.add_event({"event": "preempted", "attempt": max(starts, default=0)})

    def _note_outage(self, record: Record, outage: str | None) -> None:
        if outage is not None and not self._outage:
            record.add_event({"event": "storage_away", "message": outage})
        if outage is None and self._outage:
            record.add_event({"event": "storage_back"})
        self._outage = outage is not None

    def _ready(self, record: Record, reports: list[Report]) -> None:
        self._attempt += 1
        self._workers = len(reports)
        self._hosts = [report["host"] for report in reports if "host" in report]
        self._outputs = [report["outputs"] for report in reports]
        self._evaluation_seconds = 0.0
        first = reports[0]
        for damaged in first["damaged"]:
            record.add_event({"event": "checkpoint_damaged", "checkpoint": damaged})
        for unfinished in first["unfinished"]:
            record.add_event({"event": "checkpoint_unfinished", "checkpoint": unfinished})
        if first["left_out"]:
            record.add_event({"event": "rolled_back", "attempt": self._attempt, "left_out": first["left_out"]})
        started: TrainingStarted = {
            "event": "training_started",
            "attempt": self._attempt,
            "workers": self._workers,
            "workers_wanted": self._workers_wanted,
            "hosts": self._hosts,
            "processes_began_at": max(report["process_began_at"] for report in reports),
            "entered_at": max(report["entered_at"] for report in reports),
            "started_at": max(report["time"] for report in reports),
            "step": first["step"],
            "resumed_from": first["resumed_from"],
            "data_seconds": max(report["data_seconds"] for report in reports),
            "device": first["device"],
            "precision": first["precision"],
            "precision_reason": first["precision_reason"],
            "threads": first["threads"],
        }
        if all(report["pod"] for report in reports):
            started["pods"] = [report["pod"] for report in reports]
        record.add_event(started)

    def _point(self, reports: list[Report]) -> Point:
        first = reports[0]
        samples = sum(report["samples"] for report in reports)
        seconds = max(report["seconds"] for report in reports)
        point: Point = {
            "time": round(time.time(), 3),
            "attempt": self._attempt,
            "workers": self._workers,
            "epoch": first["epoch"],
            "step": first["step"],
            "learning_rate": first["lr"] * self._peak_lr,
            "train_loss": sum(report["loss_sum"] for report in reports) / samples if samples else None,
            "samples": samples,
            "seconds": round(seconds, 6),
            "saving_seconds": round(max(report["saving_seconds"] for report in reports), 6),
            "samples_per_second": round(samples / seconds, 1) if seconds else None,
        }
        if first["phase"] == "epoch":
            point["test_loss"] = first["test_loss"]
            point["test_accuracy"] = first["test_accuracy"]
            point["evaluation_seconds"] = max(report["evaluation_seconds"] for report in reports)
            self._evaluation_seconds += point["evaluation_seconds"]
        if first["committed"] is not None:
            point["checkpoint_step"], point["checkpoint_at"] = first["committed"]
        if "last_save_seconds" in first:
            point["checkpoint_step"], point["checkpoint_at"] = first["step"], first["last_committed_at"]
            point["last_save_seconds"] = round(max(report["last_save_seconds"] for report in reports), 6)
        return point

    def _finished(self, record: Record, reports: list[Report]) -> None:
        mistakes = sorted(
            (mistake for report in reports for mistake in report["mistakes"]),
            key=lambda mistake: -mistake["confidence"],
        )
        record.write_evaluation({"confusion": reports[0]["confusion"], "mistakes": mistakes[:MISTAKES]})
        record.add_event(
            {
                "event": "training_finished",
                "attempt": self._attempt,
                "finished_at": max(report["time"] for report in reports),
                "evaluation_seconds": self._evaluation_seconds,
                "weights": reports[0]["weights"],
            }
        )
