"""Where the time of a run went, over all its attempts and processes, from its record alone.

Every second between the first start and the last sign of life belongs to one of `PARTS` (after Google's goodput for
machine learning, which divides time into productive and several kinds of lost).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from trainer.storage.schema import Point

PARTS = {
    "productive": "training that counts",
    "redone": "training that a later attempt repeated: it came after the checkpoint from which that one resumed",
    "checkpoint_stall": "training waited while its state was copied, and at its end until the last state was saved",
    "evaluation": "scoring the test set",
    "start_up_pods": "from the submission until the pods had nodes: queue, scheduling, new nodes",
    "start_up_image": "pulling the image, until the containers started",
    "start_up_ray": "from there to the workers' processes: Ray, the driver, and its checks",
    "start_up_imports": "from there to the training function: imports",
    "start_up_data": "from there to the first step: data, network, checkpoint",
    "recovery": "from a failure, or a driver's last sign of life, to the next attempt's first step",
    "shutdown": "from the last step to the end",
    "other": "the rest: time between two reports",
}
START_UP = tuple(part for part in PARTS if part.startswith("start_up_"))


class Span(NamedTuple):
    """A piece of a run's time: seconds since 1970, and how many workers it had then."""

    part: str
    begins: float
    ends: float
    workers: int


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


def began_at(events: Sequence[Any]) -> float | None:
    """Return when a run began, in seconds since 1970: its submission, its head's pod, or its driver's process."""
    moments = [
        moment
        for event in events
        if event["event"] == "run_started"
        for moment in (event.get("submitted_at"), (event.get("pod") or {}).get("mounted_at"), event["process_created"])
    ]
    return min((moment for moment in moments if moment is not None), default=None)


def spans(events: Sequence[Any], points: Sequence[Point], now: float) -> list[Span]:
    """Return the pieces of a run's time that belong to a part; what lies between them is "other"."""
    counting = set(_counting(points, events))
    found: list[Span] = []
    for i, point in enumerate(points):
        found += _of_point(point, "productive" if i in counting else "redone")
    starts = [event for event in events if event["event"] == "training_started"]
    if starts:
        found += _of_start_up(events, starts[0])
    for before, after in itertools.pairwise(starts):
        last_report, failed = _end_of(before["attempt"], before["started_at"], events, points)
        found.append(Span("redone", last_report, failed, before["workers"]))  # trained, lost before it was reported
        found.append(Span("recovery", failed, after["started_at"], after["workers"]))
    ends = {event["attempt"]: event["finished_at"] for event in events if event["event"] == "training_finished"}
    if starts and starts[-1]["attempt"] in ends:
        found.append(Span("shutdown", ends[starts[-1]["attempt"]], now, starts[-1]["workers"]))
    return found


def _of_point(point: Point, part: str) -> list[Span]:
    """The time that a report tells of; it was sent when all of that was over."""
    lasted = (
        (part, point["seconds"] - point.get("saving_seconds", 0.0)),
        ("checkpoint_stall", point.get("saving_seconds", 0.0)),
        ("evaluation", point.get("evaluation_seconds", 0.0)),
        ("checkpoint_stall", point.get("last_save_seconds", 0.0)),
    )
    at = point["time"] - sum(seconds for _, seconds in lasted)
    found = []
    for name, seconds in lasted:
        if seconds:
            found.append(Span(name, at, at + seconds, point["workers"]))
        at += seconds
    return found


def _of_start_up(events: Sequence[Any], started: Mapping[str, Any]) -> list[Span]:
    """The time until the first attempt's first step, by what the run waited for; unknown moments are left out."""
    began = began_at(events)
    if began is None:
        return []
    run = next(event for event in events if event["event"] == "run_started")
    head, workers = run.get("pod") or {}, started.get("pods") or []
    moments = (
        ("start_up_pods", head.get("mounted_at")),
        ("start_up_image", head.get("container_began_at")),
        ("start_up_ray", run["process_created"]),
        # workers' pods may only come when the driver asks for them
        ("start_up_pods", _last(workers, "mounted_at")),
        ("start_up_image", _last(workers, "container_began_at")),
        ("start_up_ray", started.get("processes_began_at")),
        ("start_up_imports", started.get("entered_at")),
        ("start_up_data", started["started_at"]),
    )
    found = []
    for part, moment in moments:
        if moment is not None:
            ends = min(max(began, moment), started["started_at"])
            found.append(Span(part, began, ends, started["workers"]))
            began = ends
    return found


def _last(pods: Sequence[Mapping[str, Any]], key: str) -> float | None:
    return max((pod[key] for pod in pods if key in pod), default=None)


def pods_in(events: Sequence[Any]) -> list[Mapping[str, Any]]:
    """Return what the pods of drivers and workers said of themselves: `schema.Pod`."""
    of_drivers = [event["pod"] for event in events if event["event"] == "run_started" and event.get("pod")]
    of_workers = [pod for event in events if event["event"] == "training_started" for pod in event.get("pods") or []]
    return [*of_drivers, *of_workers]


def account(events: Sequence[Any], points: Sequence[Point], now: float) -> dict[str, float]:
    """Return the seconds of each part, ``wall``, their sum, and ``goodput``, the productive share of it (0 to 1).

    `now` is when the run ended, or the time to account up to; seconds since 1970.
    """
    began = began_at(events)
    seconds = dict.fromkeys(PARTS, 0.0)
    for span in spans(events, points, now):
        seconds[span.part] += span.ends - span.begins
    wall = now - began if began is not None else 0.0
    seconds["other"] = wall - sum(seconds.values())
    rounded = {part: round(value, 3) for part, value in {**seconds, "wall": wall}.items()}
    return {**rounded, "goodput": round(seconds["productive"] / wall, 4) if wall > 0 else 0.0}


def worker_seconds(events: Sequence[Any], points: Sequence[Point], now: float) -> dict[str, float]:
    """Return ``productive`` worker-seconds and ``all`` of them: eight workers that wait cost eight seconds a second."""
    seconds = dict.fromkeys(("productive", "all"), 0.0)
    for span in spans(events, points, now):
        seconds["all"] += (span.ends - span.begins) * span.workers
        if span.part == "productive":
            seconds["productive"] += (span.ends - span.begins) * span.workers
    return {use: round(value, 3) for use, value in seconds.items()}


def _end_of(attempt: int, started_at: float, events: Sequence[Any], points: Sequence[Point]) -> tuple[float, float]:
    """When an attempt last reported, and when its failure was seen: the same moment if there is no such event."""
    reported = max((point["time"] for point in points if point["attempt"] == attempt), default=started_at)
    failures = [event["time"] for event in events if event["event"] == "worker_failed" and event["attempt"] == attempt]
    return reported, max(reported, min(failures, default=reported))
