"""Every way a run can end, as an exit code, and the errors that lead there.

An error that a user can cause is a ``TrainerError``. It carries facts: the problem, the fix, the exit code, and whether
trying again can help. The sentence for people is made of them where it is printed, and the driver's last JSON line has
the same facts. No code decides by the words of a sentence, so that words can be improved. Anything else that is raised
is a bug and exits with ``INTERNAL``.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TypedDict


class ExitCode(IntEnum):
    """What the process returns; ``EXIT_CODE_MEANING`` has its line in ``docs/configuration.md``."""

    OK = 0
    INTERNAL = 1
    CONFIG = 2
    DATA = 3
    STORAGE = 4
    CONFLICT = 5
    TRAINING = 6
    RESOURCES = 7
    CHECKPOINT = 8
    DIVERGED = 9
    CLUSTER = 10
    BUDGET = 11
    INTERRUPTED = 130


EXIT_CODE_MEANING: dict[ExitCode, str] = {
    ExitCode.OK: "the command succeeded",
    ExitCode.INTERNAL: "a bug in the trainer: the message says where the traceback is",
    ExitCode.CONFIG: "the command line, a config file or a `--set` is wrong: nothing was started",
    ExitCode.DATA: "Fashion-MNIST was not found, or its files are wrong or truncated",
    ExitCode.STORAGE: "the storage cannot be read or written, or neither it nor the cluster has that run",
    ExitCode.CONFLICT: "the run's name belongs to a run with another config, or that run is still running",
    ExitCode.TRAINING: "the training failed: a worker raised an error or died, and retrying did not help",
    ExitCode.RESOURCES: "not enough CPUs, GPUs or memory on this machine or cluster",
    ExitCode.CHECKPOINT: "the run has checkpoints and none of them is intact, or another process writes them",
    ExitCode.DIVERGED: "the loss or the weights became non-finite, also after rolling back once: check the settings",
    ExitCode.CLUSTER: "the Kubernetes cluster is unreachable, refuses, or lacks what runs need: KubeRay, chart, image",
    ExitCode.BUDGET: "the run has cost what it may: `budget` in the values of helm/training; its record is kept",
    ExitCode.INTERRUPTED: "stopped by Ctrl-C, SIGTERM, `trainer stop` or a deadline; the record so far is kept",
}


class ErrorFacts(TypedDict):
    """An error in JSON: in ``result.json``, and in the driver's last line with ``--log-format json``."""

    exit_code: int
    error: str  # the whole sentence, for people
    problem: str
    fix: str  # empty if there is nothing to do about it
    retry: bool  # whether the same command could succeed later, or on another cluster


class TrainerError(Exception):
    """An error a user can cause or cure.

    `problem` names the field or object and its value, `fix` says what to do; neither ends with a full stop. `retry` is
    whether the same command could succeed later or elsewhere. Each has a default by class.
    """

    exit_code: ExitCode = ExitCode.INTERNAL
    retry: bool = False
    then: str = ""  # commands to paste next, a line each; the command line knows them

    def __init__(
        self, problem: str, fix: str = "", *, retry: bool | None = None, exit_code: ExitCode | None = None
    ) -> None:
        super().__init__(problem, fix)  # both in `args`: errors travel pickled from worker to driver
        self.problem = problem
        self.fix = fix
        if retry is not None:
            self.retry = retry
        if exit_code is not None:
            self.exit_code = exit_code

    def __str__(self) -> str:
        return sentence(self.problem, self.fix)

    def facts(self) -> ErrorFacts:
        """The error as plain values."""
        return {
            "exit_code": int(self.exit_code),
            "error": str(self),
            "problem": self.problem,
            "fix": self.fix,
            "retry": self.retry,
        }


def sentence(problem: str, fix: str = "") -> str:
    """A problem and its fix as people read them."""
    text = f"{problem}; {fix}" if fix else problem
    return text if text.endswith((".", "!", "?")) else f"{text}."


class ConfigError(TrainerError):
    """The command line, a config file or a setting is wrong."""

    exit_code = ExitCode.CONFIG


class DataError(TrainerError):
    """Fashion-MNIST is missing, or its files are not Fashion-MNIST."""

    exit_code = ExitCode.DATA


class StorageError(TrainerError):
    """The storage cannot be read or written, or has no such run."""

    exit_code = ExitCode.STORAGE


class NoSuchRunError(StorageError):
    """Neither the storage nor the cluster has a run of this name."""


class UnusableNameError(StorageError):
    """The storage holds an object or a link that no run makes and no run follows."""


class OutageError(StorageError):
    """An object store is unreachable."""

    retry = True


class ConflictError(TrainerError):
    """The run's name is taken."""

    exit_code = ExitCode.CONFLICT


class TrainingError(TrainerError):
    """The training itself failed."""

    exit_code = ExitCode.TRAINING


class DivergedError(TrainerError):
    """The loss or the weights became NaN or infinite; `step` is the step by which it was seen."""

    exit_code = ExitCode.DIVERGED
    step = 0


class ResourceError(TrainerError):
    """There are not enough CPUs, GPUs, memory or disk."""

    exit_code = ExitCode.RESOURCES


class CheckpointError(TrainerError):
    """A checkpoint is damaged, or all are."""

    exit_code = ExitCode.CHECKPOINT


class ClusterError(TrainerError):
    """The Kubernetes cluster refuses, or is not set up for runs."""

    exit_code = ExitCode.CLUSTER


class LostConnectionError(ClusterError):
    """The API server is unreachable."""

    retry = True


class BudgetError(TrainerError):
    """The run has cost as much as it may."""

    exit_code = ExitCode.BUDGET


class InterruptedRunError(TrainerError):
    """Ctrl-C, SIGTERM, or somebody else stopped the run."""

    exit_code = ExitCode.INTERRUPTED


def error_facts(error: Exception) -> ErrorFacts:
    """Return the facts of any error; one that is not a TrainerError is a bug, and another try may avoid it."""
    if not isinstance(error, TrainerError):
        error = TrainerError(f"{type(error).__name__}: {error}", retry=True)
    return error.facts()


def one_line(error: BaseException) -> str:
    """An error as one line: its type and its last words, without a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    name = type(error).__name__
    if isinstance(error, TrainerError) and lines:
        return lines[-1].removesuffix(".")
    return lines[-1] if lines and lines[-1].startswith(name) else ": ".join([name, *lines[-1:]])
