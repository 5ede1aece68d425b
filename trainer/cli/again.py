"""The commands that a hint gives, for pasting: every one of them is made here.

A pasted command must reach the same run, whatever the current folder's, shell's and kubeconfig's settings are by then:
so it has all that names the run's place, and each word is quoted for a shell.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.cli.shown import place
from trainer.cluster.api import IN_A_POD
from trainer.errors import ExitCode, TrainerError

if TYPE_CHECKING:
    from trainer.cluster.client import Run, Stopped

DEFAULT_STORAGE = "runs"


def command(*words: str, **options: str | Path | int | Sequence[str] | None) -> str:
    """Return a command line of the trainer: words, then options by name. A list repeats its option; None is none."""
    line = [*_program(), *words]
    for name, value in options.items():
        values = [value] if isinstance(value, (str, Path, bool, int)) else value or []
        for each in values:
            option = f"--{name.replace('_', '-')}"
            line += [option] if each is True else [option, str(each)]
    return shlex.join(line)


def storage_option(runs: str) -> str | None:
    """Return what a hint gives as ``--storage``: nothing where it is the default of any shell."""
    return None if runs == DEFAULT_STORAGE else runs


def on_cluster(run: Run | Stopped, *words: str, **options: str | Path | int | Sequence[str] | None) -> str:
    """Return a command line for a run on a cluster, with its context and namespace."""
    context = None if run.context == IN_A_POD else run.context
    return command(*words, **options, context=context, namespace=run.namespace)


def hint(error: TrainerError, line: str) -> str:
    """Return the command that continues what an error ended, and whether that needs something first."""
    resumes = error.retry or error.exit_code is ExitCode.INTERRUPTED
    return f"To continue it: {line}" if resumes else f"The same again, once that is corrected: {line}"


def settings(
    file: Path | None,
    overrides: list[str] | None,
    workers: str | None,
    gpu: bool | None,
    cpus_per_worker: int | None,
) -> dict[str, Any]:
    """Return the options of `command` that repeat the settings as they were given."""
    of_gpu = {} if gpu is None else {"gpu" if gpu else "cpu": True}
    return {"config": file, "set": overrides, "workers": workers, "cpus_per_worker": cpus_per_worker, **of_gpu}


def _program() -> list[str]:
    """Return how this process was called, so that a hint works where `trainer` is not on the PATH."""
    called = Path(sys.argv[0])
    if called.parts[-2:] == ("trainer", "__main__.py"):
        return [place(sys.executable), "-m", "trainer"]
    found = shutil.which("trainer")
    if os.sep not in sys.argv[0] or called.name != "trainer" or (found and Path(found).resolve() == called.resolve()):
        return ["trainer"]
    return [place(str(called))]
