"""What a machine or pod needs for a run, checked one by one, each with its fix. No Ray, and no cluster."""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trainer.doctor.check import Check, State, failed, good
from trainer.driver import ray_cluster
from trainer.errors import DataError, ExitCode, ResourceError, StorageError
from trainer.storage import bucket, identity, store
from trainer.training import device, fetch

SHM = Path("/dev/shm")  # noqa: S108 # where Ray keeps its objects, not a temporary file
SHM_MIN_BYTES = 512 * 2**20
AMD_DRIVER = Path("/dev/kfd")
MAX_CLOCK_SKEW_S = 5.0  # a lease expires 20 s after its owner's last sign of life
# "ray[default,train]==2.60.0; extra == 'train'" of the package's own requirements
_REQUIRED = re.search(r"\bray\[[\w,]+\]==([\w.]+)", " ".join(requires("fashion-mnist-on-ray") or []))
RAY_VERSION = _REQUIRED[1] if _REQUIRED else ""


def checks(where: str, runs: str, data: Path | None) -> list[Check]:
    """Check everything on this machine or in this pod, for runs kept at the normalised `runs`."""
    return [
        check_versions(where),
        *check_devices(where),
        *check_shared_memory(where),
        *check_ray_address(where),
        *check_dns(where, runs),
        check_storage(where, runs),
        check_data(where, data),
    ]


def check_versions(where: str) -> Check:
    """Check Python, and the one version of Ray that recovery and metrics were built for."""
    ray = _version("ray")
    found = f"Python {platform.python_version()}, Ray {ray}, PyTorch {_version('torch')}"
    if RAY_VERSION and ray != RAY_VERSION:
        return Check(where, "versions", State.BAD, found, f"install Ray {RAY_VERSION}: make setup", ExitCode.CONFIG)
    return good(where, "versions", found)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def check_devices(where: str) -> Iterator[Check]:
    """Check the cores; and for each NVIDIA GPU of the system, whether PyTorch can use it, and NCCL."""
    usable, there = device.cpu_count(), os.cpu_count() or 1
    limited = f" of {there} (affinity or cgroup quota)" if usable < there else ""
    yield good(where, "CPU", f"{usable} {'core' if usable == 1 else 'cores'}{limited}, {device.cpu_name()}")
    has_driver = shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia").exists()
    if not has_driver:
        if AMD_DRIVER.exists():
            fix = "nothing to do for runs on CPUs: AMD GPUs are not supported"
            yield Check(where, "GPU", State.WARNING, "an AMD GPU, which runs cannot use", fix)
        else:
            yield good(where, "GPU", "none")
        return
    if device.gpu_kind() == "cuda" and not device.gpu_names():
        fix = "repair the driver: nvidia-smi must list the GPUs"
        yield Check(where, "GPU", State.BAD, "nvidia-smi is there, and lists no GPU", fix, ExitCode.RESOURCES)
        return
    import torch

    if not torch.cuda.is_available():
        fix = f"give this pod a GPU, or install a PyTorch for its driver (this one: CUDA {torch.version.cuda})"
        found = "the NVIDIA driver is installed, but PyTorch sees no GPU"
        yield Check(where, "GPU", State.BAD, found, fix, ExitCode.RESOURCES)
        return
    names = ", ".join(device.gpu_names())
    yield good(where, "GPU", f"{names}; CUDA {torch.version.cuda}")
    if torch.distributed.is_nccl_available():
        nccl: Any = torch.cuda.nccl
        yield good(where, "NCCL", ".".join(map(str, nccl.version())))
    else:
        yield Check(where, "NCCL", State.BAD, "not in this PyTorch", "install PyTorch's CUDA build", ExitCode.RESOURCES)


def check_shared_memory(where: str) -> Iterator[Check]:
    """Check the size of /dev/shm, where Ray keeps objects and NCCL communicates; container engines give it 64 MB."""
    if not SHM.exists():
        return
    size = shutil.disk_usage(SHM).total
    found = f"{SHM} has {size / 2**20:,.0f} MiB"
    if size < SHM_MIN_BYTES:
        fix = "mount an emptyDir of medium Memory there, as helm/training does"
        yield Check(where, "shared memory", State.WARNING, found, fix)
    else:
        yield good(where, "shared memory", found)


def check_ray_address(where: str) -> Iterator[Check]:
    """Check that a Ray cluster answers at RAY_ADDRESS, if that is set."""
    address = ray_cluster.address()
    if address is None:
        return
    try:
        ray_cluster.check_address(address)
    except ResourceError as error:
        yield failed(where, "RAY_ADDRESS", error)
    else:
        yield good(where, "RAY_ADDRESS", f"{address} answers: runs go there, not to this machine")


def check_dns(where: str, runs: str) -> Iterator[Check]:
    """Check that the host of an object store's own endpoint has an address."""
    server = bucket.endpoint(runs) if store.is_remote(runs) else None
    host = urlsplit(server).hostname if server else None
    if host is None:
        return
    try:
        address = socket.getaddrinfo(host, None)[0][4][0]
        yield good(where, "DNS", f"{host} is {address}")
    except OSError as error:
        found = f"{host} has no address ({error.strerror or error})"
        fix = "correct storage.endpoint, or allow DNS in the network policies"
        yield Check(where, "DNS", State.BAD, found, fix, ExitCode.STORAGE)


def check_storage(where: str, runs: str) -> Check:
    """Try in the storage of runs what a run does there, and say by which credentials."""
    began = time.perf_counter()
    try:
        store.check(runs)  # fails within seconds where no store answers
    except StorageError as error:
        found = f"{error.problem} ({identity.describe(runs)})"
        return Check(where, "storage", State.BAD, found, error.fix, error.exit_code)
    seconds = time.perf_counter() - began
    found = f"{runs}: written, created once, read, listed and deleted in {seconds:.2f} s as {identity.describe(runs)}"
    return good(where, "storage", found)


def check_data(where: str, data: Path | None) -> Check:
    """Check whether the four files of Fashion-MNIST are where a run looks for them; nothing is downloaded."""
    try:
        found = fetch.find_here(data)
    except DataError as error:
        return failed(where, "data", error)
    if found is None:
        fix = "nothing to do: a run downloads them (30 MB); without internet, give --data"
        return Check(where, "data", State.WARNING, "not on this machine yet", fix)
    return good(where, "data", f"verified in {found}")


def check_clock(where: str, ahead_s: float, other: str) -> Check:
    """Check how far a clock is ahead of another one."""
    found = f"{abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} {other}"
    if abs(ahead_s) > MAX_CLOCK_SKEW_S:
        return Check(where, "clock", State.BAD, found, "synchronise it by NTP: leases depend on it", ExitCode.RESOURCES)
    return good(where, "clock", found)
