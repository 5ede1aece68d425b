import errno

import pytest
import torch

from trainer.errors import ResourceError
from trainer.training.exhausted import sentence, told


@pytest.mark.parametrize(
    ("error", "begins", "remedy"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "gpu:", "lower global_batch_size"),
        (MemoryError(), "memory:", "resources.limits.memory"),
        (OSError(errno.ENOSPC, "No space left on device", "/dev/shm/psm_1"), "/dev/shm:", "raise shm"),
        (RuntimeError("unable to write to shared memory: No space left on device"), "/dev/shm:", "raise shm"),
        (RuntimeError("NCCL: Error while creating shared memory segment /dev/shm/nccl-x"), "/dev/shm:", "raise shm"),
        (OSError(errno.ENOSPC, "No space left on device", "/tmp/x"), "disk:", "free space"),
    ],
)
def test_what_ran_out_is_named_with_what_to_do(error, begins, remedy):
    said = sentence(error)
    assert said.startswith(begins)
    assert remedy in said


def test_a_real_allocation_that_is_too_large_is_told_as_lack_of_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**58)
    assert sentence(caught.value).startswith("memory: a worker cannot have more")


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError(errno.ENOENT, "none"), RuntimeError("shared memory")])
def test_another_error_is_left_as_it_is(error):
    assert sentence(error) is None


def test_it_ends_the_run_with_that_sentence_and_any_other_error_as_it_is():
    with pytest.raises(ResourceError, match="memory: a worker cannot have more"), told():
        raise MemoryError
    with pytest.raises(ValueError, match="a bug"), told():
        raise ValueError("a bug")
