"""What a machine or pod must have for a run, checked one by one: each a line with its fix. No Ray, and no cluster."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trainer.errors import DataError, ExitCode, StorageError
from trainer.storage import store
from trainer.training import device, fetch

SHM = Path("/dev/shm")  # noqa: S108 # where Ray's object store is, not a temporary file
SHM_LEAST = 512 * 2**20
CLOCK_MAY_DIFFER_S = 5.0  # a lease expires 20 s after its owner's last sign of life
RAY = next((each.partition("==")[2] for each in requires("fashion-mnist-on-ray") or [] if each.startswith("ray[")), "")


class State(str, Enum):
    """How a check came out."""

    GOOD = "ok"
    WARNING = "warning"
    BAD = "wrong"


@dataclass(frozen=True)
class Check:
    """One line of the doctor: where, what, how it is, and the fix where it is not good."""

    where: str
    what: str
    state: State
    found: str
    fix: str = ""
    code: ExitCode = ExitCode.OK

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "state": self.state.value, "code": int(self.code)}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Check:
        """What `as_dict` gave."""
        return cls(**{**content, "state": State(content["state"]), "code": ExitCode(content["code"])})


def good(where: str, what: str, found: str) -> Check:
    """A check that came out well."""
    return Check(where, what, State.GOOD, found)


def here(where: str, runs: str, data: Path | None) -> list[Check]:
    """Everything that can be checked on this machine or in this pod, for runs kept at the normalised `runs`."""
    return [
        versions(where),
        *devices(where),
        *shared_memory(where),
        *names(where, runs),
        storage(where, runs),
        data_set(where, data),
    ]


def versions(where: str) -> Check:
    """Python, and the one version of Ray that recovery and metrics were built for."""
    try:
        ray = version("ray")
    except PackageNotFoundError:
        ray = "none"
    found = f"Python {platform.python_version()}, Ray {ray}, PyTorch {_version('torch')}"
    if RAY and ray != RAY:
        return Check(where, "versions", State.BAD, found, f"install Ray {RAY}: make setup", ExitCode.CONFIG)
    return good(where, "versions", found)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def devices(where: str) -> Iterator[Check]:
    """Cores; and for each NVIDIA GPU that the system has, whether PyTorch can use it, and NCCL."""
    yield good(where, "CPU", f"{device.cpu_count()} cores, {device.cpu_name()}")
    has_driver = shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia").exists()
    if not has_driver:
        yield good(where, "GPU", "none")
        return
    import torch

    if not torch.cuda.is_available():
        fix = f"give this pod a GPU, or install a PyTorch for its driver (this one: CUDA {torch.version.cuda})"
        yield Check(where, "GPU", State.BAD, "there is a driver, and PyTorch sees no GPU", fix, ExitCode.RESOURCES)
        return
    names = ", ".join(device.gpu_names())
    yield good(where, "GPU", f"{names}; CUDA {torch.version.cuda}")
    if torch.distributed.is_nccl_available():
        nccl: Any = torch.cuda.nccl
        yield good(where, "NCCL", ".".join(map(str, nccl.version())))
    else:
        yield Check(where, "NCCL", State.BAD, "not in this PyTorch", "install PyTorch's CUDA build", ExitCode.RESOURCES)


def shared_memory(where: str) -> Iterator[Check]:
    """Where Ray keeps objects and NCCL talks; container engines make it 64 MB."""
    if not SHM.exists():
        return
    size = shutil.disk_usage(SHM).total
    found = f"{SHM} has {size / 2**20:,.0f} MiB"
    if size < SHM_LEAST:
        fix = "mount a memory emptyDir there, as helm/training does"
        yield Check(where, "shared memory", State.WARNING, found, fix)
    else:
        yield good(where, "shared memory", found)


def names(where: str, runs: str) -> Iterator[Check]:
    """Whether the host of an object store's own endpoint has an address."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    host = urlsplit(endpoint).hostname if endpoint and store.is_remote(runs) else None
    if host is None:
        return
    try:
        found = socket.getaddrinfo(host, None)[0][4][0]
        yield good(where, "DNS", f"{host} is {found}")
    except OSError as error:
        fix = "correct storage.endpoint, or let DNS through the network policies"
        yield Check(
            where, "DNS", State.BAD, f"{host} has no address ({error.strerror or error})", fix, ExitCode.STORAGE
        )


def storage(where: str, runs: str) -> Check:
    """Write, read and delete an object in the storage of runs, and by which credentials."""
    probe, content = store.join(runs, f".doctor-{socket.gethostname()}-{os.getpid()}"), os.urandom(32)
    began = time.perf_counter()
    try:
        store.check(runs)  # fails within seconds where no store answers
        store.write(probe, content)
        same = store.read(probe) == content
        store.delete(probe)
    except StorageError as error:
        text, _, fix = str(error).removesuffix(".").rpartition("; ")
        return Check(where, "storage", State.BAD, f"{text or error} ({identity(runs)})", fix, ExitCode.STORAGE)
    if not same:
        fix = "use a store that gives back what was written"
        return Check(where, "storage", State.BAD, f"{runs} gave back something else", fix, ExitCode.STORAGE)
    took = time.perf_counter() - began
    return good(where, "storage", f"{runs}: written, read and deleted in {took:.2f} s as {identity(runs)}")


def identity(runs: str) -> str:
    """By whose credentials a storage is used, as far as the environment says; never a secret."""
    scheme = runs.partition("://")[0] if store.is_remote(runs) else "file"
    variables = {
        "s3": [("AWS_ACCESS_KEY_ID", "access key"), ("AWS_ROLE_ARN", "role"), ("AWS_PROFILE", "profile")],
        "gs": [("GOOGLE_APPLICATION_CREDENTIALS", "key file"), ("GOOGLE_SERVICE_ACCOUNT", "key file")],
        "az": [("AZURE_CLIENT_ID", "client"), ("AZURE_STORAGE_ACCOUNT_NAME", "account")],
    }
    for variable, kind in variables.get(scheme, []):
        if value := os.environ.get(variable):
            return f"{kind} {value}"
    if scheme == "file":
        return f"user {os.getuid()}"
    return "the identity of this machine or pod"


def data_set(where: str, data: Path | None) -> Check:
    """Whether the four files of Fashion-MNIST are there and whole; nothing is fetched that is not."""
    folder = data or Path(os.environ.get("FASHION_MNIST_DIR") or fetch.PACKAGE_FOLDER)
    if not folder.exists() and data is None:
        return Check(
            where, "data", State.WARNING, f"not in {folder}", "none: a run looks in its cache, and fetches them"
        )
    try:
        found = fetch.find(folder, lambda _: None)
    except DataError as error:
        text, _, fix = str(error).rpartition(": ")
        return Check(where, "data", State.BAD, text, fix, ExitCode.DATA)
    return good(where, "data", f"verified in {found}")


def clock(where: str, ahead_s: float, of: str) -> Check:
    """How far a clock is ahead of another."""
    found = f"{abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} {of}"
    if abs(ahead_s) > CLOCK_MAY_DIFFER_S:
        return Check(where, "clock", State.BAD, found, "let NTP set it: leases go by it", ExitCode.RESOURCES)
    return good(where, "clock", found)
