"""Every way a run can end, as an exit code, and the errors that lead there.

An error that a user can cause is a ``TrainerError``: one sentence that names the field or object, its value and
what to do. ``cli.py`` prints it and exits with its code; anything else is a bug and exits with ``INTERNAL``.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process returns; the docstring of each value is its line in ``docs/configuration.md``."""

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
    INTERRUPTED = 130


EXIT_CODE_MEANING: dict[ExitCode, str] = {
    ExitCode.OK: "the command did what was asked",
    ExitCode.INTERNAL: "a bug in the trainer: the message says where the traceback is",
    ExitCode.CONFIG: "the command line, a config file or a `--set` is wrong: nothing was started",
    ExitCode.DATA: "Fashion-MNIST was not found, or what was found is wrong or truncated",
    ExitCode.STORAGE: "the storage cannot be read or written, or holds no such run",
    ExitCode.CONFLICT: "the run's name belongs to a run with another config, or that run is still going on",
    ExitCode.TRAINING: "the training itself failed: a worker raised or died, and trying again did not help",
    ExitCode.RESOURCES: "this machine or cluster has not the CPUs or GPUs the run asks for",
    ExitCode.CHECKPOINT: "the run has checkpoints and none of them is intact, or another process writes them",
    ExitCode.DIVERGED: "the loss or the weights became non-finite, also after going back once: see the settings",
    ExitCode.CLUSTER: "the Kubernetes cluster does not answer, refuses, or lacks what runs need: KubeRay, chart, image",
    ExitCode.INTERRUPTED: "stopped by Ctrl-C, SIGTERM, `trainer stop` or a deadline; the record so far is kept",
}


class TrainerError(Exception):
    """An error a user can cause or cure; its text is one sentence for them."""

    exit_code: ExitCode = ExitCode.INTERNAL


class ConfigError(TrainerError):
    """The command line, a config file or a setting is wrong."""

    exit_code = ExitCode.CONFIG


class DataError(TrainerError):
    """Fashion-MNIST is missing, or what is there is not it."""

    exit_code = ExitCode.DATA


class StorageError(TrainerError):
    """The storage cannot be read or written, or holds no such run."""

    exit_code = ExitCode.STORAGE


class OutageError(StorageError):
    """An object store does not answer: it may be well again in a while."""


class ConflictError(TrainerError):
    """The run's name is taken."""

    exit_code = ExitCode.CONFLICT


class TrainingError(TrainerError):
    """The training itself failed."""

    exit_code = ExitCode.TRAINING


class DivergedError(TrainerError):
    """The loss or the weights are no numbers any more."""

    exit_code = ExitCode.DIVERGED
    step = 0  # by which it was seen; an attribute, since Ray sends errors from process to process as their texts


class ResourceError(TrainerError):
    """There are not enough CPUs or GPUs."""

    exit_code = ExitCode.RESOURCES


class CheckpointError(TrainerError):
    """A checkpoint is damaged, or all are."""

    exit_code = ExitCode.CHECKPOINT


class ClusterError(TrainerError):
    """The Kubernetes cluster refuses, or is not set up for runs."""

    exit_code = ExitCode.CLUSTER


class LostConnectionError(ClusterError):
    """The API server does not answer: it may be well again in a while."""


class InterruptedRunError(TrainerError):
    """Ctrl-C, SIGTERM, or somebody else who stopped the run."""

    exit_code = ExitCode.INTERRUPTED


# Ray's names for the end of a process that said nothing more; its texts about it are pages.
FROZEN = "WorkerHealthCheckTimeoutError"
OUT_OF_MEMORY = "OutOfMemoryError"  # what Ray calls it where it is the controller that its memory monitor has killed
DEATHS = {"ActorDiedError", "ActorUnavailableError", "RayActorError", "WorkerHealthCheckFailedError", "NodeDiedError"}


def is_death(error: BaseException) -> bool:
    """Whether a process or node was gone, rather than that something in it raised."""
    return type(error).__name__ in DEATHS | {FROZEN}


def in_a_line(error: BaseException) -> str:
    """What went wrong, without the traceback that Ray puts before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    name = type(error).__name__
    if name == FROZEN:
        return f"it did not answer any more ({name}): its process or node is frozen, or cut off"
    if "low on memory" in str(error) and (is_death(error) or name == OUT_OF_MEMORY):
        return f"Ray killed its process ({name}), because its node ran low on memory: give it more, or use more workers"
    if is_death(error):
        return f"its process or node is gone ({name}): killed, out of memory, or cut off"
    if isinstance(error, TrainerError) and lines:
        return lines[-1]
    return lines[-1] if lines and lines[-1].startswith(name) else ": ".join([name, *lines[-1:]])
