"""The driver's output, as the submitter pods of a run print it. What is in it is data from elsewhere."""

from __future__ import annotations

import json
from collections import deque
from contextlib import suppress
from typing import Any, cast

from trainer.cluster.api import KubeClient, KubeObject
from trainer.cluster.outcome import checked_result
from trainer.storage.schema import Point, Result

SUBMITTER = "ray-job-submitter"  # the container
OVERLAP_S = 5  # read again each time, so that a line at the border is not lost
# Of a point; what may be null, and what only an epoch's last point has.
NUMBERS = ("time", "attempt", "workers", "epoch", "step", "samples", "seconds")
NUMBERS_OR_NULL = ("train_loss", "samples_per_second")
OPTIONAL_NUMBERS = ("test_loss", "test_accuracy")


class Log:
    """Reads a driver's output: each line once, however often submitters print it."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._read_until: dict[str, float] = {}
        self.last_lines: deque[str] = deque(maxlen=50)
        self.result: Result | None = None

    def read(self, kube: KubeClient, pods: list[KubeObject]) -> list[dict[str, Any] | str]:
        """Return what is new: events as dictionaries, everything else as text."""
        new: list[dict[str, Any] | str] = []
        for pod in sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"])):
            name = pod["metadata"]["name"]
            began = kube.now
            until = self._read_until.get(name)
            since = None if until is None else int(began - until) + OVERLAP_S
            for line in kube.pod_log(name, SUBMITTER, since).splitlines():
                new += self._new(line)
            self._read_until[name] = began
        return new

    def _new(self, line: str) -> list[dict[str, Any] | str]:
        _, _, text = line.partition(" ")  # the time when it was printed
        with suppress(ValueError, RecursionError):
            event = json.loads(text) if text.startswith('{"') else None
            if isinstance(event, dict) and isinstance(event.get("event"), str):
                return self._event(event, text)
        if hash(line) in self._seen:
            return []
        self._seen.add(hash(line))
        self.last_lines.append(text)
        return [text]

    def _event(self, event: dict[str, Any], text: str) -> list[dict[str, Any] | str]:
        # compared without the time of printing: a submitter that starts again prints the whole log again
        if hash(text) in self._seen:
            return []
        self._seen.add(hash(text))
        # the result is a driver's last line: any event after it is the next attempt's, which has no result yet
        self.result = checked_result(event) if event["event"] == "result" else None
        return [event]


def as_point(event: dict[str, Any]) -> Point | None:
    """Return a ``metrics`` event as a point, or None if a number is missing or is none."""
    point = {key: value for key, value in event.items() if key != "event"}
    whole = (
        all(_is_number(point.get(key)) for key in NUMBERS)
        and all(key in point and (point[key] is None or _is_number(point[key])) for key in NUMBERS_OR_NULL)
        and all(_is_number(point[key]) for key in OPTIONAL_NUMBERS if key in point)
        and ("test_loss" in point) == ("test_accuracy" in point)
    )
    return cast("Point", point) if whole else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
