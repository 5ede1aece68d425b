"""Recognises, by the words of PyTorch, NCCL or the kernel, that a worker has run out of a resource.

Such an error ends the run, since a retry would run out of the resource again. A process that the kernel kills for its
memory raises nothing; `driver/ray_errors.py` reports its death, and the run retries: another process may have used up
the memory.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from trainer.errors import ResourceError, TrainerError

SHARED_MEMORY = ("/dev/shm", "shared memory")  # noqa: S108 # words in a message, not a file


@contextmanager
def explained() -> Iterator[None]:
    """Replace an error that means a resource is exhausted by one that names the resource and the fix.

    Raises:
        ResourceError: the worker has run out of a resource.
    """
    try:
        yield
    except Exception as error:
        if explanation := explain(error):
            raise explanation from error
        raise


def explain(error: BaseException) -> ResourceError | None:
    """Return what a worker ran out of and what to do about it; None if that is not the cause of the error."""
    if isinstance(error, TrainerError):
        return None  # it has its own problem and fix
    # words decide, since some of these errors have no type or code: PyTorch's CPU allocator and NCCL raise RuntimeError
    text = str(error)
    detail = _first_line(text)
    if isinstance(error, torch.OutOfMemoryError):
        return ResourceError(
            f"gpu: out of memory ({detail})", "lower global_batch_size, or use more workers or larger GPUs"
        )
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return ResourceError(
            f"memory: a worker is out of memory ({detail or 'no reason given'})",
            "lower global_batch_size, use more workers, or raise resources.limits.memory of the chart's worker group",
        )
    full = (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.ENOMEM)) or "No space left" in text
    if any(word in text for word in SHARED_MEMORY) and (full or "Error while creating" in text):
        return ResourceError(
            f"{SHARED_MEMORY[0]}: full ({detail})",
            "raise shm of the chart's groupDefaults, or --shm-size of the container",
        )
    if full:
        return ResourceError(f"disk: full ({detail})", "free space, or give the worker a larger scratch volume")
    return None


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:200] if text.strip() else ""
