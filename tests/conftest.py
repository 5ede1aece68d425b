"""What tests share: the real data set."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer import fetch


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The real data set, found as the trainer finds it."""
    return fetch.find(None, log=print)
