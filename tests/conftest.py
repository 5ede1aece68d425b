"""What tests share: the real data set, and the trainer's command as a user calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer import fetch

Trainer = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The real data set, found as the trainer finds it."""
    return fetch.find(None, log=print)


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    """Run ``trainer ARGUMENTS`` in an empty folder, with runs kept in its ``runs``."""

    def run(*arguments: str, timeout: float = 240, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "trainer", *arguments],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run
