"""Where the time of a run went, over all its attempts and processes, from its record alone.

Every second between the first start and the last sign of life belongs to one of `PARTS` (after Google's goodput for
machine learning, which divides time into productive and several kinds of lost).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from trainer.storage.schema import Point

PARTS = {
    "productive": "training that counts",
    "redone": "training that a later attempt repeated: it came after the checkpoint from which that one resumed",
    "checkpoint_stall": "training waited while its state was copied, and at its end until the last state was saved",
    "evaluation": "scoring the test set",
    "start_up": "from the start of the first process to the first step",
    "recovery": "from a failure, or a driver's last sign of life, to the next attempt's first step",
    "shutdown": "from the last step to the end",
    "other": "the rest: time between two reports",
}


def without_redone(points: Sequence[Point], events: Sequence[Any]) -> list[Point]:
    """Return the points that count: those of steps that a later attempt repeated are dropped."""
    return [points[i] for i in _counting(points, events)]


def _counting(points: Sequence[Point], events: Sequence[Any]) -> list[int]:
    """Positions of the points that count."""
    began_at = {event["attempt"]: event.get("step", 0) for event in events if event["event"] == "training_started"}
    kept: list[int] = []
    for i, point in enumerate(points):
        if kept and point["attempt"] != points[kept[-1]]["attempt"]:
            began = began_at.get(point["attempt"], 0)
            kept = [j for j in kept if points[j]["step"] <= began]
        if kept and "test_accuracy" in point:
            last = points[kept[-1]]
            if "test_accuracy" in last and point["step"] == last["step"]:
                continue  # an epoch that was trained to its end before, and is only scored again
        kept.append(i)
    return kept


def account(events: Sequence[Any], points: Sequence[Point], now: float) -> dict[str, float]:
    """Return the seconds of each part, ``wall``, their sum, and ``goodput``, the productive share of it (0 to 1).

    `now` is when the run ended, or the time to account up to; seconds since 1970.
    """
    began = min((event["process_created"] for event in events if event["event"] == "run_started"), default=now)
    counting = set(_counting(points, events))
    seconds = dict.fromkeys(PARTS, 0.0)
    for i, point in enumerate(points):
        stall = point.get("saving_seconds", 0.0)
        seconds["productive" if i in counting else "redone"] += point["seconds"] - stall
        seconds["checkpoint_stall"] += stall + point.get("last_save_seconds", 0.0)
        seconds["evaluation"] += point.get("evaluation_seconds", 0.0)
    starts = [event for event in events if event["event"] == "training_started"]
    ends = {event["attempt"]: event["finished_at"] for event in events if event["event"] == "training_finished"}
    if starts:
        seconds["start_up"] = starts[0]["started_at"] - began
    for before, after in itertools.pairwise(starts):
        last_report, failed = _end_of(before["attempt"], before["started_at"], events, points)
        seconds["redone"] += failed - last_report  # trained, and lost before it was reported
        seconds["recovery"] += after["started_at"] - failed
    if starts and starts[-1]["attempt"] in ends:
        seconds["shutdown"] = now - ends[starts[-1]["attempt"]]
    wall = now - began
    seconds["other"] = wall - sum(seconds.values())
    rounded = {part: round(value, 3) for part, value in {**seconds, "wall": wall}.items()}
    return {**rounded, "goodput": round(seconds["productive"] / wall, 4) if wall > 0 else 0.0}


def _end_of(attempt: int, started_at: float, events: Sequence[Any], points: Sequence[Point]) -> tuple[float, float]:
    """When an attempt last reported, and when its failure was seen: the same moment if there is no such event."""
    reported = max((point["time"] for point in points if point["attempt"] == attempt), default=started_at)
    failures = [event["time"] for event in events if event["event"] == "worker_failed" and event["attempt"] == attempt]
    return reported, max(reported, min(failures, default=reported))
