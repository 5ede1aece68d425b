"""What a follower writes into a RayJob's annotations: progress for kubectl, and the result at the end.

Pods cannot write them: training code holds no token of the cluster.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from trainer.cluster import rayjob
from trainer.cluster.api import KubeObject
from trainer.cluster.outcome import Outcome
from trainer.config import Config
from trainer.observe.progress import Progress
from trainer.observe.text import duration, number

WRITE_EVERY_S = 5.0


class Annotations:
    """Keeps the annotations of one run up to date; `write` puts them on its RayJob."""

    def __init__(self, write: Callable[[dict[str, str]], None], progress: Progress, config: Config):
        self._write = write
        self._progress = progress
        self._config = config
        self._written_at: float | None = None

    def write_progress(self, job: KubeObject) -> None:
        """Write the progress if it has changed, at most every few seconds."""
        now = time.monotonic()
        too_soon = self._written_at is not None and now - self._written_at < WRITE_EVERY_S
        if self._progress.point is None or too_soon:
            return
        self._written_at = now
        values = progress_annotations(self._progress, self._config)
        existing = rayjob.annotations_of(job)
        if any(existing.get(key) != value for key, value in values.items()):
            self._write(values)

    def write_end(self, job: KubeObject, ended: Outcome) -> None:
        """Write the result and the last progress, unless the RayJob is being deleted."""
        if "deletionTimestamp" not in job["metadata"]:
            self._write(
                {**progress_annotations(self._progress, self._config), rayjob.RESULT: json.dumps(ended.as_result())}
            )


def progress_annotations(progress: Progress, config: Config) -> dict[str, str]:
    """Return the progress as annotations, for ``kubectl get rayjob -o custom-columns``; none before the first point."""
    if progress.point is None:
        return {}
    values = {
        "epoch": f"{progress.point['epoch']}/{config.epochs}",
        "step": f"{progress.point['step']}/{config.total_steps}",
        "loss": number(progress.train_loss, ".4f"),
        "accuracy": number(progress.accuracy, ".2%"),
        "samples-per-second": number(progress.samples_per_second, ".0f"),
        "eta": duration(progress.seconds_left),
    }
    annotations = {f"{rayjob.PREFIX}/{key}": value for key, value in values.items()}
    return {**annotations, rayjob.PROGRESS: json.dumps(progress.numbers())}
