"""What a run was made with: versions, hardware, commit. Nothing is imported only to ask for its version."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from trainer import __version__
from trainer.training import device

PACKAGES = ("ray", "torch", "numpy", "pydantic", "safetensors")


def describe() -> dict[str, Any]:
    """This machine, the driver's, and what is installed on it, as plain values; memory in bytes."""
    return {
        "trainer": __version__,
        "git_commit": git_commit(),
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "system": platform.platform(),
        "cpu": device.cpu_name(),
        "cpu_cores": device.cpu_count(),
        "gpus": device.gpu_names(),
        "memory_bytes": psutil.virtual_memory().total,
    }


def git_commit() -> str | None:
    """The commit of the source tree, with ``+changes`` if it is not clean; None if nobody knows.

    An image says by TRAINER_GIT_COMMIT which one it was made from.
    """
    if built_from := os.environ.get("TRAINER_GIT_COMMIT"):
        return built_from
    folder = Path(__file__).parent
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
