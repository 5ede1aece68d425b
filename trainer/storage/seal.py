"""The manifest of a finished run: written last of all, it says whether the run's files are still what the run left.

A run without one has not finished.
"""

from __future__ import annotations

from trainer.errors import StorageError
from trainer.storage import layout, manifest, store
from trainer.storage.parsing import check
from trainer.storage.record import Record
from trainer.storage.schema import FileFacts, Manifest, Result

FORMAT = 1
SEALED = (layout.CONFIG, layout.ENVIRONMENT, layout.EVALUATION, layout.RESULT, *layout.GROWING)
# What the same command rebuilds from the last checkpoint. The rest is written once, and nothing else holds it.
REBUILT = {layout.MANIFEST, layout.WEIGHTS, layout.RESULT, layout.EVALUATION}


def write(record: Record) -> None:
    """Write the manifest of a finished run. For the weights it uses what the worker reported that wrote them.

    Raises:
        StorageError: the run's files cannot be read, or the manifest cannot be written.
    """
    contents = {name: store.read(str(record.file(name))) for name in SEALED}
    files = {name: manifest.facts(content) for name, content in contents.items() if content is not None}
    (*_, finished) = (event for event in record.events() if event["event"] == "training_finished")
    files[layout.WEIGHTS] = finished["weights"]
    store.write(str(record.file(layout.MANIFEST)), manifest.seal({"format": FORMAT, "files": files}))


def verify(record: Record) -> dict[str, str]:
    """Return the damage of each damaged file of a finished run, by name; empty if none is, or it has not finished.

    Raises:
        StorageError: the storage cannot be read.
    """
    content = store.read(str(record.file(layout.MANIFEST)))
    if content is None:
        return {layout.MANIFEST: "is missing"} if _says_it_finished(record) else {}
    try:
        expected = check(manifest.unseal(content), Manifest)["files"]
    except ValueError as damage:
        return {layout.MANIFEST: str(damage)}
    damages = {name: _damage(record, name, facts) for name, facts in expected.items()}
    return {name: damage for name, damage in damages.items() if damage is not None}


def finished_result(record: Record) -> tuple[Result | None, tuple[str, ...]]:
    """Return the result of a finished run, and a sentence for each file of it that is damaged.

    The result is None if the run is to be started: also if it finished, and has to rebuild what is damaged.

    Raises:
        StorageError: the storage cannot be read.
    """
    damages = verify(record)
    try:
        result = record.result()
        if result is not None and result.get("status") == "finished":
            check(result, Result)  # it is printed
    except (StorageError, ValueError):
        result = None
        damages = damages or {layout.RESULT: "is truncated or damaged"}
    sentences = tuple(
        f"{store.join(record.place, name)} {damage}; "
        + ("it will be rebuilt from the last checkpoint." if name in REBUILT else "it cannot be rebuilt.")
        for name, damage in damages.items()
    )
    if result is None or result.get("status") != "finished" or damages.keys() & REBUILT:
        return None, sentences
    return result, sentences


def _damage(record: Record, name: str, expected: FileFacts) -> str | None:
    if name not in (*SEALED, layout.WEIGHTS):
        return "is not a file of a run"
    content = store.read(record.weights if name == layout.WEIGHTS else str(record.file(name)))
    if content is not None and name in layout.GROWING:  # only what was sealed is compared
        content = content[: expected["size"]]
    return manifest.damage(content, expected)


def _says_it_finished(record: Record) -> bool:
    try:
        result = record.result()
    except StorageError:
        return False
    return result is not None and result.get("status") == "finished"
