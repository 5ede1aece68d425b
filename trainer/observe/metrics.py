"""What Prometheus sees of a run: each metric declared once, and the exporter that keeps them up to date.

The driver exports them, through the metrics endpoint of Ray on its node: it lives until the report is written, while
the controller, which makes the numbers, is gone as soon as training ends (docs/decisions/0004).
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from dataclasses import dataclass
from typing import Any

from trainer.config import Config
from trainer.errors import ConfigError
from trainer.observe import goodput
from trainer.observe.display import Event
from trainer.storage.record import Record
from trainer.storage.schema import Point

LABELS = ("run",)
# Seconds that the last values stay to be scraped after they were set: Prometheus' interval and a little more.
LAST_SCRAPE = "TRAINER_LAST_SCRAPE_S"
REPEAT_EVERY_S = 1.0  # Ray drops a gauge that was not set again within two of its report intervals (1 s or more)


@dataclass(frozen=True)
class Metric:
    """A gauge with the labels LABELS: its name as Ray gets it, and the key of a metric point that it shows.

    With `split`, one more label, that key holds a mapping: one series for each of its keys.
    """

    name: str
    key: str
    unit: str
    help: str
    split: str | None = None

    @property
    def exported(self) -> str:
        """Its name in Prometheus, with the prefix that Ray adds."""
        return f"ray_{self.name}"


METRICS = (
    Metric("trainer_train_loss", "train_loss", "nats", "Mean cross entropy of the samples since the last report."),
    Metric("trainer_test_loss", "test_loss", "nats", "Mean cross entropy of the test set, after the last whole epoch."),
    Metric("trainer_test_accuracy", "test_accuracy", "ratio", "Share of the test set that is classified correctly."),
    Metric("trainer_samples_per_second", "samples_per_second", "1/s", "Training samples per second, over all workers."),
    Metric("trainer_learning_rate", "learning_rate", "1", "Learning rate of the last step."),
    Metric("trainer_step", "step", "1", "Optimizer steps so far."),
    Metric("trainer_epoch", "epoch", "1", "The current epoch, from 1."),
    Metric("trainer_progress_ratio", "progress", "ratio", "Share of the run's steps that are done; 1 at the end."),
    Metric("trainer_workers", "workers", "1", "Training workers."),
    Metric("trainer_attempt", "attempt", "1", "How many times workers were started for this run."),
    Metric("trainer_goodput_ratio", "goodput", "ratio", "Share of the time since the run began that was productive."),
    Metric("trainer_time_seconds", "time_parts", "s", "Time since the run began, by its use.", split="part"),
)


def last_scrape_seconds() -> float:
    """Return the value of LAST_SCRAPE in the environment, by default 0.

    Raises:
        ConfigError: it is not a number of seconds.
    """
    given = os.environ.get(LAST_SCRAPE, "0")
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ConfigError(f"{LAST_SCRAPE}: {given!r} must be a number of seconds ≥ 0", "set it to 20, for example")
    return seconds


class Exporter:
    """A display for Prometheus: exports each new event and point of the run of `record`. Ray must be connected by then.

    Raises:
        ConfigError: LAST_SCRAPE is not a number of seconds.
    """

    def __init__(self, record: Record, config: Config):
        self._labels = {"run": record.name}
        self._total_steps = config.total_steps
        self._events = record.events()  # goodput covers all attempts
        self._points = record.points()
        self._gauges: dict[str, Any] = {}
        self._values: dict[tuple[Metric, str], float] = {}
        self._set_at: float | None = None
        self._stay_s = last_scrape_seconds()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="export-metrics", daemon=True)

    def event(self, event: Event) -> None:
        """Export a run as soon as it has workers."""
        self._events.append(event)
        if event["event"] == "training_started":
            self._set({key: event[key] for key in ("workers", "attempt")})
        if self._points:
            self._set(self._goodput())

    def point(self, point: Point) -> None:
        """Export a point; values that it does not have stay as they were."""
        self._points.append(point)
        self._set({**point, "progress": point["step"] / self._total_steps, **self._goodput()})

    def _goodput(self) -> dict[str, Any]:
        until = max(float(line["time"]) for line in [*self._events[-1:], *self._points[-1:]])
        parts = goodput.account(self._events, self._points, until)
        return {"goodput": parts["goodput"], "time_parts": {part: parts[part] for part in goodput.PARTS}}

    def close(self) -> None:
        """There will be no more points; the last values stay."""

    def wait_for_last_scrape(self) -> None:
        """Return once the last values have been exported for LAST_SCRAPE seconds; by default at once."""
        if self._set_at is not None:
            self._over.wait(max(0.0, self._set_at + self._stay_s - time.monotonic()))
        self._stop()

    def _set(self, values: dict[str, Any]) -> None:
        for metric in METRICS:
            value = values.get(metric.key)
            for part, number in (value if metric.split and value else {"": value}).items():
                if number is not None:
                    self._values[metric, part] = float(number)
                    self._show(metric, part)
        self._set_at = time.monotonic()
        if not self._thread.ident:
            atexit.register(self._stop)  # before Ray leaves the cluster, which it registered earlier
            self._thread.start()

    def _repeat(self) -> None:
        while not self._over.wait(REPEAT_EVERY_S):
            for metric, part in list(self._values):
                self._show(metric, part)

    def _stop(self) -> None:
        self._over.set()
        if self._thread.ident:
            self._thread.join()

    def _show(self, metric: Metric, part: str) -> None:
        from ray.util.metrics import Gauge  # in a driver that has Ray anyway; the docs are made without

        more = {metric.split: part} if metric.split else {}
        if metric.name not in self._gauges:
            self._gauges[metric.name] = Gauge(metric.name, metric.help, (*LABELS, *more))
        self._gauges[metric.name].set(self._values[metric, part], tags=self._labels | more)
