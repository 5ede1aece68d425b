"""Runs that several tests of this folder look at: real Ray on this machine, real data."""

from __future__ import annotations

import pytest
from support.runs import SMALL, run_trainer


@pytest.fixture(scope="session")
def finished(tmp_path_factory, data_folder):
    """A folder with the finished run ``one``: one worker, two epochs; and what it printed."""
    folder = tmp_path_factory.mktemp("a folder with spaces")
    done = run_trainer(
        folder,
        "train",
        "--name",
        "one",
        *SMALL,
        "--set",
        "epochs=2",
        "--set",
        "model.dropout=0.1",
        "--set",
        "data.flip=random",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done
