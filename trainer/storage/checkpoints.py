"""What a checkpoint holds, and how one is committed, found, verified and pruned.

A checkpoint is ``<run>/checkpoints/step-<step>-<fence>/``: its files, and last of all ``MANIFEST.json`` with the size
and sha256 of each and of itself. No manifest, no checkpoint. One that does not verify is marked and never taken again.

The manifest also says whose it is: the ``fence`` of the writer's lease, and ``attempt``, the number that the record
gives the group of workers that saved it. Manifests that are older have none, nor has the copy that a fork begins with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trainer.errors import CheckpointError
from trainer.storage import manifest, store
from trainer.storage.manifest import MANIFEST

FOLDER = "checkpoints"
QUARANTINED = "QUARANTINED.json"
FORMAT = 1
BEST = "best.json"
INTACT = "intact"
NAME = re.compile(r"step-(\d{8})-(\d{4})(?:-(\d+))?")
WEIGHTS = "model.safetensors"  # of the run itself, beside the folder: its final weights, for whoever wants them


@dataclass(frozen=True, order=True)
class Checkpoint:
    """After `step` steps, by the writer with this `fence`; `again` counts those that replace a damaged one."""

    step: int
    fence: int
    again: int = 0

    @property
    def name(self) -> str:
        """Its folder."""
        return f"step-{self.step:08}-{self.fence:04}" + (f"-{self.again}" if self.again else "")


@dataclass(frozen=True)
class Found:
    """What is in a run's checkpoint folder."""

    committed: list[Checkpoint]  # newest first
    quarantined: list[Checkpoint]
    unfinished: list[Checkpoint]


def look(run: str) -> Found:
    """Which checkpoints the run at the URI `run` has, by their names alone.

    Raises:
        StorageError: they cannot be listed.
    """
    held: dict[Checkpoint, set[str]] = {}
    for path in store.files(store.join(run, FOLDER)):
        folder, _, file = path.partition("/")
        if match := NAME.fullmatch(folder):
            held.setdefault(Checkpoint(int(match[1]), int(match[2]), int(match[3] or 0)), set()).add(file)
    newest_first = sorted(held, reverse=True)
    return Found(
        [each for each in newest_first if MANIFEST in held[each] and QUARANTINED not in held[each]],
        [each for each in newest_first if QUARANTINED in held[each]],
        [each for each in newest_first if not held[each] & {MANIFEST, QUARANTINED}],
    )


def next_at(run: str, step: int, fence: int) -> Checkpoint | None:
    """What a checkpoint at this step is to be called, or None if there is one already: training does not differ.

    Raises:
        StorageError: the storage does not answer.
    """
    found = look(run)
    same = [each for each in [*found.committed, *found.quarantined] if (each.step, each.fence) == (step, fence)]
    if any(each in found.committed for each in same):
        return None
    return Checkpoint(step, fence, len(same))


