"""What a person or a program sees while a run goes on: follows the record and shows each new event and point."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from trainer.config import Config
from trainer.storage.record import Record

FOLLOW_EVERY_S = 0.1
PLAIN_LINE_EVERY_S = 5.0


class Display(Protocol):
    """Somewhere to show a run."""

    def event(self, event: dict[str, Any]) -> None:
        """Something happened."""

    def point(self, point: dict[str, Any]) -> None:
        """There are new numbers."""

    def close(self) -> None:
        """The run is over."""


def choose(log_format: str, config: Config) -> Display:
    """The display for ``auto``, ``live``, ``plain`` or ``json``: live in a terminal, else plain lines."""
    if log_format == "json":
        return JsonDisplay()
    if log_format == "live" or (log_format == "auto" and sys.stdout.isatty()):
        return LiveDisplay(config)
    return PlainDisplay(config)


class Follower:
    """A thread that hands a run's new events and points to a display as they reach the record."""

    def __init__(self, record: Record, display: Display):
        self._display = display
        self._files: list[tuple[Path, Callable[[dict[str, Any]], None]]] = [
            (record.events_file, display.event),
            (record.metrics_file, display.point),
        ]
        self._offsets = {file: file.stat().st_size if file.exists() else 0 for file, _ in self._files}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follow-record", daemon=True)

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._show_new()
        with suppress(OSError):
            self._display.close()

    def _follow(self) -> None:
        while not self._stop.wait(FOLLOW_EVERY_S):
            self._show_new()

    def _show_new(self) -> None:
        try:
            self._read_new()
        except OSError:  # the terminal or the pipe is gone: the run goes on, unseen
            self._files = []

    def _read_new(self) -> None:
        for file, show in self._files:
            if not file.exists():
                continue
            with file.open("rb") as lines:
                lines.seek(self._offsets[file])
                for line in lines:
                    if not line.endswith(b"\n"):
                        break  # still being written
                    self._offsets[file] += len(line)
                    show(json.loads(line))


class JsonDisplay:
    """Every event and point as one line of JSON, for programs."""

    def event(self, event: dict[str, Any]) -> None:
        """Print it."""
        print(json.dumps(event), flush=True)  # noqa: T201 # what this display is for

    def point(self, point: dict[str, Any]) -> None:
        """Print it, marked as metrics."""
        print(json.dumps({"event": "metrics", **point}), flush=True)  # noqa: T201 # what this display is for

    def close(self) -> None:
        """Nothing is open."""


class PlainDisplay:
    """A line at each epoch's end, and every few seconds in between: for logs."""

    def __init__(self, config: Config):
        self._pace = Pace(config)
        self._last_line = time.monotonic()

    def event(self, event: dict[str, Any]) -> None:
        """Print what a person wants to know of it."""
        if sentence := event_sentence(event):
            self._line(sentence)

    def point(self, point: dict[str, Any]) -> None:
        """Print it if it ends an epoch, or if nothing was printed for a while."""
        self._pace.add(point)
        if "test_accuracy" in point or time.monotonic() - self._last_line >= PLAIN_LINE_EVERY_S:
            self._line(self._pace.sentence(point))

    def close(self) -> None:
        """Nothing is open."""

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)  # noqa: T201 # what this display is for


class LiveDisplay:
    """One table at the foot of the terminal that changes in place; epochs scroll by above it."""

    def __init__(self, config: Config):
        self._pace = Pace(config)
        self._config = config
        self._console = Console()
        self._live = Live(self._table({}), console=self._console, refresh_per_second=8, transient=True)
        self._live.start()

    def event(self, event: dict[str, Any]) -> None:
        """Show it above the table."""
        if sentence := event_sentence(event):
            self._console.print(sentence, style="dim", highlight=False)

    def point(self, point: dict[str, Any]) -> None:
        """Renew the table; an epoch's end stays above it."""
        self._pace.add(point)
        if "test_accuracy" in point:
            self._console.print(self._pace.sentence(point), highlight=False)
        self._live.update(self._table(point))

    def close(self) -> None:
        """Take the table away."""
        self._live.stop()

    def _table(self, point: dict[str, Any]) -> Table:
        table = Table.grid(padding=(0, 2))
        if not point:
            table.add_row("Starting Ray and its workers …")
            return table
        config = self._config
        table.add_row(
            f"epoch {point['epoch']}/{config.epochs}",
            ProgressBar(total=config.total_steps, completed=point["step"], width=30),
            f"step {point['step']}/{config.total_steps}",
            f"loss {number(point['train_loss'], '.4f')}",
            f"accuracy {number(self._pace.accuracy, '.2%')}",
            f"{number(point['samples_per_second'], ',.0f')} samples/s",
            plural(point["workers"], "worker"),
            f"ETA {duration(self._pace.seconds_left)}",
        )
        return table


