"""Which device a worker computes on, and in which precision that device is fast."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from trainer.config import Config
from trainer.errors import ResourceError

if TYPE_CHECKING:  # the driver counts devices without importing PyTorch, which takes seconds
    import torch


CGROUPS = Path("/sys/fs/cgroup")
CGROUP_OF_THIS_PROCESS = Path("/proc/self/cgroup")


def choose(config: Config) -> torch.device:
    """Return the device of this worker: the GPU that Ray assigned to it, the GPU of a Mac, or the CPU.

    Raises:
        ResourceError: the run asks for a GPU and PyTorch finds none.
    """
    import torch

    if not config.gpu:
        return torch.device("cpu")
    if torch.cuda.is_available():
        import ray.train.torch

        device: torch.device = ray.train.torch.get_device()
        return device
    if torch.backends.mps.is_available():
        return torch.device("mps")
    raise ResourceError(
        f"gpu: true, but PyTorch {torch.__version__} finds no GPU on {platform.node()}",
        "install a PyTorch build for this GPU's driver (an image of TORCH=cpu has none: build it without), "
        "or train without --gpu",
    )


def choose_precision(config: Config, device: torch.device) -> tuple[str, str]:
    """Return ``fp32`` or ``bf16`` (autocast), and the reason for the record."""
    if config.precision != "auto":
        return config.precision, "set in the config"
    if device.type == "cuda":
        import torch

        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "the GPU has bf16 units"
        return "fp32", "the GPU has no bf16 units"
    if device.type == "cpu":
        units = sorted({"amx_bf16", "avx512_bf16", "bf16"} & cpu_flags())
        if units:
            return "bf16", f"the CPU has {' and '.join(units)}"
        return "fp32", "the CPU has neither AMX nor AVX-512 units for bf16 and would emulate it"
    return "fp32", f"bf16 autocast is not used on {device.type}"


def prepare(device: torch.device) -> None:
    """Make the results of a device reproducible, and fp32 on a GPU fast (TF32)."""
    import torch

    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def cpu_flags() -> set[str]:
    """Return the CPU's feature flags; empty on systems other than Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.split(":")[1].split()) for line in lines if line.startswith(("flags", "Features"))), set())


def cpu_name() -> str:
    """Return the CPU's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def cpu_count() -> int:
    """Return how many CPU cores this process may use: the minimum of machine, affinity and cgroup.

    Parts of a core are dropped, as Ray does; half a core is one.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([cores, *_cgroup_quotas()])))


def _cgroup_quotas() -> Iterator[float]:
    """Yield the CPU quotas of this process's cgroup and of those above it, in cores; of versions 1 and 2."""
    try:
        memberships = CGROUP_OF_THIS_PROCESS.read_text().splitlines()
    except OSError:  # not on Linux
        return
    for _, controllers, path in (line.split(":", 2) for line in memberships):
        if controllers == "":
            mounts = [CGROUPS, CGROUPS / "unified"]
        elif "cpu" in controllers.split(","):
            mounts = [CGROUPS / controllers, CGROUPS / "cpu"]
        else:
            continue
        # in a container the path may be the host's, and then the limits are at the mount itself
        group = Path(path.lstrip("/"))
        for mount in mounts:
            for folder in [mount / group, *(mount / above for above in group.parents)]:
                yield from _quota(folder)


def _quota(folder: Path) -> Iterator[float]:
    """Yield the quota of one cgroup, if it has one."""
    try:
        if (version_2 := folder / "cpu.max").exists():
            quota, period = version_2.read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        if quota.isdigit():  # not `max`, nor -1
            yield int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return


def gpu_kind() -> str | None:
    """Return how PyTorch calls the GPUs of this machine, without importing it: ``cuda``, ``mps`` (Apple) or None."""
    if platform.system() == "Darwin":
        return "mps" if platform.machine() == "arm64" else None
    return "cuda" if shutil.which("nvidia-smi") else None


def gpu_names() -> list[str]:
    """Return the product names of this machine's GPUs, whether a run may use them or not."""
    kind = gpu_kind()
    if kind != "cuda":
        return ["Apple GPU"] if kind == "mps" else []
    command = ["nvidia-smi", "-L"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout  # noqa: S603 # a constant command
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = (line for line in listed.splitlines() if line.startswith("GPU "))  # GPU 0: NVIDIA H100 (UUID: GPU-...)
    return [line.partition(": ")[2].partition(" (UUID")[0] for line in lines]


def gpu_count() -> int:
    """Return how many GPUs of this machine a run may use."""
    there = len(gpu_names())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if gpu_kind() == "cuda" and visible is not None:
        names = [name.strip() for name in visible.split(",")]
        usable = names[: names.index("-1")] if "-1" in names else names  # CUDA stops reading there
        return min(there, len([name for name in usable if name]))
    return there


def process_began() -> float:
    """Return when this process was started, in seconds since 1970.

    On Linux it is computed from the time since boot: psutil uses the wall time of the boot, which the kernel rounds
    down to seconds.
    """
    try:
        ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return psutil.Process().create_time()
    return time.time() - age
