"""Errors that say, in the words of PyTorch, NCCL or the kernel, that a worker has run out of something.

Retrying would run out of it again, so they end a run. A process that the kernel kills for its memory says nothing;
`driver/ray_errors.py` reports its death, and the run retries: other processes may have taken the memory.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from trainer.errors import ResourceError

SHARED_MEMORY = ("/dev/shm", "shared memory")  # noqa: S108 # a word in a message, no file


@contextmanager
def told() -> Iterator[None]:
    """Errors that say so are raised in a sentence for people.

    Raises:
        ResourceError: the worker has run out of something.
    """
    try:
        yield
    except Exception as error:
        if short := sentence(error):
            raise ResourceError(short) from error
        raise


def sentence(error: BaseException) -> str | None:
    """What a worker ran out of, and what to do; None if it is another error."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return (
            f"gpu: its memory is full ({_first_line(text)}); lower global_batch_size, use more workers or larger GPUs."
        )
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return (
            f"memory: a worker cannot have more ({_first_line(text) or 'it gave no reason'}); lower global_batch_size, "
            "use more workers, or raise resources.limits.memory of the chart's worker group."
        )
    full = (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.ENOMEM)) or "No space left" in text
    if any(word in text for word in SHARED_MEMORY) and (full or "Error while creating" in text):
        return (
            f"{SHARED_MEMORY[0]}: it is full ({_first_line(text)}); raise shm of the chart's groupDefaults, or "
            "--shm-size of the container."
        )
    if full:
        return f"disk: it is full ({_first_line(text)}); free space, or give the worker a larger scratch volume."
    return None


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:200] if text.strip() else ""
