"""A run that has finished: its result, and whether its files are still what it left.

``MANIFEST.json`` of a run is written last of all, and says what its files are; a run without one has not finished.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer.errors import StorageError
from trainer.storage import manifest, store
from trainer.storage.checkpoints import WEIGHTS
from trainer.storage.manifest import MANIFEST
from trainer.storage.record import Record

FORMAT = 1


def put_down(record: Record) -> None:
    """Write the manifest of a run that has finished. Of its weights it says what the worker has told that wrote them.

    Raises:
        StorageError: its files cannot be read, or the manifest cannot be written.
    """
    contents = {name: store.read(uri) for name, uri in _files(record).items() if name != WEIGHTS}
    files = {name: manifest.facts(content) for name, content in contents.items() if content is not None}
    (*_, ended) = (event for event in record.events() if event["event"] == "training_finished")
    files[WEIGHTS] = ended["weights"]
    store.write(str(record.manifest_file), manifest.seal({"format": FORMAT, "files": files}))


def damage(record: Record) -> dict[str, str]:
    """What is wrong with which file of a finished run: nothing if each is as it was, or if the run has not finished.

    Raises:
        StorageError: the storage cannot be read.
    """
    content = store.read(str(record.manifest_file))
    if content is None:
        return {MANIFEST: "is missing"} if _says_it_finished(record) else {}
    try:
        expected = manifest.unseal(content)["files"]
    except ValueError as damaged:
        return {MANIFEST: str(damaged)}
    found = {name: _damage_of(record, name, facts) for name, facts in expected.items()}
    return {name: what for name, what in found.items() if what is not None}


def result(record: Record) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """The result of a run that has finished, and in sentences what of its files is damaged.

    The result is None if the run is to be started: also where it had finished and is to make anew what was damaged.

    Raises:
        StorageError: the storage cannot be read.
    """
    damaged = damage(record)
    try:
        known = record.result()
    except StorageError:
        known, damaged = None, damaged or {record.result_file.name: "is cut or damaged"}
    anew = {MANIFEST, WEIGHTS, record.result_file.name, record.evaluation_file.name}
    sentences = tuple(
        f"{store.join(record.place, name)} {what}; "
        + ("it is made anew from the last checkpoint." if name in anew else "nothing else holds what it did.")
        for name, what in damaged.items()
    )
    finished = known is not None and known.get("status") == "finished" and not damaged.keys() & anew
    return (known if finished else None), sentences


def _files(record: Record) -> dict[str, str]:
    """The URIs, by name, of what only the run itself can make: not of the page and its pictures."""
    whole = (record.config_file, record.environment_file, record.evaluation_file, record.result_file)
    return {WEIGHTS: record.weights, **{file.name: str(file) for file in (*whole, *_growing(record))}}


def _growing(record: Record) -> tuple[Path, ...]:
    return record.metrics_file, record.events_file


def _damage_of(record: Record, name: str, expected: dict[str, Any]) -> str | None:
    content = store.read(_files(record)[name])
    if content is not None and name in {file.name for file in _growing(record)}:
        content = content[: expected["size"]]
    return manifest.damage(content, expected)


def _says_it_finished(record: Record) -> bool:
    try:
        return (record.result() or {}).get("status") == "finished"
    except StorageError:
        return False
