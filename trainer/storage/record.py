"""The record of a run: the files of its folder, each written by one process, read by anybody.

Where the storage is a bucket, the files are written to a scratch folder, and `mirror.py` keeps the bucket up to date.
`layout.py` has the names of the files, `schema.py` what they hold.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from trainer import resolve
from trainer.config import Config
from trainer.errors import ConfigError, StorageError
from trainer.storage import layout, store
from trainer.storage.parsing import check, from_json
from trainer.storage.schema import AnyEvent, Environment, Evaluation, Event, Node, Point, Result, Usage
from trainer.storage.store_errors import sentences

LINES: dict[str, Any] = {layout.METRICS: Point, layout.EVENTS: AnyEvent, layout.NODES: Node, layout.RESOURCES: Usage}


class Record:
    """The record of one run in a folder, which need not exist yet.

    With `remote`, a URI in an object store, the folder is a scratch copy; `mirrored` is what the store has of it.
    """

    def __init__(self, folder: Path, remote: str | None = None):
        self.folder = folder.absolute()  # Ray's workers run in another folder
        self.remote = remote
        self.mirrored: dict[str, tuple[int, int]] = {}  # modification time and size of each file as it was pushed

    def file(self, name: str) -> Path:
        """Return the path of a file of `layout`.

        Raises:
            StorageError: there is a symbolic link, which may lead anywhere.
        """
        return Path(store.part(str(self.folder), name))

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
        """URI of the final weights; every worker can write there."""
        return store.part(self.place, layout.WEIGHTS)

    @property
    def report(self) -> str:
        """URI of the report."""
        return store.join(self.place, layout.REPORT)

    def exists(self) -> bool:
        """Whether a run of this name was ever started here."""
        return self.file(layout.CONFIG).exists()

    def create(self, config: Config, environment: Environment) -> None:
        """Make the folder and write what the run is.

        Raises:
            StorageError: the folder cannot be written.
        """
        store.write(str(self.file(layout.CONFIG)), config.to_yaml().encode())
        self._write_json(layout.ENVIRONMENT, environment)

    def config(self) -> Config:
        """Return the run's config.

        Raises:
            StorageError: the run does not exist, or its config is damaged.
        """
        if not self.exists():
            raise StorageError(f"{self.place} has no {layout.CONFIG}: it is not a run", "give a run's name or folder")
        try:
            return resolve.read(self.file(layout.CONFIG))
        except ConfigError as error:
            raise StorageError(
                f"{self.file(layout.CONFIG)} is damaged, or from another version of the trainer: {error}"
            ) from None

    def add_point(self, point: Point) -> None:
        """Append one metric point."""
        self._append(layout.METRICS, point)

    def add_event(self, event: Event) -> None:
        """Append one event with the current time."""
        self._append(layout.EVENTS, {"time": round(time.time(), 3), **event})

    def points(self) -> list[Point]:
        """Return every metric point, oldest first."""
        return cast("list[Point]", list(read_lines(self.file(layout.METRICS))))

    def events(self) -> list[Any]:
        """Return every event, oldest first: `schema.Event`, as plain dictionaries."""
        return list(read_lines(self.file(layout.EVENTS)))

    def add_node(self, node: Node) -> None:
        """Append that a node came or is gone."""
        self._append(layout.NODES, node)

    def add_usage(self, usage: Usage) -> None:
        """Append how busy a node is."""
        self._append(layout.RESOURCES, usage)

    def nodes(self) -> list[Node]:
        """Return how the nodes of the run's Ray clusters came and went, oldest first."""
        return cast("list[Node]", list(read_lines(self.file(layout.NODES))))

    def usage(self) -> list[Usage]:
        """Return how busy each node was, oldest first."""
        return cast("list[Usage]", list(read_lines(self.file(layout.RESOURCES))))

    def result(self) -> Result | None:
        """Return how the run ended, or None if it has not ended."""
        return cast("Result | None", self._read_json(layout.RESULT))

    def environment(self) -> Environment:
        """Return the versions, hardware and commit the run was made with."""
        return cast("Environment", self._read_json(layout.ENVIRONMENT) or {})

    def evaluation(self) -> Evaluation | None:
        """Return confusion matrix and worst mistakes of the final weights, or None before they are trained."""
        return cast("Evaluation | None", self._read_json(layout.EVALUATION))

    def write_result(self, result: Result) -> None:
        """Write how the run ended."""
        self._write_json(layout.RESULT, result)

    def write_evaluation(self, evaluation: Evaluation) -> None:
        """Write confusion matrix and worst mistakes."""
        self._write_json(layout.EVALUATION, evaluation, indent=1)

    def restart(self) -> None:
        """Remove how an earlier process ended; points and events stay, except a last line that a kill truncated."""
        for name in (layout.MANIFEST, layout.RESULT, layout.EVALUATION, layout.WEIGHTS):
            self._remove(name)
        for name in layout.GROWING:
            file = self.file(name)
            with sentences(str(file), "written"), suppress(FileNotFoundError):
                os.truncate(file, file.read_bytes().rfind(b"\n") + 1)

    def _remove(self, name: str) -> None:
        store.delete(str(self.file(name)))
        if self.remote:
            store.delete(store.join(self.remote, name))
            self.mirrored.pop(name, None)

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        # one write for one line: a reader, or a kill, finds whole lines and at most one truncated line at the end
        content = json.dumps(line).encode() + b"\n"
        written = 0
        file = self.file(name)
        with sentences(str(file), "written"), file.open("ab", buffering=0) as out:
            before = out.seek(0, os.SEEK_END)
            try:
                while written < len(content):
                    written += out.write(content[written:])
            except OSError:  # a full disk: the next line must not follow half a line
                if out.seek(0, os.SEEK_END) == before + written:
                    out.truncate(before)
                raise

    def _write_json(self, name: str, content: Mapping[str, Any], indent: int = 2) -> None:
        store.write(str(self.file(name)), (json.dumps(content, indent=indent) + "\n").encode())

    def _read_json(self, name: str) -> dict[str, Any] | None:
        file = self.file(name)
        try:
            content = from_json(file.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise StorageError(
                f"{file} is damaged and cannot be read ({error})",
                "run the same `trainer train` again: it rebuilds what it can",
            ) from None
        if not isinstance(content, dict):
            raise StorageError(
                f"{file} is damaged: it holds a {type(content).__name__} instead of an object",
                "run the same `trainer train` again: it rebuilds what it can",
            )
        return content

    def check_lines(self) -> None:
        """Check that each line of the record has the fields that everything relies on which reads it.

        Raises:
            StorageError: one does not; names the file, the line and the field.
        """
        for name, kind in LINES.items():
            number = 0
            try:
                for number, line in enumerate(read_lines(self.file(name)), 1):  # noqa: B007 # for the sentence below
                    check(line, kind)
            except ValueError as error:
                raise StorageError(
                    f"{self.place}: the record is damaged: line {number} of {name}: {error}",
                    "remove that line to continue without it",
                ) from None


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the whole lines of a JSON-lines file; a last line that a kill truncated is left out.

    Raises:
        StorageError: a line is not a JSON object.
    """
    if not file.exists():
        return
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                break
            try:
                content = from_json(line)
            except ValueError:
                content = None
            if not isinstance(content, dict):
                raise StorageError(
                    f"{file}: line {number} is not a JSON object, so the record is damaged there",
                    "remove that line to continue without it",
                )
            yield content
