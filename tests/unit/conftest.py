"""What unit tests of several rooms share: a run's record, before anything has happened to it."""

import pytest

from trainer import resolve
from trainer.storage.record import Record


@pytest.fixture
def record(tmp_path) -> Record:
    """A new run of the recipe `seed`."""
    made = Record(tmp_path / "r1")
    made.create(resolve.load("seed"), {"ray": "2.60.0"})
    return made
