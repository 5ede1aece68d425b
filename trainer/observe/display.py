"""What a person or a program sees of a run while it trains: a live table, plain lines, or JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from trainer.config import Config
from trainer.observe.progress import Progress
from trainer.observe.text import clean, clock, console, duration, is_terminal, number, plural, say, short
from trainer.storage.schema import Point

PLAIN_LINE_EVERY_S = 5.0
FEWEST_IN_A_BAR = 8  # columns
Event = Mapping[str, Any]  # `schema.Event`, or what a follower of a run on a cluster adds


class Display(Protocol):
    """Somewhere to show a run."""

    def event(self, event: Event) -> None:
        """Show that something happened."""

    def point(self, point: Point) -> None:
        """Show new numbers."""

    def close(self) -> None:
        """The run is over."""


def choose(log_format: str, config: Config) -> Display:
    """Return the display for ``auto``, ``live``, ``plain`` or ``json``: live in a terminal, else plain lines."""
    if log_format == "json":
        return Guarded(JsonDisplay())
    if log_format == "live" or (log_format == "auto" and is_terminal()):
        return Guarded(LiveDisplay(config))
    return Guarded(PlainDisplay(config))


class Guarded:
    """A display that may fail: it then ends itself, never the run.

    A terminal or pipe may be gone, and no text from a worker may be able to stop the run that it belongs to.
    """

    def __init__(self, display: Display):
        self._display: Display | None = display

    @property
    def shows(self) -> Display | None:
        """The display, or None once it has failed."""
        return self._display

    def event(self, event: Event) -> None:
        """Show an event, if the display still works."""
        if self._display is not None:
            try:
                self._display.event(event)
            except Exception as error:  # noqa: BLE001 # whatever it is, the run continues
                self._end(error)

    def point(self, point: Point) -> None:
        """Show a point, if the display still works."""
        if self._display is not None:
            try:
                self._display.point(point)
            except Exception as error:  # noqa: BLE001 # as above
                self._end(error)

    def close(self) -> None:
        """Close the display, if it still works."""
        display = self._display
        self._display = None
        if display is not None:
            with suppress(Exception):
                display.close()

    def _end(self, error: Exception) -> None:
        self.close()
        if not isinstance(error, OSError):  # a terminal or pipe that is gone shows no line either
            with suppress(Exception):
                say(f"The display failed ({type(error).__name__}: {error}); the run continues.", stderr=True)


class JsonDisplay:
    """Every event and point as one line of JSON, for programs."""

    def event(self, event: Event) -> None:
        """Print it."""
        print(json.dumps(event), flush=True)  # noqa: T201 # what this display is for

    def point(self, point: Point) -> None:
        """Print it, marked as metrics."""
        print(json.dumps({"event": "metrics", **point}), flush=True)  # noqa: T201 # what this display is for

    def close(self) -> None:
        """Nothing is open."""


class Lines:
    """Makes lines of a run's events and points: one at each epoch's end, and every few seconds in between.

    The clock is that of the run: old events are shown as they were when they happened.
    """

    def __init__(self, config: Config | None):
        self._progress = Progress(config)
        self._last_at: float | None = None  # seconds since 1970

    def event(self, event: Event) -> str | None:
        """Return what a person needs to know about an event, if anything."""
        sentence = event_sentence(event)
        if sentence is None:
            return None
        at = event.get("time")
        at = float(at) if isinstance(at, int | float) else time.time()
        if event["event"] != "cluster":  # which has the clock of this machine, not of the run
            self._last_at = at
        return f"{clock(at)}  {clean(sentence)}"

    def point(self, point: Point) -> str | None:
        """Return a point as a line if it ends an epoch, or if there was no line for a while."""
        self._progress.add(point)
        if self._last_at is None:
            self._last_at = point["time"]
        if "test_accuracy" in point or point["time"] - self._last_at >= PLAIN_LINE_EVERY_S:
            self._last_at = point["time"]
            return f"{clock(point['time'])}  {clean(self._progress.line())}"
        return None


class PlainDisplay:
    """A line at each epoch's end, and every few seconds in between: for logs."""

    def __init__(self, config: Config):
        self._lines = Lines(config)

    def event(self, event: Event) -> None:
        """Print what a person needs to know about it."""
        self._print(self._lines.event(event))

    def point(self, point: Point) -> None:
        """Print it if it ends an epoch, or if nothing was printed for a while."""
        self._print(self._lines.point(point))

    def close(self) -> None:
        """Nothing is open."""

    @staticmethod
    def _print(line: str | None) -> None:
        if line is not None:
            print(line, flush=True)  # noqa: T201 # what this display is for