class Pace:
    """What is known of a run's speed and accuracy so far."""

    def __init__(self, config: Config):
        self._config = config
        self._began: float | None = None  # of this attempt, in seconds since 1970
        self._began_at_step = 0.0
        self._attempt = 0
        self.point: dict[str, Any] | None = None  # the last
        self.accuracy: float | None = None
        self.seconds_left: float | None = None

    def add(self, point: dict[str, Any]) -> None:
        """Take a new point."""
        self.point = point
        if point["attempt"] != self._attempt or self._began is None:
            self._attempt, self._began = point["attempt"], point["time"] - point["seconds"]
            self._began_at_step = point["step"] - point["samples"] / self._config.global_batch_size
        self.accuracy = point.get("test_accuracy", self.accuracy)
        left = self._config.total_steps - point["step"]
        done = point["step"] - self._began_at_step
        self.seconds_left = (point["time"] - self._began) / done * left if done > 0 else None

    def sentence(self, point: dict[str, Any]) -> str:
        """A point as one line."""
        parts = [
            f"epoch {point['epoch']}/{self._config.epochs}",
            f"step {point['step']}/{self._config.total_steps}",
            f"loss {number(point['train_loss'], '.4f')}",
        ]
        if "test_accuracy" in point:
            parts += [f"test loss {point['test_loss']:.4f}", f"test accuracy {point['test_accuracy']:.2%}"]
        parts += [f"{number(point['samples_per_second'], ',.0f')} samples/s", plural(point["workers"], "worker")]
        if self.seconds_left:
            parts += [f"ETA {duration(self.seconds_left)}"]
        return "  ".join(parts)


SENTENCES = {
    "checkpoint_damaged": "a damaged checkpoint was put aside: {checkpoint}",
    "checkpoint_unfinished": "{checkpoint} has no manifest, so it is no checkpoint: its save was cut off, or the file "
    "was deleted",
    "forked": "begins with {checkpoint}",
    "storage_back": "the storage is back; what waited for it is saved",
    "worker_failed": "worker {rank} failed: {error}",
    "cluster": "{message}",  # said by the follower of a run on Kubernetes, not by the run
    "warning": "warning: {message}",
}


def event_sentence(event: dict[str, Any]) -> str | None:
    """An event in words, or None where a person need not know."""
    if event["event"] == "training_started":
        workers, threads = plural(event["workers"], "worker"), plural(event["threads"], "thread")
        again = f" (attempt {event['attempt']})" if event["attempt"] > 1 else ""
        again += f" from step {event['step']}" if event["step"] else ""
        return (
            f"training started{again}: {workers} on {event['device']}, {threads} each, "
            f"{event['precision']}: {event['precision_reason']}"
        )
    if event["event"] == "rolled_back":
        first, last = event["left_out"]
        return f"gone back to before the loss became no number; steps {first} to {last} are left out"
    if event["event"] == "storage_away" and "waits_s" in event:  # at the end: there is nothing else to do
        return f"{event['message']} Waiting for it, at most {event['waits_s']:.0f} s."
    if event["event"] == "storage_away":
        return f"no checkpoint can be saved at the moment, training goes on: {event['message']}"
    known = SENTENCES.get(event["event"])
    return known.format_map(event) if known else None


def number(value: float | None, form: str) -> str:
    """A number in a format, or – where there is none yet."""
    return "–" if value is None else format(value, form)


def plural(count: int, noun: str) -> str:
    """1 worker, 2 workers."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def duration(seconds: float | None) -> str:
    """Seconds for people: 7 s, 3:07, 1:02:33."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
