"""The way out of a loss that is no number: once in a run, go back and leave out the batches that led there.

The order of the samples is fixed, so a run that only went back would meet the same batches with the same weights. It
continues from its newest checkpoint without the steps between that and the loss (as was done by hand for PaLM,
https://arxiv.org/abs/2204.02311, section 5.1). If that does not help, the settings are at fault and the run stops.
"""

from __future__ import annotations

from trainer.errors import CheckpointError
from trainer.storage import checkpoints, manifest, store

FILE = "left-out.json"


def begin(run: str, step: int) -> bool:
    """Put down that the steps after the newest checkpoint up to `step` are left out; False if that was done before.

    False too where there is no checkpoint: the settings never worked.

    Raises:
        StorageError: the storage does not answer.
    """
    saved = [each.step for each in checkpoints.look(run).committed if each.step < step]
    return bool(saved) and store.create(_file(run), manifest.seal({"after": max(saved), "up_to": step}))


def left_out(run: str) -> range:
    """The steps that are left out, counted from 0; empty if there are none.

    Raises:
        StorageError: the storage does not answer.
        CheckpointError: what was put down is damaged.
    """
    content = store.read(_file(run))
    if content is None:
        return range(0)
    try:
        found = manifest.unseal(content)
    except ValueError as damage:
        raise CheckpointError(
            f"{_file(run)} {damage}, so it is not known which steps the run leaves out; begin again under another name."
        ) from None
    return range(found["after"], found["up_to"])


def _file(run: str) -> str:
    return store.join(run, checkpoints.FOLDER, FILE)
