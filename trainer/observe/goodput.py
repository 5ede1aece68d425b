"""Where the time of a run went, over all its attempts and processes, from its record alone.

Every second between the first start and the last sign of life belongs to one of `PARTS` (after Google's goodput for
machine learning, which divides time into productive and several kinds of lost).
"""

from __future__ import annotations

import itertools
from typing import Any

from trainer.storage.record import without_redone

PARTS = {
    "productive": "training that counts",
    "redone": "training that a later attempt did again: it came after the checkpoint that one continued from",
    "checkpoint_stall": "training waited while its state was copied, and its end until the last one was saved",
    "evaluation": "scoring the test set",
    "start_up": "from the start of the first process to the first step",
    "recovery": "from a failure, or a driver's last sign of life, to the next attempt's first step",
    "shutdown": "from the last step to the end",
    "other": "the rest: what lies between two reports",
}


def account(events: list[dict[str, Any]], points: list[dict[str, Any]], now: float) -> dict[str, float]:
    """Seconds of each part, ``wall``, which they add up to, and ``goodput``, the productive share of it (0..1).

    `now` is when the run ended, or the time to account up to; seconds since 1970.
    """
    began = min((event["process_created"] for event in events if event["event"] == "run_started"), default=now)
    counting = {id(point) for point in without_redone(points, events)}
    seconds = dict.fromkeys(PARTS, 0.0)
    for point in points:
        stall, trained = point.get("saving_seconds", 0.0), point["seconds"]
        seconds["productive" if id(point) in counting else "redone"] += trained - stall
        seconds["checkpoint_stall"] += stall + point.get("last_save_seconds", 0.0)
        seconds["evaluation"] += point.get("evaluation_seconds", 0.0)
    starts = [event for event in events if event["event"] == "training_started"]
    ends = {event["attempt"]: event["finished_at"] for event in events if event["event"] == "training_finished"}
    if starts:
        seconds["start_up"] = starts[0]["started_at"] - began
    for before, after in itertools.pairwise(starts):
        last_seen, failed = _end_of(before["attempt"], before["started_at"], events, points)
        seconds["redone"] += failed - last_seen  # trained, and lost before it was reported
        seconds["recovery"] += after["started_at"] - failed
    if starts and starts[-1]["attempt"] in ends:
        seconds["shutdown"] = now - ends[starts[-1]["attempt"]]
    wall = now - began
    seconds["other"] = wall - sum(seconds.values())
    rounded = {part: round(value, 3) for part, value in {**seconds, "wall": wall}.items()}
    return {**rounded, "goodput": round(seconds["productive"] / wall, 4) if wall > 0 else 0.0}


def _end_of(
    attempt: int, started_at: float, events: list[dict[str, Any]], points: list[dict[str, Any]]
) -> tuple[float, float]:
    """When an attempt last reported, and when it was seen to have failed: without such an event, the same moment."""
    reported = max((point["time"] for point in points if point["attempt"] == attempt), default=started_at)
    failed = [e["time"] for e in events if e["event"] == "worker_failed" and e["attempt"] == attempt]
    return reported, max(reported, min(failed, default=reported))
