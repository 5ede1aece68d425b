"""What Prometheus sees of a run: each metric declared once, and the exporter that keeps them up to date.

The driver exports them, through the metrics endpoint of Ray on its node: it lives until the report is written, while
the controller, which makes the numbers, is gone as soon as training ends (docs/decisions/0004).
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer import __version__, resolve
from trainer.config import Config
from trainer.errors import ConfigError
from trainer.observe import cost, goodput
from trainer.observe.display import Event
from trainer.observe.progress import Progress
from trainer.storage.record import Record
from trainer.storage.schema import Point

LABELS = ("run",)
# Seconds that the last values stay to be scraped after they were set: Prometheus' interval and a little more.
LAST_SCRAPE = "TRAINER_LAST_SCRAPE_S"
REPEAT_EVERY_S = 1.0  # Ray drops a gauge that was not set again within two of its report intervals (1 s or more)
INFO = ("recipe", "config", "image", "device", "precision", "version")


@dataclass(frozen=True)
class Metric:
    """A gauge with the labels LABELS and `labels`: its name as Ray gets it, and the key of the value that it shows.

    With `labels`, that key holds a mapping of their values to numbers: one series for each.
    """

    name: str
    key: str
    unit: str
    help: str
    labels: tuple[str, ...] = ()

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
    Metric("trainer_eta_seconds", "seconds_left", "s", "Expected time until the last step, by this attempt's speed."),
    Metric("trainer_start_timestamp_seconds", "began_at", "s", "When the run began, over all attempts (since 1970)."),
    Metric("trainer_workers", "workers", "1", "Training workers."),
    Metric("trainer_workers_wanted", "workers_wanted", "1", "The most workers that the run asks for."),
    Metric("trainer_attempt", "attempt", "1", "How many times workers were started for this run."),
    Metric("trainer_worker_failures", "worker_failures", "1", "Workers lost or failed so far, over all attempts."),
    Metric("trainer_preemptions", "preemptions", "1", "Attempts that ended because a node was taken away."),
    Metric("trainer_rollbacks", "rollbacks", "1", "Times that the run rolled back from a loss that was not finite."),
    Metric("trainer_checkpoint_step", "checkpoint_step", "1", "Step of the newest checkpoint."),
    Metric("trainer_checkpoint_timestamp_seconds", "checkpoint_at", "s", "When that was committed (since 1970)."),
    Metric("trainer_storage_away", "storage_away", "bool", "1 while no checkpoint can be saved, else 0."),
    Metric("trainer_goodput_ratio", "goodput", "ratio", "Share of the time since the run began that was productive."),
    Metric("trainer_time_seconds", "time_parts", "s", "Time since the run began, by its use.", ("part",)),
    Metric(
        "trainer_paid_worker_seconds", "paid_worker_seconds", "s", "Worker-seconds, whether they trained or waited."
    ),
    Metric("trainer_productive_worker_seconds", "productive_worker_seconds", "s", "Those in which training counted."),
    Metric("trainer_price_per_hour", "price_per_hour", "1/h", "Price of the run's pods now.", ("currency",)),
    Metric("trainer_cost", "cost", "1", "What the run's pods cost so far.", ("currency",)),
    Metric("trainer_productive_cost", "productive_cost", "1", "Of it, of training that counts.", ("currency",)),
    Metric("trainer_budget", "budget", "1", "What the run may cost.", ("currency",)),
    Metric("trainer_info", "info", "1", "Always 1: what the run is, as labels.", INFO),
)
MOST_SERIES = len(METRICS) - 1 + len(goodput.PARTS)  # of one run


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

    `image` is the container image that the run is made with, if it is known.

    Raises:
        ConfigError: LAST_SCRAPE, or prices or budget, are not as the chart writes them.
    """

    def __init__(self, record: Record, config: Config, image: str = ""):
        self._record = record
        self._prices = cost.prices()
        self._budget = cost.budget()
        self._labels = {"run": record.name}
        self._config = config
        self._image = image
        self._progress = Progress(config)
        self._events = record.events()  # goodput covers all attempts
        self._points = record.points()
        self._gauges: dict[str, Any] = {}
        self._values: dict[tuple[Metric, tuple[str, ...]], float] = {}
        self._set_at: float | None = None
        self._stay_s = last_scrape_seconds()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="export-metrics", daemon=True)

    def event(self, event: Event) -> None:
        """Export a run as soon as it has workers."""
        self._events.append(event)
        if event["event"] == "training_started":
            self._set({key: event[key] for key in ("workers", "workers_wanted", "attempt")})
            self._set({"info": {self._info(event): 1.0}})
        if self._values:
            self._set(self._totals())

    def point(self, point: Point) -> None:
        """Export a point; values that it does not have stay as they were."""
        self._points.append(point)
        self._progress.add(point)
        progress = point["step"] / self._config.total_steps
        self._set({**point, "progress": progress, "seconds_left": self._progress.seconds_left, **self._totals()})

    def _totals(self) -> dict[str, Any]:
        """What is counted or added up over all attempts."""
        until = max(float(line["time"]) for line in [*self._events[-1:], *self._points[-1:]])
        parts = goodput.account(self._events, self._points, until)
        used = goodput.worker_seconds(self._events, self._points, until)
        kinds = [event["event"] for event in self._events]
        happened = Counter(kinds)
        storage = [kind for kind in kinds if kind in ("storage_away", "storage_back", "training_started")]
        return {
            "began_at": goodput.began_at(self._events),
            "worker_failures": happened["worker_failed"],
            "preemptions": happened["preempted"],
            "rollbacks": happened["rolled_back"],
            "storage_away": storage[-1:] == ["storage_away"],
            "goodput": parts["goodput"],
            "time_parts": {(part,): parts[part] for part in goodput.PARTS},
            "paid_worker_seconds": used["all"],
            "productive_worker_seconds": used["productive"],
            **self._money(until),
        }

    def _money(self, until: float) -> dict[str, Any]:
        if self._prices is None:
            return {}
        spent = cost.account(self._record.nodes(), self._events, self._points, self._prices, until)
        if spent is None:
            return {}
        amounts = {
            "price_per_hour": spent["per_hour"],
            "cost": spent["total"],
            "productive_cost": spent["productive"],
            "budget": self._budget.amount if self._budget else None,
        }
        return {key: {(spent["currency"],): amount} for key, amount in amounts.items()}

    def _info(self, started: Event) -> tuple[str, ...]:
        recipe, config = resolve.closest_recipe(self._config), self._config.sha256[:12]
        return recipe, config, self._image, str(started["device"]), str(started["precision"]), __version__

    def close(self) -> None:
        """There will be no more points; the last values stay."""

    def wait_for_last_scrape(self) -> None:
        """Return once the last values have been exported for LAST_SCRAPE seconds; by default at once."""
        if self._set_at is not None:
            self._over.wait(max(0.0, self._set_at + self._stay_s - time.monotonic()))
        self._stop()

    def _set(self, values: Mapping[str, Any]) -> None:
        for metric in METRICS:
            value = values.get(metric.key)
            for labels, number in (value if metric.labels and value else {(): value}).items():
                if number is not None:
                    self._values[metric, labels] = float(number)
                    self._show(metric, labels)
        self._set_at = time.monotonic()
        if not self._thread.ident:
            atexit.register(self._stop)  # before Ray leaves the cluster, which it registered earlier
            self._thread.start()

    def _repeat(self) -> None:
        while not self._over.wait(REPEAT_EVERY_S):
            for metric, labels in list(self._values):
                self._show(metric, labels)

    def _stop(self) -> None:
        self._over.set()
        if self._thread.ident:
            self._thread.join()

    def _show(self, metric: Metric, labels: tuple[str, ...]) -> None:
        from ray.util.metrics import Gauge  # in a driver that has Ray anyway; the docs are made without

        if metric.name not in self._gauges:
            self._gauges[metric.name] = Gauge(metric.name, metric.help, (*LABELS, *metric.labels))
        tags = self._labels | dict(zip(metric.labels, labels, strict=True))
        self._gauges[metric.name].set(self._values[metric, labels], tags=tags)
