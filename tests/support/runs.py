"""Calling the trainer as a user does, and reading what a run left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

# small and quick, but real: every part of a run takes place
SMALL = ["--set", "model.hidden=[64]", "--set", "global_batch_size=2000", "--set", "optimizer.name=sgd"]


def run_trainer(
    folder: Path, *arguments: str, python: str = sys.executable, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-m", "trainer", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def result_of(folder: Path, name: str) -> dict:
    return json.loads((folder / "runs" / name / "result.json").read_text())
