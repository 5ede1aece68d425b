"""What a checkpoint holds, and how one is committed, found, verified and pruned.

A checkpoint is ``<run>/checkpoints/step-<step>-<fence>/``: its files, and last of all ``MANIFEST.json`` with the size
and sha256 of each and of itself. No manifest, no checkpoint. One that does not verify is quarantined and never loaded.

The manifest also names its writer: the ``fence`` of the writer's lease, and ``attempt``, the number that the record
gives the group of workers that saved it. Older manifests have no attempt, nor has the copy that a fork starts from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

from typing_extensions import TypedDict

from trainer.errors import CheckpointError
from trainer.storage import manifest, store
from trainer.storage.layout import CHECKPOINTS as FOLDER
from trainer.storage.layout import MANIFEST
from trainer.storage.parsing import check
from trainer.storage.schema import FileFacts

QUARANTINED = "QUARANTINED.json"
FORMAT = 1
FILES = ("model.safetensors", "optimizer.safetensors", "rng.safetensors")  # every checkpoint has these, and no other
BEST = "best.json"
INTACT = "intact"
NAME = re.compile(r"step-([0-9]{8,15})-([0-9]{4,12})(?:-([0-9]{1,9}))?")


class Needed(TypedDict):
    """What is read of a checkpoint's manifest, of whatever version of the trainer it is; `schema` has all of it."""

    format: int
    name: str
    step: int
    attempt: int | None
    files: dict[str, FileFacts]


@dataclass(frozen=True, order=True)
class Checkpoint:
    """The state after `step` steps, saved under the lease `fence`; `again` counts those that replace a damaged one."""

    step: int
    fence: int
    again: int = 0

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"step-{self.step:08}-{self.fence:04}" + (f"-{self.again}" if self.again else "")


@dataclass(frozen=True)
class CheckpointList:
    """The checkpoints in a run's folder, each list newest first."""

    committed: list[Checkpoint]
    quarantined: list[Checkpoint]
    unfinished: list[Checkpoint]


def list_checkpoints(run: str) -> CheckpointList:
    """Return the checkpoints of the run at the URI `run`, by their names alone.

    Raises:
        StorageError: they cannot be listed.
    """
    held: dict[Checkpoint, set[str]] = {}
    for path in store.files(store.part(run, FOLDER)):
        folder, _, file = path.partition("/")
        if match := NAME.fullmatch(folder):
            checkpoint = Checkpoint(int(match[1]), int(match[2]), int(match[3] or 0))
            if checkpoint.name == folder:  # else step-00000008-0001-01 would be taken for step-00000008-0001-1
                held.setdefault(checkpoint, set()).add(file)
    newest_first = sorted(held, reverse=True)
    return CheckpointList(
        [
            checkpoint
            for checkpoint in newest_first
            if MANIFEST in held[checkpoint] and QUARANTINED not in held[checkpoint]
        ],
        [checkpoint for checkpoint in newest_first if QUARANTINED in held[checkpoint]],
        [checkpoint for checkpoint in newest_first if not held[checkpoint] & {MANIFEST, QUARANTINED}],
    )


def next_at(run: str, step: int, fence: int) -> Checkpoint | None:
    """Return the checkpoint to write at this step, or None if there is one: training it again gives the same.

    Raises:
        StorageError: the storage is unreachable.
    """
    listed = list_checkpoints(run)
    same = [
        checkpoint
        for checkpoint in [*listed.committed, *listed.quarantined]
        if (checkpoint.step, checkpoint.fence) == (step, fence)
    ]
    if any(checkpoint in listed.committed for checkpoint in same):
        return None
    return Checkpoint(step, fence, len(same))


