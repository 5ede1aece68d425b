import errno

import pytest
import torch

from trainer.errors import ResourceError, StorageError
from trainer.training.exhausted import explain, explained


@pytest.mark.parametrize(
    ("error", "begins", "fix"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "gpu:", "lower global_batch_size"),
        (MemoryError(), "memory:", "resources.limits.memory"),
        (OSError(errno.ENOSPC, "No space left on device", "/dev/shm/psm_1"), "/dev/shm:", "raise shm"),
        (RuntimeError("unable to write to shared memory: No space left on device"), "/dev/shm:", "raise shm"),
        (RuntimeError("NCCL: Error while creating shared memory segment /dev/shm/nccl-x"), "/dev/shm:", "raise shm"),
        (OSError(errno.ENOSPC, "No space left on device", "/tmp/x"), "disk:", "free space"),
    ],
)
def test_explain_names_the_resource_and_the_fix(error, begins, fix):
    explanation = explain(error)
    assert explanation.problem.startswith(begins)
    assert fix in explanation.fix


def test_a_real_allocation_that_is_too_large_is_out_of_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**58)
    assert explain(caught.value).problem.startswith("memory: a worker is out of memory")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        OSError(errno.ENOENT, "none"),
        RuntimeError("shared memory"),
        StorageError("storage: No space left on device"),
    ],
)
def test_explain_leaves_other_errors_alone(error):
    assert explain(error) is None


def test_explained_replaces_only_the_errors_it_recognises():
    with pytest.raises(ResourceError, match="memory: a worker is out of memory"), explained():
        raise MemoryError
    with pytest.raises(ValueError, match="a bug"), explained():
        raise ValueError("a bug")