class LiveDisplay:
    """A table at the foot of the terminal that changes in place; epochs scroll by above it."""

    def __init__(self, config: Config):
        self._progress = Progress(config)
        self._config = config
        self._console = console()
        self._live = Live(self._table(), console=self._console, refresh_per_second=8, transient=True)
        self._live.start()

    def event(self, event: Event) -> None:
        """Print it above the table."""
        if sentence := event_sentence(event):
            self._console.print(clean(sentence), style="dim")

    def point(self, point: Point) -> None:
        """Update the table; an epoch's end stays above it."""
        self._progress.add(point)
        if "test_accuracy" in point:
            self._console.print(clean(self._progress.line()))
        self._live.update(self._table())

    def close(self) -> None:
        """Remove the table."""
        self._live.stop()

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        point = self._progress.point
        if point is None:
            table.add_row("Starting Ray and its workers …")
            return table
        config = self._config
        # by importance: what has no room is left out, since a line that wraps stays behind
        parts = [
            f"epoch {point['epoch']}/{config.epochs}",
            f"ETA {duration(self._progress.seconds_left)}",
            f"loss {number(self._progress.train_loss, '.4f')}",
            f"acc {number(self._progress.accuracy, '.2%')}",
            f"step {point['step']}/{config.total_steps}",
            f"{short(self._progress.samples_per_second)}/s",
            plural(point["workers"], "worker"),
        ]
        room = self._console.width - 1
        while len(parts) > 1 and sum(len(part) + 2 for part in parts) > room:
            parts.pop()
        bar = min(30, room - sum(len(part) + 2 for part in parts))
        cells: list[Text | ProgressBar] = [Text(clean(part), no_wrap=True, overflow="crop") for part in parts]
        if bar >= FEWEST_IN_A_BAR:
            cells.insert(1, ProgressBar(total=config.total_steps, completed=point["step"], width=bar))
        table.add_row(*cells)
        return table


SENTENCES = {
    "run_started": "starting Ray and its workers",
    "checkpoint_damaged": "quarantined a damaged checkpoint: {checkpoint}",
    "checkpoint_unfinished": "ignored checkpoint {checkpoint}: no MANIFEST.json (its save was interrupted, or the "
    "file was deleted)",
    "forked": "starting from {checkpoint}",
    "storage_back": "the storage is reachable again, and everything that waited for it is saved",
    "report_written": "report written in {seconds:.1f} s",
    "cluster": "{message}",  # from the follower of a run on Kubernetes, not from the run
    "pending": "{message}",
    "warning": "warning: {message}",
}
QUIET = {"report_written"}  # the command line says where the report is


def event_sentence(event: Event) -> str | None:
    """Return an event in words, or None where a person need not know."""
    kind = str(event["event"])
    if kind == "training_started":
        workers, threads = plural(event["workers"], "worker"), plural(event["threads"], "thread")
        again = f" (attempt {event['attempt']})" if event["attempt"] > 1 else ""
        again += f" from step {event['step']}" if event["step"] else ""
        return (
            f"training started{again}: {workers} on {event['device']}, {threads} each, "
            f"{event['precision']}: {event['precision_reason']}"
        )
    if kind == "worker_failed":
        where = f" ({event['host']})" if event.get("host") else ""
        verb = "was lost" if event.get("lost") else "failed"
        return f"worker {event['rank']}{where} {verb}: {event['error']}"
    if kind == "rolled_back":
        first, last = event["left_out"]
        return f"rolled back: the loss was not finite; skipping steps {first} to {last}"
    if kind == "storage_away" and "waits_s" in event:  # at the end: there is nothing else to do
        return f"{event['message']} Waiting for it for at most {event['waits_s']:.0f} s."
    if kind == "storage_away":
        return f"checkpoints are paused, training continues: {event['message']}"
    sentence = None if kind in QUIET else SENTENCES.get(kind)
    return sentence.format_map(event) if sentence else None
