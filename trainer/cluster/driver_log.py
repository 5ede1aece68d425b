"""The driver's output, as the submitter pods of a run print it."""

from __future__ import annotations

import json
from collections import deque
from contextlib import suppress
from typing import Any

from trainer.cluster.api import Cluster, Object

SUBMITTER = "ray-job-submitter"  # the container


class Log:
    """The driver's output, as the submitter pods of a run print it: every line once, however often it is printed."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._read_until: dict[str, float] = {}
        self.last_lines: deque[str] = deque(maxlen=50)
        self.result: dict[str, Any] | None = None

    def read(self, cluster: Cluster, pods: list[Object]) -> list[dict[str, Any] | str]:
        """What is new: events and points as dictionaries, all else as text."""
        new: list[dict[str, Any] | str] = []
        for pod in sorted(pods, key=lambda each: str(each["metadata"]["creationTimestamp"])):
            name, began = pod["metadata"]["name"], cluster.now
            until = self._read_until.get(name)
            since = None if until is None else int(began - until) + 5
            for line in cluster.log(name, SUBMITTER, since).splitlines():
                new += self._new(line)
            self._read_until[name] = began
        return new

    def _new(self, line: str) -> list[dict[str, Any] | str]:
        _, _, text = line.partition(" ")
        with suppress(ValueError):
            parsed = json.loads(text) if text.startswith('{"') else None
            if isinstance(parsed, dict) and "event" in parsed:
                return self._event(parsed, text)
        if hash(line) in self._seen:
            return []
        self._seen.add(hash(line))
        self.last_lines.append(text)
        return [text]

    def _event(self, event: dict[str, Any], text: str) -> list[dict[str, Any] | str]:
        # its own time is in it: a submitter that starts again prints the whole log again, at other times
        if hash(text) in self._seen:
            return []
        self._seen.add(hash(text))
        # it is a driver's last line: what comes after it is another attempt's, which has none yet
        is_result = event["event"] == "result"
        self.result = {key: value for key, value in event.items() if key != "event"} if is_result else None
        return [event]
