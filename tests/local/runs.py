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


# Runs a piece of code in every Ray worker, just before it imports the training loop.
IN_WORKERS = """
import importlib.abc, os, sys
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "trainer.loop":
            sys.meta_path.remove(self)
            exec(os.environ["IN_WORKERS"], {})
        return None
if "IN_WORKERS" in os.environ and any("default_worker" in each for each in sys.argv + sys.orig_argv):
    sys.meta_path.insert(0, Finder())
"""


def in_workers(folder: Path, code: str) -> dict[str, str]:
    """The environment for a run in whose workers this code is run first: for faults that come from inside."""
    (folder / "site").mkdir(exist_ok=True)
    (folder / "site" / "sitecustomize.py").write_text(IN_WORKERS)
    return {"PYTHONPATH": os.pathsep.join([str(folder / "site"), os.environ.get("PYTHONPATH", "")]), "IN_WORKERS": code}


def result_of(folder: Path, name: str) -> dict:
    return json.loads((folder / "runs" / name / "result.json").read_text())
