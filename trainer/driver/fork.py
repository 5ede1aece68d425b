"""A new run that begins where another one was: another learning rate, say, from the middle on."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.config import Config, flatten
from trainer.errors import CheckpointError, ConfigError
from trainer.storage import checkpoints, store
from trainer.storage.checkpoints import Checkpoint
from trainer.storage.record import Record

BEST = "best"
# What a checkpoint's weights, optimizer state and step count are of; everything else a fork may change.
FITS = ("model.", "optimizer.name", "global_batch_size", "data.validation_samples")
# In a manifest; the copy has its own, or none.
OF_THE_ORIGINAL = ("format", "name", "step", "fence", "attempt", "files")


@dataclass(frozen=True)
class Fork:
    """Where a run begins: a checkpoint of the run at the URI `run`."""

    run: str
    checkpoint: Checkpoint

    @property
    def uri(self) -> str:
        """Where the checkpoint is."""
        return store.join(self.run, checkpoints.FOLDER, self.checkpoint.name)


def find(source: Record, config: Config, named: str | None) -> Fork:
    """The checkpoint of `source` to begin a run of this config with: the newest intact one, a name, or ``best``.

    Raises:
        ConfigError: its weights do not fit the config, or the run would be over already.
        CheckpointError: there is no such checkpoint, or it is damaged.
        StorageError: the storage does not answer.
    """
    old, new = flatten(source.config().model_dump()), flatten(config.model_dump())
    for key in (key for key in new if key.startswith(FITS) and old[key] != new[key]):
        raise ConfigError(
            f"{key}: {new[key]}, and {source.name} has {old[key]}: its checkpoints fit no other; leave it as it is, or "
            "begin a run of its own without --fork."
        )
    which = _named(source, named)
    if which.step >= config.total_steps:
        raise ConfigError(
            f"epochs: {config.epochs} are {config.total_steps} steps, and {which.name} of {source.name} has done "
            f"{which.step}; give more epochs, or an older checkpoint by --from."
        )
    return Fork(source.place, which)


def _named(source: Record, named: str | None) -> Checkpoint:
    committed = checkpoints.look(source.place).committed
    if named == BEST:
        best = checkpoints.best(source.place)
        chosen = [each for each in committed if best is not None and each.step == best.step]
    else:
        chosen = [each for each in committed if named in (None, each.name)]
    damage = ""
    for each in chosen:
        damage = checkpoints.verdict(source.place, each)
        if damage == checkpoints.INTACT:
            return each
    if damage:
        raise CheckpointError(f"{chosen[0].name} of {source.name} is damaged ({damage}); take another by --from.")
    there = f"it has {', '.join(each.name for each in committed)}" if committed else "it has none"
    raise CheckpointError(f"{source.name} has no checkpoint {named or 'to begin with'}; {there}.")


def begin(fork: Fork, run: str, fence: int) -> bool:
    """Make a fork's checkpoint the first one of the run at the URI `run`, unless that has one; whether it did.

    Raises:
        CheckpointError: it was damaged or deleted meanwhile.
        StorageError: the storage does not answer.
    """
    if checkpoints.look(run).committed:
        return False
    files, manifest = checkpoints.read(fork.run, fork.checkpoint)
    facts = {key: manifest[key] for key in manifest if key not in OF_THE_ORIGINAL}
    copy = Checkpoint(fork.checkpoint.step, fence)
    checkpoints.commit(run, copy, files, {**facts, "forked_from": fork.uri})
    return True
