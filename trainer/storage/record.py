"""What a run leaves behind: the files of ``<storage>/<name>/``, written by one process each, read by anybody.

Where the storage is a bucket the files are written to a scratch folder, and the driver keeps the bucket up to date.

``config.yaml``       the resolved config                     ``model.safetensors``  the final weights
``environment.json``  versions, hardware, git commit          ``evaluation.json``    confusion matrix, worst mistakes
``metrics.jsonl``     every metric point                      ``report.html``        the page made from all this
``events.jsonl``      what happened, with times               ``plots/*.png``        its pictures
``result.json``       how it ended: the numbers that matter
``MANIFEST.json``     of a finished run, written last: size and sha256 of each of these but the page and its pictures
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainer import resolve
from trainer.config import Config
from trainer.errors import ConfigError, StorageError
from trainer.storage import checkpoints, lease, store
from trainer.storage.checkpoints import WEIGHTS
from trainer.storage.manifest import MANIFEST
from trainer.storage.store_errors import sentences

CONFIG = "config.yaml"
NOT_OF_THE_RECORD = (checkpoints.FOLDER, lease.FOLDER)  # beside it in the run's folder


class Record:
    """The record of one run in a folder, which need not exist yet.

    With `remote`, a URI in an object store, the folder is scratch: `pull` and `push` keep the two alike.
    """

    def __init__(self, folder: Path, remote: str | None = None):
        self.folder = folder.absolute()  # Ray's workers run in another folder
        self.remote = remote
        self._pushed: dict[str, tuple[int, int]] = {}
        self.config_file = self.folder / CONFIG
        self.environment_file = self.folder / "environment.json"
        self.metrics_file = self.folder / "metrics.jsonl"
        self.events_file = self.folder / "events.jsonl"
        self.evaluation_file = self.folder / "evaluation.json"
        self.result_file = self.folder / "result.json"
        self.manifest_file = self.folder / MANIFEST
        self.report_file = self.folder / "report.html"
        self.plots_folder = self.folder / "plots"

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.name

    @property
    def place(self) -> str:
        """Where people find the record: its folder, or its URI in an object store."""
        return self.remote or str(self.folder)

    @property
    def weights(self) -> str:
        """Where the final weights are: any worker can write there."""
        return store.join(self.place, WEIGHTS)

    @property
    def report(self) -> str:
        """Where people find the report."""
        return store.join(self.place, self.report_file.name)

    def exists(self) -> bool:
        """Whether a run of this name was ever started here."""
        return self.config_file.exists()

    def create(self, config: Config, environment: dict[str, Any]) -> None:
        """Make the folder and put down what the run is.

        Raises:
            StorageError: the folder cannot be written.
        """
        self._write(self.config_file, config.to_yaml())
        self._write(self.environment_file, json.dumps(environment, indent=2) + "\n")

    def config(self) -> Config:
        """The run's config.

        Raises:
            StorageError: there is no such run, or its config is damaged.
        """
        if not self.exists():
            raise StorageError(f"{self.place} holds no run: it has no {CONFIG}; give a run's name or folder.")
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

    def begin_again(self) -> None:
        """Forget how an earlier attempt ended; its points and events stay, but for a last line that a kill has cut."""
        self._remove(self.manifest_file, self.result_file, self.evaluation_file, self.folder / WEIGHTS)
        for file in (self.metrics_file, self.events_file):
            with sentences(str(file), "written"), suppress(FileNotFoundError):
                os.truncate(file, file.read_bytes().rfind(b"\n") + 1)

    def _remove(self, *files: Path) -> None:
        for file in files:
            store.delete(str(file))
            if self.remote:
                store.delete(store.join(self.remote, file.name))
                self._pushed.pop(file.name, None)

    def pull(self) -> None:
        """Bring the scratch folder up to the object store's state, but for the weights; nothing to do in a folder."""
        for name in store.files(self.remote) if self.remote else ():
            wanted = name != WEIGHTS and name.partition("/")[0] not in NOT_OF_THE_RECORD
            content = store.read(store.join(self.remote or "", name)) if wanted else None
            if content is not None:
                store.write(str(self.folder / name), content)
                self._pushed[name] = _state(self.folder / name)

    def push(self) -> None:
        """Put what changed since the last time into the object store; nothing to do in a folder.

        Raises:
            StorageError: the store does not take it; the scratch folder still holds all.
        """
        for file in self._files() if self.remote else ():
            name = file.relative_to(self.folder).as_posix()
            with suppress(FileNotFoundError):  # replaced or removed meanwhile: the next push sees it
                state = _state(file)
                if self._pushed.get(name) != state:
                    store.write(store.join(self.remote or "", name), file.read_bytes())
                    self._pushed[name] = state

    def _files(self) -> list[Path]:
        # Ray's own folder and files being written begin with a dot
        own = [entry for entry in self.folder.iterdir() if not entry.name.startswith(".")]
        files = (file for entry in own for file in (entry.iterdir() if entry.is_dir() else [entry]))
        return sorted(files, key=lambda file: (file == self.manifest_file, file))  # the manifest when all is there

    def keep(self) -> Path:
        """The scratch folder, which from now on stays when the process ends."""
        _scratch.discard(self.folder.parent)
        return self.folder

    def _append(self, file: Path, line: dict[str, Any]) -> None:
        # one write of one line: a reader, or a kill, finds whole lines and at most one cut one at the end
        content, done = json.dumps(line).encode() + b"\n", 0
        with sentences(str(file), "written"), file.open("ab", buffering=0) as out:
            before = out.seek(0, os.SEEK_END)
            try:
                while done < len(content):
                    done += out.write(content[done:])
            except OSError:  # no room: the next line would stand behind half a one
                if out.seek(0, os.SEEK_END) == before + done:
                    out.truncate(before)
                raise

    def _write(self, file: Path, text: str) -> None:
        store.write(str(file), text.encode())

    def _read(self, file: Path) -> dict[str, Any] | None:
        try:
            content: dict[str, Any] = json.loads(file.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise StorageError(
                f"{file} cannot be read ({error}): the record is damaged there. The same `trainer train` makes "
                "anew what it can."
            ) from None
        return content


def _state(file: Path) -> tuple[int, int]:
    return file.stat().st_mtime_ns, file.stat().st_size


_scratch: set[Path] = set()


def discard_scratch() -> None:
    """Remove the scratch folders of this process; done by itself where the process ends in the usual way."""
    for folder in _scratch:
        shutil.rmtree(folder, ignore_errors=True)


atexit.register(discard_scratch)


def at(place: str) -> Record:
    """The record at a place, the normalised URI or folder of a run; one in an object store is brought here.

    Raises:
        StorageError: the object store cannot be read.
    """
    if not store.is_remote(place):
        return Record(Path(place))
    scratch = Path(tempfile.mkdtemp(prefix="trainer-"))
    _scratch.add(scratch)
    record = Record(scratch / place.rsplit("/", 1)[-1], place)
    record.pull()
    return record


def find(target: str, runs: str) -> Record:
    """The record of a run given by its name in the storage `runs`, or by its own folder or URI.

    Raises:
        StorageError: there is no such run.
    """
    own = store.normalise(target) if "/" in target or not store.is_remote(runs) else None
    named = store.join(runs, target.rstrip("/")) if "://" not in target else None
    for place in (named, own):
        if place and store.read(store.join(place, CONFIG)) is not None:
            return at(place)
    known = [name for name in store.folders(runs) if store.read(store.join(runs, name, CONFIG)) is not None]
    there = f"there are {', '.join(known[-8:])}" if known else "there are no runs"
    raise StorageError(f"{target} is neither a run in {runs} nor a run's folder; {there}.")


def without_redone(points: list[dict[str, Any]], events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points that count: those of steps that a later attempt did again, having begun before them, are left out."""
    began_at = {event["attempt"]: event.get("step", 0) for event in events if event["event"] == "training_started"}
    kept: list[dict[str, Any]] = []
    for point in points:
        if kept and point["attempt"] != kept[-1]["attempt"]:
            kept = [each for each in kept if each["step"] <= began_at.get(point["attempt"], 0)]
        tested = "test_accuracy" in point and kept and "test_accuracy" in kept[-1]
        if tested and point["step"] == kept[-1]["step"]:
            continue  # an epoch that had been trained to its end was only evaluated again
        kept.append(point)
    return kept


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a JSON-lines file; a line cut by a kill is left out."""
    if not file.exists():
        return
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                break
            try:
                yield json.loads(line)
            except ValueError:
                raise StorageError(
                    f"{file}: line {number} is not JSON, so the record is damaged there; remove that line to go on "
                    "without it."
                ) from None
