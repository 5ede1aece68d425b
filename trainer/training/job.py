"""What the driver hands to every worker of a run."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config import Config
from trainer.errors import ConfigError
from trainer.training.data import Batch

STEP_HOOK = "TRAINER_STEP_HOOK"

StepHook = Callable[[Batch], Batch]


@dataclass(frozen=True)
class Job:
    """One run, as its workers see it.

    `data_folder` is where to look for the data set, or None for the usual places. `run` is the run's URI, `fence` the
    number of its lease and `attempt` the number of this group of workers: checkpoints carry both. With `preemptible`,
    Ray announces nodes that are about to be taken away.

    `on_step` is called on every rank with each batch before its step and returns the batch to train on. It is the seam
    for fault injection and for probes: the environment variable ``TRAINER_STEP_HOOK=module:function`` names it.
    """

    config: Config
    data_folder: Path | None
    run: str
    fence: int
    attempt: int
    preemptible: bool
    on_step: StepHook

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Job:
        """Return the job in Ray Train's mapping, with its config validated and its step hook imported.

        Raises:
            ConfigError: the step hook cannot be imported.
        """
        return cls(
            config=Config.model_validate(settings["config"]),
            data_folder=settings["data_folder"],
            run=settings["run"],
            fence=settings["fence"],
            attempt=settings["attempt"],
            preemptible=settings["preemptible"],
            on_step=import_hook(os.environ.get(STEP_HOOK, "")),
        )


def import_hook(name: str) -> StepHook:
    """Return the function that ``module:function`` names; for an empty name, one that changes nothing.

    Raises:
        ConfigError: there is no such module, or no such function in it.
    """
    if not name:
        return lambda batch: batch
    module, _, function = name.partition(":")
    try:
        hook: StepHook = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:  # ValueError: the module's name is empty
        raise ConfigError(
            f"{STEP_HOOK}: {name} cannot be imported ({error})",
            "set it to module:function, with the module on PYTHONPATH on every node, or unset it",
        ) from error
    return hook
