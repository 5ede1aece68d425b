"""A fork: a new run that starts from another run's checkpoint, with other settings."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.config import Config, flatten
from trainer.errors import CheckpointError, ConfigError
from trainer.storage import checkpoints, layout, store
from trainer.storage.checkpoints import Checkpoint
from trainer.storage.record import Record

BEST = "best"
# What a checkpoint's weights, optimizer state and step count depend on; a fork may change everything else.
FIXED = ("model.", "optimizer.name", "global_batch_size", "data.validation_samples")
# Facts in a manifest that are the original's own; the copy has others, or none.
OF_THE_ORIGINAL = ("format", "name", "step", "fence", "attempt", "files")


@dataclass(frozen=True)
class Fork:
    """Where a run starts: a checkpoint of the run at the URI `run`."""

    run: str
    checkpoint: Checkpoint

    @property
    def uri(self) -> str:
        """URI of the checkpoint."""
        return store.join(self.run, layout.CHECKPOINTS, self.checkpoint.name)


def plan(source: Record, config: Config, named: str | None) -> Fork:
    """Return the checkpoint of `source` that a run of this config starts from: the newest intact one, a name, or best.

    Raises:
        ConfigError: its weights do not fit the config, or the run would be over already.
        CheckpointError: there is no such checkpoint, or it is damaged.
        StorageError: the storage is unreachable.
    """
    old = flatten(source.config().model_dump())
    new = flatten(config.model_dump())
    for key in (key for key in new if key.startswith(FIXED) and old[key] != new[key]):
        raise ConfigError(
            f"{key}: {new[key]} differs from {old[key]} in {source.name}, whose checkpoints fit only that",
            "keep it, or start a new run with trainer train",
        )
    checkpoint = _choose(source, named)
    if checkpoint.step >= config.total_steps:
        raise ConfigError(
            f"epochs: {config.epochs} ({config.total_steps} steps) is already reached by checkpoint {checkpoint.name} "
            f"of {source.name}",
            "raise epochs, or name an older checkpoint with --from",
        )
    return Fork(source.place, checkpoint)


def _choose(source: Record, named: str | None) -> Checkpoint:
    committed = checkpoints.list_checkpoints(source.place).committed
    if named == BEST:
        best = checkpoints.best(source.place)
        candidates = [checkpoint for checkpoint in committed if best is not None and checkpoint.step == best.step]
    else:
        candidates = [checkpoint for checkpoint in committed if named in (None, checkpoint.name)]
    damage = ""
    for checkpoint in candidates:
        damage = checkpoints.verify(source.place, checkpoint)
        if damage == checkpoints.INTACT:
            return checkpoint
    if damage:
        raise CheckpointError(
            f"{candidates[0].name} of {source.name} is damaged ({damage})", "name another with --from"
        )
    names = ", ".join(checkpoint.name for checkpoint in committed)
    wanted = f"no checkpoint {named}" if named else "no checkpoint to start from"
    raise CheckpointError(f"{source.name} has {wanted}", f"choose one of {names}" if names else "let it train first")


def copy(fork: Fork, run: str, fence: int) -> bool:
    """Copy a fork's checkpoint into the run at the URI `run`, unless that has one already; whether it did.

    Raises:
        CheckpointError: it was damaged or deleted meanwhile.
        StorageError: the storage is unreachable.
    """
    if checkpoints.list_checkpoints(run).committed:
        return False
    files, manifest = checkpoints.read(fork.run, fork.checkpoint)
    facts = {key: manifest[key] for key in manifest if key not in OF_THE_ORIGINAL}
    checkpoints.commit(run, Checkpoint(fork.checkpoint.step, fence), files, {**facts, "forked_from": fork.uri})
    return True
