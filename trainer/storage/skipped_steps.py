"""The steps that a run skips after its loss became non-finite: once in a run, it rolls back and leaves them out.

The order of the samples is fixed, so a run that only rolled back would meet the same batches with the same weights. It
resumes from its newest checkpoint without the steps between that and the loss (as was done by hand for PaLM,
https://arxiv.org/abs/2204.02311, section 5.1). If that does not help, the settings are at fault and the run stops.
"""

from __future__ import annotations

from typing_extensions import TypedDict

from trainer.errors import CheckpointError
from trainer.storage import checkpoints, layout, manifest, store
from trainer.storage.parsing import check

FILE = "left-out.json"


class SkippedSteps(TypedDict):
    """What that file holds: the steps from `after` to before `up_to`, counted from 0."""

    after: int
    up_to: int


def write(run: str, step: int) -> bool:
    """Write that the steps after the newest checkpoint up to `step` are skipped; False if the run did that before.

    False too if there is no checkpoint: the settings never worked.

    Raises:
        StorageError: the storage is unreachable.
    """
    saved = [checkpoint.step for checkpoint in checkpoints.list_checkpoints(run).committed if checkpoint.step < step]
    return bool(saved) and store.create(_file(run), manifest.seal({"after": max(saved), "up_to": step}))


def read(run: str) -> range:
    """Return the skipped steps, counted from 0; empty if there are none.

    Raises:
        StorageError: the storage is unreachable.
        CheckpointError: the file that names them is damaged.
    """
    content = store.read(_file(run))
    if content is None:
        return range(0)
    try:
        steps = check(manifest.unseal(content), SkippedSteps)
    except ValueError as damage:
        raise CheckpointError(
            f"{_file(run)} {damage}, so the steps that the run skips are unknown", "start again under another name"
        ) from None
    return range(steps["after"], steps["up_to"])


def _file(run: str) -> str:
    return store.part(run, layout.CHECKPOINTS, FILE)
