"""The driver's output, as the submitter pods of a run print it. What is in it is data from elsewhere."""

from __future__ import annotations

import json
import re
from collections import deque
from contextlib import suppress
from datetime import datetime
from typing import Any, cast

from trainer.cluster.api import KubeClient, KubeObject
from trainer.cluster.outcome import checked_result
from trainer.config import Config
from trainer.observe.display import Lines
from trainer.observe.text import clean, clock
from trainer.storage.parsing import from_json
from trainer.storage.schema import Point, Result

SUBMITTER = "ray-job-submitter"  # the container
OVERLAP_S = 5  # read again each time, so that a line at the border is not lost
OF_RAYS_COMMAND = re.compile(r"\bcli\.py:\d+ -- ")  # lines of `ray job submit`: hints that go past the trainer
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
                new += self.take(line)
            self._read_until[name] = began
        return new

    def take(self, line: str) -> list[dict[str, Any] | str]:
        """Return a line, which begins with the time when it was printed, if it is new."""
        _, _, text = line.partition(" ")
        with suppress(ValueError):
            event = from_json(text) if text.startswith('{"') else None
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


class Readable:
    """Makes the lines of a driver's output for people: those that `trainer submit` shows, and what is no JSON.

    `line` takes a line as `Log` does, and returns the time of what it says, seconds since 1970 or None, and the text.
    """

    def __init__(self, config: Config | None):
        self._log = Log()
        self._lines = Lines(config)

    def line(self, line: str) -> list[tuple[float | None, str]]:
        """Return the new lines that this one becomes: one or none."""
        at_print = time_of(line)
        found: list[tuple[float | None, str]] = []
        for each in self._log.take(line):
            if isinstance(each, str):
                if each and not OF_RAYS_COMMAND.search(each):
                    found.append((at_print, clean(each) if at_print is None else f"{clock(at_print)}  {clean(each)}"))
            elif text := self._text(each):
                at = each.get("time", each.get("ended_at"))
                found.append((float(at) if isinstance(at, int | float) else at_print, text))
        return found

    def _text(self, event: dict[str, Any]) -> str | None:
        try:
            if event["event"] == "metrics":
                point = as_point(event)
                return None if point is None else self._lines.point(point)
            if event["event"] == "result":
                words = str(event.get("error") or f"Run {event.get('name', '')} {event.get('status')}.")
                return f"{clock(float(event['ended_at']))}  {clean(words)}" if "ended_at" in event else clean(words)
            return self._lines.event(event)
        except (KeyError, TypeError, ValueError, IndexError):  # of another version: as it is
            return clean(json.dumps(event))


def time_of(line: str) -> float | None:
    """Return when a line was printed, seconds since 1970, by the time that it begins with."""
    return _seconds(line.partition(" ")[0])


def _seconds(stamp: str) -> float | None:
    with suppress(ValueError, OverflowError):
        return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", stamp).replace("Z", "+00:00")).timestamp()
    return None


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
