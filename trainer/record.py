"""What a run leaves behind: the files of ``<storage>/<name>/``, written by one process each, read by anybody.

``config.yaml``       the resolved config                     ``model.safetensors``  the final weights
``environment.json``  versions, hardware, git commit          ``evaluation.json``    confusion matrix, worst mistakes
``metrics.jsonl``     every metric point                      ``report.html``        the page made from all this
``events.jsonl``      what happened, with times               ``plots/*.png``        its pictures
``result.json``       how it ended: the numbers that matter
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer import resolve
from trainer.config import Config
from trainer.errors import ConfigError, StorageError


class Record:
    """The record of one run in a folder, which need not exist yet."""

    def __init__(self, folder: Path):
        self.folder = folder.absolute()  # Ray's workers run in another folder
        self.config_file = self.folder / "config.yaml"
        self.environment_file = self.folder / "environment.json"
        self.metrics_file = self.folder / "metrics.jsonl"
        self.events_file = self.folder / "events.jsonl"
        self.evaluation_file = self.folder / "evaluation.json"
        self.result_file = self.folder / "result.json"
        self.weights_file = self.folder / "model.safetensors"
        self.report_file = self.folder / "report.html"
        self.plots_folder = self.folder / "plots"

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.name

    def exists(self) -> bool:
        """Whether a run of this name was ever started here."""
        return self.config_file.exists()

    def create(self, config: Config, environment: dict[str, Any]) -> None:
        """Make the folder and put down what the run is.

        Raises:
            StorageError: the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write(self.config_file, config.to_yaml())
            self._write(self.environment_file, json.dumps(environment, indent=2) + "\n")
        except OSError as error:
            raise StorageError(
                f"storage: {self.folder} cannot be written ({error.strerror}); give another folder by --storage."
            ) from None

    def config(self) -> Config:
        """The run's config.

        Raises:
            StorageError: there is no such run, or its config is damaged.
        """
        if not self.exists():
            raise StorageError(f"{self.folder} holds no run: it has no config.yaml; give a run's name or folder.")
        try:
            return resolve.read(self.config_file)
        except ConfigError as error:
            raise StorageError(f"{self.config_file} is damaged or of another version of the trainer: {error}") from None

    def add_point(self, point: dict[str, Any]) -> None:
        """Append one metric point."""
        self._append(self.metrics_file, point)

    def add_event(self, event: str, **details: Any) -> None:
        """Append one event, with the time it is now (seconds since 1970)."""
        self._append(self.events_file, {"time": round(time.time(), 3), "event": event, **details})

    def points(self) -> list[dict[str, Any]]:
        """Every metric point, oldest first."""
        return list(read_lines(self.metrics_file))

    def events(self) -> list[dict[str, Any]]:
        """Every event, oldest first."""
        return list(read_lines(self.events_file))

    def result(self) -> dict[str, Any] | None:
        """How the run ended, or None if it has not."""
        return self._read(self.result_file)

    def environment(self) -> dict[str, Any]:
        """Versions, hardware and commit the run was made with."""
        return self._read(self.environment_file) or {}

    def evaluation(self) -> dict[str, Any] | None:
        """Confusion matrix and worst mistakes of the final weights, or None if the run did not get there."""
        return self._read(self.evaluation_file)

    def write_result(self, result: dict[str, Any]) -> None:
        """Put down how the run ended."""
        self._write(self.result_file, json.dumps(result, indent=2) + "\n")

    def write_evaluation(self, evaluation: dict[str, Any]) -> None:
        """Put down confusion matrix and worst mistakes."""
        self._write(self.evaluation_file, json.dumps(evaluation, indent=1) + "\n")

    def _append(self, file: Path, line: dict[str, Any]) -> None:
        # one write of one line: a reader, or a kill, finds whole lines and at most one cut one at the end
        with file.open("a") as out:
            out.write(json.dumps(line) + "\n")

    def _write(self, file: Path, text: str) -> None:
        partial = file.with_name(f".{file.name}.{os.getpid()}")
        partial.write_text(text)
        partial.replace(file)

    def _read(self, file: Path) -> dict[str, Any] | None:
        try:
            content: dict[str, Any] = json.loads(file.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise StorageError(f"{file} cannot be read ({error}); the record is damaged there.") from None
        return content


def find(target: str, storage: Path) -> Record:
    """The record of a run given by its name in `storage`, or by its folder.

    Raises:
        StorageError: there is no such run.
    """
    for folder in (storage / target, Path(target)):
        if Record(folder).exists():
            return Record(folder)
    known = sorted(path.parent.name for path in storage.glob("*/config.yaml"))
    there = f"there are {', '.join(known[-8:])}" if known else "there are no runs"
    raise StorageError(f"{target} is neither a run in {storage} nor a run's folder; {there}.")


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a JSON-lines file; a line cut by a kill is left out."""
    if not file.exists():
        return
    with file.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                break
            try:
                yield json.loads(line)
            except ValueError:
                raise StorageError(f"{file} holds a line that is not JSON; the record is damaged there.") from None