def commit(run: str, checkpoint: Checkpoint, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> None:
    """Write a checkpoint's files, and its manifest when all are there. `facts` go into the manifest as they are.

    Raises:
        StorageError: the storage does not take it; older checkpoints are as they were.
        CheckpointError: there is one of this name already.
    """
    place = store.join(run, FOLDER, checkpoint.name)
    for name, content in files.items():
        store.write(store.join(place, name), content)
    sealed = manifest.seal(
        {
            "format": FORMAT,
            **facts,
            "name": checkpoint.name,
            "step": checkpoint.step,
            "fence": checkpoint.fence,
            "files": {name: manifest.facts(content) for name, content in files.items()},
        }
    )
    if not store.create(store.join(place, MANIFEST), sealed):
        raise CheckpointError(
            f"{place} was committed before, and not by this save; another process writes to this run."
        )


def read(run: str, checkpoint: Checkpoint) -> tuple[dict[str, bytes], dict[str, Any]]:
    """A checkpoint's files and its manifest, every byte verified.

    Raises:
        StorageError: the storage does not answer, which says nothing of the checkpoint.
        CheckpointError: it is damaged; says how.
    """
    place = store.join(run, FOLDER, checkpoint.name)
    said = _manifest(run, checkpoint)
    files = {}
    for name, expected in said["files"].items():
        content = store.read(store.join(place, name))
        damage = manifest.damage(content, expected)
        if content is None or damage is not None:
            raise CheckpointError(f"{name} {damage}")
        files[name] = content
    return files, said


def _manifest(run: str, checkpoint: Checkpoint) -> dict[str, Any]:
    content = store.read(store.join(run, FOLDER, checkpoint.name, MANIFEST))
    if content is None:
        raise CheckpointError(f"{MANIFEST} is missing")
    try:
        said = manifest.unseal(content)
    except ValueError as damage:
        raise CheckpointError(f"{MANIFEST} {damage}") from None
    if said["name"] != checkpoint.name:
        raise CheckpointError(f"{MANIFEST} is that of {said['name']}")
    if said["format"] != FORMAT:
        raise CheckpointError(f"{MANIFEST} has format {said['format']}; this trainer reads {FORMAT}")
    return {"attempt": None, **said}


def newest_valid(
    run: str,
    quarantined: Callable[[Checkpoint, str], None],
    passed_over: Callable[[Checkpoint], None] = lambda _: None,
) -> tuple[Checkpoint, dict[str, bytes], dict[str, Any]] | None:
    """The newest checkpoint that verifies, or None where there never was one; damaged ones are marked on the way.

    `passed_over` hears of those that are newer and have no manifest: a save was cut off, or it was deleted.

    Raises:
        StorageError: the storage does not answer.
        CheckpointError: there are checkpoints and none of them is valid: starting again would hide that.
    """
    found = look(run)
    valid = None
    for checkpoint in found.committed:
        try:
            valid = checkpoint, *read(run, checkpoint)
            break
        except CheckpointError as damage:  # each one may be damaged in its own way
            mark(run, checkpoint, str(damage))
            quarantined(checkpoint, str(damage))
    for checkpoint in found.unfinished:
        if valid is None or checkpoint > valid[0]:
            passed_over(checkpoint)
    if valid is not None:
        return valid
    lost = sorted([*found.committed, *found.quarantined], reverse=True)
    if lost:
        raise CheckpointError(
            f"{store.join(run, FOLDER)}: none of the {len(lost)} checkpoints is intact ({lost[0].name} and older), "
            "so the run cannot continue; restore one, or begin again under another name."
        )
    if store.read(store.join(run, FOLDER, BEST)) is not None:  # it is written after the first one is committed
        raise CheckpointError(
            f"{store.join(run, FOLDER)}: there were checkpoints, as {BEST} shows, and none has its {MANIFEST}, so "
            "the run cannot continue; restore one, or begin again under another name."
        )
    return None


def verdict(run: str, checkpoint: Checkpoint) -> str:
    """INTACT, or what is wrong with a checkpoint; it stays as it is.

    Raises:
        StorageError: the storage does not answer.
    """
    try:
        read(run, checkpoint)
    except CheckpointError as damage:
        return str(damage)
    return INTACT


def attempt(run: str, checkpoint: Checkpoint) -> int | None:
    """The attempt that saved a checkpoint, from its manifest alone; None if that does not say it, or is damaged.

    Raises:
        StorageError: the storage does not answer.
    """
    try:
        number: int | None = _manifest(run, checkpoint)["attempt"]
    except CheckpointError:
        return None
    return number


def mark(run: str, checkpoint: Checkpoint, damage: str) -> None:
    """Put a damaged checkpoint aside: it stays, for whoever wants to know, and is never loaded."""
    content = json.dumps({"damage": damage}).encode()
    store.write(store.join(run, FOLDER, checkpoint.name, QUARANTINED), content)


def prune(run: str, keep: int, besides: Iterable[int] = ()) -> list[Checkpoint]:
    """Delete all but the newest `keep` committed checkpoints and those after the steps `besides`; which went.

    What interrupted saves left behind goes too, if it is older than the newest commit. Damaged ones stay.

    Raises:
        StorageError: the storage does not answer.
    """
    found = look(run)
    if not found.committed:
        return []
    kept = set(besides)
    gone = [each for each in found.committed[max(1, keep) :] if each.step not in kept]
    left = [each for each in found.unfinished if each < found.committed[0]]
    for checkpoint in [*gone, *left]:
        remove(run, checkpoint)
    return gone


def remove(run: str, checkpoint: Checkpoint) -> None:
    """Delete a checkpoint: the manifest first, so that it is whole or no checkpoint at any moment."""
    place = store.join(run, FOLDER, checkpoint.name)
    store.delete(store.join(place, MANIFEST))
    for name in store.files(place):
        store.delete(store.join(place, name))
    store.remove_folder(place)


@dataclass(frozen=True)
class Best:
    """The checkpoint of a run with the highest test accuracy, 0..1, so far."""

    step: int
    test_accuracy: float


def best(run: str) -> Best | None:
    """Which checkpoint of a run is kept because it is the best, or None if none was tested yet.

    Raises:
        StorageError: the storage does not answer.
    """
    try:
        return Best(**manifest.unseal(store.read(store.join(run, FOLDER, BEST)) or b""))
    except ValueError:  # none, or damaged: the next epoch's is as good as any
        return None


def note_best(run: str, new: Best) -> None:
    """Put down which checkpoint is the best."""
    store.write(store.join(run, FOLDER, BEST), manifest.seal(asdict(new)))
