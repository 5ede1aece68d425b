"""How a run ended, as numbers: accuracy, loss, and where the time went."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.config import CLASSES
from trainer.errors import ErrorFacts, ExitCode, error_facts
from trainer.observe import cost, goodput
from trainer.observe.cost import Prices
from trainer.storage.record import Record
from trainer.storage.schema import Evaluation, Result, Status


@dataclass
class Clock:
    """When this process began (seconds since 1970), and how long it looked for the data set."""

    began: float
    data_seconds: float = 0.0


def summarise(
    record: Record, clock: Clock, status: Status, error: Exception | None, prices: Prices | None = None
) -> Result:
    """Return what goes into ``result.json``; with `prices` also what the run cost."""
    now = time.time()
    points = [point for point in record.points() if point["time"] >= clock.began]  # not an earlier process's
    last = points[-1] if points else None
    scored = [point for point in points if "test_accuracy" in point]
    result: Result = {
        "name": record.name,
        "status": status,
        "exit_code": int(ExitCode.OK),
        "test_accuracy": scored[-1]["test_accuracy"] if scored else None,
        "test_loss": scored[-1]["test_loss"] if scored else None,
        "class_accuracy": class_accuracy(record.evaluation()) if status == "finished" else None,
        "epochs": scored[-1]["epoch"] if scored else 0,
        "steps": last["step"] if last else 0,
        "workers": last["workers"] if last else None,
        "attempt": last["attempt"] if last else None,
        "config_sha256": record.config().sha256,
        "seconds": seconds_by_part(record, clock, now),
        "goodput": goodput.account(record.events(), record.points(), now),
        "worker_seconds": goodput.worker_seconds(record.events(), record.points(), now),
        "started_at": clock.began,
        "ended_at": now,
    }
    if (spent := cost.of_run(record, prices, now)) is not None:
        result["cost"] = spent
    if error is not None:
        _add_error(result, error_facts(error))
    return result


def how_far(record: Record) -> str:
    """Return in words how far a run has trained."""
    points = record.points()
    if not points:
        return "before the first report"
    config = record.config()
    return f"at step {points[-1]['step']}/{config.total_steps}, in epoch {points[-1]['epoch']}/{config.epochs}"


def _add_error(result: Result, facts: ErrorFacts) -> None:
    result["exit_code"] = facts["exit_code"]
    result["error"] = facts["error"]
    result["problem"] = facts["problem"]
    result["fix"] = facts["fix"]
    result["retry"] = facts["retry"]


def class_accuracy(evaluation: Evaluation | None) -> dict[str, float] | None:
    """Return the share classified correctly, 0 to 1, of each class, from a record's confusion matrix."""
    if evaluation is None:
        return None
    rows = zip(CLASSES, evaluation["confusion"], strict=True)
    return {name: row[i] / sum(row) for i, (name, row) in enumerate(rows) if sum(row)}


def wall_seconds(result: Mapping[str, Any]) -> float | None:
    """Return the wall time of a run, from its first start to its end, for all that show it; None if unknown."""
    for account in (result.get("goodput"), result.get("seconds")):
        if isinstance(account, Mapping) and isinstance(account.get("wall"), int | float):
            return float(account["wall"])
    return None


def parts_of(result: Mapping[str, Any]) -> dict[str, float]:
    """Return where the wall time of a run went, in seconds; the parts add up to `wall_seconds`.

    If it was resumed, they are `goodput.PARTS` over all its attempts, else the parts of `seconds_by_part`.
    """
    of_process, of_run = result.get("seconds") or {}, result.get("goodput") or {}
    earlier_s = of_run.get("wall", 0.0) - of_process.get("wall", 0.0)  # of processes that ended before training, too
    resumed = bool(of_run) and ((result.get("attempt") or 1) > 1 or earlier_s > 1.0)
    parts = of_run if resumed else of_process
    return {part: seconds for part, seconds in parts.items() if part not in ("wall", "goodput")}


def seconds_by_part(record: Record, clock: Clock, now: float) -> dict[str, float]:
    """Return where the time of this process went, in seconds; the parts add up to ``wall``."""
    events = {event["event"]: event for event in record.events() if event["time"] >= clock.began}
    started = events.get("training_started")
    finished = events.get("training_finished")
    began = started["started_at"] if started else now
    ended = finished["finished_at"] if finished else now
    points = [point for point in record.points() if point["time"] >= clock.began]
    evaluation = sum(point.get("evaluation_seconds", 0.0) for point in points)
    last_save = sum(point.get("last_save_seconds", 0.0) for point in points)
    data = clock.data_seconds + (started["data_seconds"] if started else 0.0)
    parts = {
        "start_up": began - clock.began - data,
        "data": data,
        "training": ended - began - evaluation - last_save,
        "evaluation": evaluation,
        "shutdown": now - ended + last_save,
    }
    return {part: round(seconds, 3) for part, seconds in {**parts, "wall": now - clock.began}.items()}
