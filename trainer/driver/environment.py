"""What a run was made with: versions, hardware, commit. Nothing is imported only to learn its version."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from trainer import __version__
from trainer.storage.schema import Environment
from trainer.training import device

SUBMITTED_AT = "TRAINER_SUBMITTED_AT"  # set by trainer/cluster/rayjob.py


def describe() -> Environment:
    """Return this machine, the driver's, and the versions installed on it; memory in bytes."""
    return {
        "trainer": __version__,
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "ray": _version("ray"),
        "torch": _version("torch"),
        "numpy": _version("numpy"),
        "pydantic": _version("pydantic"),
        "safetensors": _version("safetensors"),
        "system": platform.platform(),
        "cpu": device.cpu_name(),
        "cpu_cores": device.cpu_count(),
        "gpus": device.gpu_names(),
        "memory_bytes": psutil.virtual_memory().total,
    }


def submitted_at() -> float | None:
    """Return when `trainer submit` created the RayJob, in seconds since 1970; None if it did not, or does not say."""
    with suppress(ValueError):
        return float(os.environ.get(SUBMITTED_AT, ""))
    return None


def git_commit() -> str | None:
    """Return the commit of the source tree, with ``+changes`` if it is not clean; None if it is unknown.

    In an image, TRAINER_GIT_COMMIT has the commit it was built from.
    """
    if built_from := os.environ.get("TRAINER_GIT_COMMIT"):
        return built_from
    folder = Path(__file__).parents[1]
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        # untracked files aside: a run's own folder is one of them
        return commit + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()  # noqa: S603 # fixed words


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
