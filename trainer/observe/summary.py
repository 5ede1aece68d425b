"""How a run ended, as numbers: accuracy, loss, and where the time went."""

from __future__ import annotations

import time
from typing import Any

from trainer.config import CLASSES
from trainer.errors import ExitCode
from trainer.observe import goodput
from trainer.storage.record import Record
from trainer.training import device


class Clock:
    """When this process began, and how long it looked for data."""

    def __init__(self) -> None:
        self.began = device.process_began()
        self.data_seconds = 0.0


def summarise(record: Record, clock: Clock, status: str, error: Exception | None) -> dict[str, Any]:
    """What goes into ``result.json``; times in seconds, accuracies 0..1."""
    points = [point for point in record.points() if point["time"] >= clock.began]  # not an earlier process's
    last = points[-1] if points else {}
    tested = [point for point in points if "test_accuracy" in point]
    exit_code = getattr(error, "exit_code", ExitCode.INTERNAL) if error else ExitCode.OK
    now = time.time()
    return {
        "name": record.name,
        "status": status,
        "exit_code": int(exit_code),
        **({"error": str(error)} if error else {}),
        "test_accuracy": tested[-1]["test_accuracy"] if tested else None,
        "test_loss": tested[-1]["test_loss"] if tested else None,
        "class_accuracy": class_accuracy(record.evaluation()) if status == "finished" else None,
        "epochs": tested[-1]["epoch"] if tested else 0,
        "steps": last.get("step", 0),
        "workers": last.get("workers"),
        "attempt": last.get("attempt"),
        "config_sha256": record.config().sha256,
        "seconds": seconds_by_part(record, clock, now),
        "goodput": goodput.account(record.events(), record.points(), now),
        "started_at": clock.began,
        "ended_at": now,
    }


def count_report(record: Record, result: dict[str, Any]) -> dict[str, Any]:
    """The result with the time since it was written as its part ``report``; the record is told as well."""
    now = time.time()
    seconds = dict(result["seconds"])
    wall = seconds.pop("wall")
    seconds["report"] = round(now - result["ended_at"], 3)
    counted = {**result, "seconds": {**seconds, "wall": round(wall + seconds["report"], 3)}, "ended_at": now}
    record.write_result(counted)
    return counted


def without_report(result: dict[str, Any] | None) -> dict[str, Any] | None:
    """The result as it was before `count_report`: a page cannot say how long it took to make, and so stays the same."""
    if result is None or "report" not in result.get("seconds", {}):
        return result
    seconds = dict(result["seconds"])
    took = seconds.pop("report")
    return {**result, "seconds": {**seconds, "wall": round(seconds["wall"] - took, 3)}}


def class_accuracy(evaluation: dict[str, Any] | None) -> dict[str, float] | None:
    """Share predicted right, 0..1, of each class, from a record's confusion matrix."""
    if evaluation is None:
        return None
    rows = zip(CLASSES, evaluation["confusion"], strict=True)
    return {name: row[i] / sum(row) for i, (name, row) in enumerate(rows) if sum(row)}


def seconds_by_part(record: Record, clock: Clock, now: float) -> dict[str, float]:
    """Where the time went, in seconds; the parts add up to ``wall``, which begins with this process."""
    events = {event["event"]: event for event in record.events() if event["time"] >= clock.began}
    started, finished = events.get("training_started"), events.get("training_finished")
    began = started["started_at"] if started else now
    ended = finished["finished_at"] if finished else now
    points = [point for point in record.points() if point["time"] >= clock.began]
    evaluation, last_save = (
        sum(point.get(name, 0.0) for point in points) for name in ("evaluation_seconds", "last_save_seconds")
    )
    data = clock.data_seconds + (started["data_seconds"] if started else 0.0)
    parts = {
        "start_up": began - clock.began - data,
        "data": data,
        "training": ended - began - evaluation - last_save,
        "evaluation": evaluation,
        "shutdown": now - ended + last_save,
    }
    return {part: round(seconds, 3) for part, seconds in {**parts, "wall": now - clock.began}.items()}
