"""What Ray's exceptions mean: whether a process died, and why, as one line for people.

Ray's own texts about a lost process are pages. Its classes are recognised by name, so that the driver can describe an
error without importing Ray.
"""

from __future__ import annotations

from collections.abc import Mapping

from trainer.errors import TrainerError, TrainingError, one_line

FROZEN = "WorkerHealthCheckTimeoutError"
OUT_OF_MEMORY = "OutOfMemoryError"  # raised where Ray's memory monitor killed the controller
DEATHS = {"ActorDiedError", "ActorUnavailableError", "RayActorError", "WorkerHealthCheckFailedError", "NodeDiedError"}


def is_death(error: BaseException) -> bool:
    """Whether a process or node was lost, rather than that its code raised an error."""
    return type(error).__name__ in DEATHS | {FROZEN}


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether Ray's memory monitor killed the process."""
    by_ray = is_death(error) or type(error).__name__ == OUT_OF_MEMORY
    return by_ray and "low on memory" in str(error)  # Ray tells it only in words


def described(error: BaseException) -> str:
    """What went wrong, in one line without Ray's traceback and without a full stop."""
    name = type(error).__name__
    if name == FROZEN:
        return f"it stopped responding ({name}): its process or node is frozen or unreachable"
    if ran_out_of_memory(error):
        return f"Ray killed its process ({name}) because its node ran low on memory: raise memory, or use more workers"
    if is_death(error):
        return f"its process or node was lost ({name}): killed, out of memory, or unreachable"
    return one_line(error)


def failures_of(error: Exception) -> dict[int, Exception]:
    """The errors of the workers in a ``TrainingFailedError``, by rank."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    return failures


def causes(failures: Mapping[int, Exception]) -> dict[int, Exception]:
    """What each failed rank raised, without what Ray wraps around it."""
    return {rank: getattr(error, "_base_exc", error) for rank, error in sorted(failures.items())}


def root_causes(errors: dict[int, Exception]) -> dict[int, Exception]:
    """The errors that came first: where a worker was lost, the others fail only because it is gone."""
    deaths = {rank: error for rank, error in errors.items() if is_death(error)}
    own: dict[int, Exception] = {rank: error for rank, error in errors.items() if isinstance(error, TrainerError)}
    return own or deaths or errors


def why_it_ended(failure: Exception) -> TrainerError:
    """The error that a run ends with: the worker's own if it is a TrainerError, else one made of the first cause."""
    raised = list(root_causes(causes(failures_of(failure))).values())
    controller = getattr(failure, "controller_failure", None)
    first: BaseException = next(iter(raised), None) or controller or failure
    if isinstance(first, TrainerError):
        return first
    return TrainingError(
        f"training failed, and retrying did not help: {described(first)}",
        retry=is_death(first) and not ran_out_of_memory(first),
    )