def commit(run: str, checkpoint: Checkpoint, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> None:
    """Write a checkpoint's files, and its manifest when all are written. `facts` go into the manifest as they are.

    Raises:
        StorageError: the storage refuses it; older checkpoints are untouched.
        CheckpointError: there is one of this name already.
    """
    place = store.part(run, FOLDER, checkpoint.name)
    for name, content in files.items():
        store.write(store.part(place, name), content)
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
    if not store.create(store.part(place, MANIFEST), sealed):
        raise CheckpointError(
            f"{place} was committed already, by another process that writes to this run", "stop one of the two"
        )


def read(run: str, checkpoint: Checkpoint) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return a checkpoint's files and its manifest, every byte verified.

    Raises:
        StorageError: the storage is unreachable, which says nothing about the checkpoint.
        CheckpointError: it is damaged; its problem says how.
    """
    place = store.part(run, FOLDER, checkpoint.name)
    facts = _manifest(run, checkpoint)
    files = {}
    for name, expected in facts["files"].items():
        content = store.read(store.part(place, name))
        damage = manifest.damage(content, expected)
        if content is None or damage is not None:
            raise CheckpointError(f"{name} {damage}")
        files[name] = content
    return files, facts


def _manifest(run: str, checkpoint: Checkpoint) -> dict[str, Any]:
    content = store.read(store.part(run, FOLDER, checkpoint.name, MANIFEST))
    if content is None:
        raise CheckpointError(f"{MANIFEST} is missing")
    try:
        facts = check({"attempt": None, **manifest.unseal(content)}, Needed)
    except ValueError as damage:
        raise CheckpointError(f"{MANIFEST} {damage}") from None
    if unknown := sorted(set(facts["files"]) - set(FILES)):  # it could be a path that leads anywhere
        raise CheckpointError(f"{MANIFEST} names {unknown[0]!r}, which is not a file of a checkpoint")
    if missing := sorted(set(FILES) - set(facts["files"])):
        raise CheckpointError(f"{MANIFEST} does not name {missing[0]}")
    if facts["name"] != checkpoint.name:
        raise CheckpointError(f"{MANIFEST} belongs to {facts['name']}")
    if facts["format"] != FORMAT:
        raise CheckpointError(f"{MANIFEST} has format {facts['format']}; this trainer reads {FORMAT}")
    return cast("dict[str, Any]", facts)


def newest_valid(
    run: str,
    quarantined: Callable[[Checkpoint, str], None],
    passed_over: Callable[[Checkpoint], None] = lambda _: None,
) -> tuple[Checkpoint, dict[str, bytes], dict[str, Any]] | None:
    """Return the newest checkpoint that verifies, or None if there never was one; damaged ones are quarantined.

    `passed_over` is called with newer ones without a manifest: a save was interrupted, or the file was deleted.

    Raises:
        StorageError: the storage is unreachable.
        CheckpointError: there are checkpoints and none of them is valid: starting over would hide that.
    """
    listed = list_checkpoints(run)
    valid = None
    for checkpoint in listed.committed:
        try:
            valid = checkpoint, *read(run, checkpoint)
            break
        except CheckpointError as damage:  # each one may be damaged in its own way
            quarantine(run, checkpoint, damage.problem)
            quarantined(checkpoint, damage.problem)
    for checkpoint in listed.unfinished:
        if valid is None or checkpoint > valid[0]:
            passed_over(checkpoint)
    if valid is not None:
        return valid
    lost = sorted([*listed.committed, *listed.quarantined], reverse=True)
    if lost:
        raise CheckpointError(
            f"{store.join(run, FOLDER)}: none of the {len(lost)} checkpoints is intact ({lost[0].name} and older), "
            "so the run cannot resume",
            "restore one, or start again under another name",
        )
    if store.read(store.part(run, FOLDER, BEST)) is not None:  # it is written after the first one is committed
        raise CheckpointError(
            f"{store.join(run, FOLDER)}: there were checkpoints, as {BEST} shows, and none has its {MANIFEST}, so "
            "the run cannot resume",
            "restore one, or start again under another name",
        )
    return None


def verify(run: str, checkpoint: Checkpoint) -> str:
    """Return INTACT, or the damage of a checkpoint, which is left as it is.

    Raises:
        StorageError: the storage is unreachable.
    """
    try:
        read(run, checkpoint)
    except CheckpointError as damage:
        return damage.problem
    return INTACT


def attempt_of(run: str, checkpoint: Checkpoint) -> int | None:
    """Return the attempt that saved a checkpoint, from its manifest alone; None if that is damaged or does not say it.

    Raises:
        StorageError: the storage is unreachable.
    """
    try:
        number: int | None = _manifest(run, checkpoint)["attempt"]
    except CheckpointError:
        return None
    return number


def quarantine(run: str, checkpoint: Checkpoint, damage: str) -> None:
    """Quarantine a damaged checkpoint: its files stay for inspection, and it is never loaded."""
    content = json.dumps({"damage": damage}).encode()
    store.write(store.part(run, FOLDER, checkpoint.name, QUARANTINED), content)


def prune(run: str, keep: int, besides: Iterable[int] = ()) -> list[Checkpoint]:
    """Delete all but the newest `keep` committed checkpoints and those at the steps `besides`; return the deleted ones.

    What interrupted saves left behind is deleted too if it is older than the newest commit. Damaged ones stay.

    Raises:
        StorageError: the storage is unreachable.
    """
    listed = list_checkpoints(run)
    if not listed.committed:
        return []
    kept = set(besides)
    gone = [checkpoint for checkpoint in listed.committed[max(1, keep) :] if checkpoint.step not in kept]
    left = [checkpoint for checkpoint in listed.unfinished if checkpoint < listed.committed[0]]
    for checkpoint in [*gone, *left]:
        remove(run, checkpoint)
    return gone


def remove(run: str, checkpoint: Checkpoint) -> None:
    """Delete a checkpoint, its manifest first: at any moment it is either whole or no checkpoint."""
    place = store.part(run, FOLDER, checkpoint.name)
    store.delete(store.part(place, MANIFEST))
    for name in store.files(place):
        store.delete(store.part(place, name))
    store.remove_folder(place)


@dataclass(frozen=True)
class Best:
    """The checkpoint of a run with the highest test accuracy, 0..1, so far."""

    step: int
    test_accuracy: float


class BestFacts(TypedDict):
    """`Best` in its file."""

    step: int
    test_accuracy: float


def best(run: str) -> Best | None:
    """Return the checkpoint of a run that is kept as the best one, or None if none was scored yet.

    Raises:
        StorageError: the storage is unreachable.
    """
    try:
        found = check(manifest.unseal(store.read(store.part(run, FOLDER, BEST)) or b""), BestFacts)
        return Best(found["step"], found["test_accuracy"])
    except ValueError:  # none, or damaged: the next epoch writes another
        return None


def write_best(run: str, new: Best) -> None:
    """Write which checkpoint is the best."""
    store.write(store.part(run, FOLDER, BEST), manifest.seal(asdict(new)))


@dataclass(frozen=True)
class Row:
    """One checkpoint as `trainer checkpoints` lists it; `best_accuracy` only of the best one."""

    checkpoint: Checkpoint
    attempt: int | None
    state: str
    damaged: bool
    best_accuracy: float | None


def described(run: str, read_all: bool) -> list[Row]:
    """Return every checkpoint of a run, newest first; with `read_all`, after reading every byte of the committed ones.

    Raises:
        StorageError: the storage is unreachable.
    """
    listed = list_checkpoints(run)
    states = dict.fromkeys(listed.committed, "committed")
    states |= dict.fromkeys(listed.quarantined, "damaged, quarantined")
    states |= dict.fromkeys(listed.unfinished, "unfinished")
    if read_all:
        states |= {checkpoint: verify(run, checkpoint) for checkpoint in listed.committed}
    top = best(run)
    return [
        Row(
            checkpoint,
            attempt_of(run, checkpoint),
            states[checkpoint],
            read_all and checkpoint in listed.committed and states[checkpoint] != INTACT,
            top.test_accuracy if top is not None and checkpoint.step == top.step else None,
        )
        for checkpoint in sorted(states, reverse=True)
    ]


def prune_safely(run: str, keep: int) -> list[Checkpoint]:
    """Prune, but keep the best checkpoint and the newest intact one: those that are newer may be damaged.

    Raises:
        StorageError: the storage is unreachable.
    """
    committed = list_checkpoints(run).committed
    top = best(run)
    kept = {checkpoint.step for checkpoint in committed if top is not None and checkpoint.step == top.step}
    for checkpoint in committed:
        if verify(run, checkpoint) == INTACT:
            kept.add(checkpoint.step)
            break
    return prune(run, keep, kept)
