"""A run's progress: loss, speed, accuracy and ETA, from its points; and the progress line that says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from trainer.config import Config
from trainer.observe.text import duration, number, plural
from trainer.storage.schema import Point


class Numbers(TypedDict):
    """A run's progress as plain numbers; what is not known is None."""

    epoch: int
    epochs: int | None
    step: int
    steps: int | None
    train_loss: float | None
    test_accuracy: float | None
    samples_per_second: float | None
    seconds_left: float | None
    time: float  # seconds since 1970, when they were reported


@dataclass
class _Sum:
    """Samples, their summed loss, and the seconds they took."""

    samples: int = 0
    loss: float = 0.0
    seconds: float = 0.0

    def add(self, point: Point) -> None:
        if point["train_loss"] is not None:
            self.samples += point["samples"]
            self.loss += point["train_loss"] * point["samples"]
            self.seconds += point["seconds"]


class Progress:
    """What is known of a run's speed and accuracy so far; without its config not how much is left."""

    def __init__(self, config: Config | None):
        self._config = config
        self._attempt = 0
        self._attempt_began: float | None = None  # seconds since 1970
        self._attempt_began_at_step = 0.0
        self._epoch = _Sum()
        self._epoch_number = 0
        self.point: Point | None = None  # the last one
        self.accuracy: float | None = None
        self.seconds_left: float | None = None

    def add(self, point: Point) -> None:
        """Take a new point."""
        self.point = point
        if point["attempt"] != self._attempt or self._attempt_began is None:
            self._attempt = point["attempt"]
            self._attempt_began = point["time"] - point["seconds"]
            batch = self._config.global_batch_size if self._config else 1
            self._attempt_began_at_step = point["step"] - point["samples"] / batch
            self._epoch_number = 0
        if point["epoch"] != self._epoch_number:
            self._epoch_number = point["epoch"]
            self._epoch = _Sum()
        self._epoch.add(point)
        self.accuracy = point.get("test_accuracy", self.accuracy)
        steps_done = point["step"] - self._attempt_began_at_step
        seconds = point["time"] - self._attempt_began
        if self._config is not None and steps_done > 0:
            self.seconds_left = seconds / steps_done * (self._config.total_steps - point["step"])
        else:
            self.seconds_left = None

    @property
    def train_loss(self) -> float | None:
        """Mean loss since the last report; at an epoch's end of the epoch; None if nothing was trained."""
        if self.point is None or self.point["train_loss"] is None or "test_accuracy" in self.point:
            return self._epoch.loss / self._epoch.samples if self._epoch.samples else None
        return self.point["train_loss"]

    @property
    def samples_per_second(self) -> float | None:
        """Speed since the last report; at an epoch's end of the epoch; None if nothing was trained."""
        if self.point is None or self.point["train_loss"] is None or "test_accuracy" in self.point:
            return self._epoch.samples / self._epoch.seconds if self._epoch.seconds else None
        return self.point["samples_per_second"]

    def numbers(self) -> Numbers | None:
        """Return what is known by the last point, or None before the first."""
        if self.point is None:
            return None
        return {
            "epoch": self.point["epoch"],
            "epochs": self._config.epochs if self._config else None,
            "step": self.point["step"],
            "steps": self._config.total_steps if self._config else None,
            "train_loss": self.train_loss,
            "test_accuracy": self.accuracy,
            "samples_per_second": self.samples_per_second,
            "seconds_left": self.seconds_left,
            "time": self.point["time"],
        }

    def line(self) -> str:
        """Return the last point as one line; what is not known is left out."""
        point = self.point
        if point is None:
            return ""
        parts = [f"epoch {point['epoch']}", f"step {point['step']}"]
        if self._config is not None:
            parts = [f"{parts[0]}/{self._config.epochs}", f"{parts[1]}/{self._config.total_steps}"]
        if self.train_loss is not None:
            parts.append(f"loss {self.train_loss:.4f}")
        if "test_accuracy" in point:
            parts.append(f"test loss {point['test_loss']:.4f}")
            parts.append(f"test accuracy {point['test_accuracy']:.2%}")
        if self.samples_per_second is not None:
            parts.append(f"{number(self.samples_per_second, ',.0f')} samples/s")
        parts.append(plural(point["workers"], "worker"))
        if self.seconds_left:
            parts.append(f"ETA {duration(self.seconds_left)}")
        return "  ".join(parts)
