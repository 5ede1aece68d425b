import pytest

from trainer import resolve
from trainer.cluster import status
from trainer.storage import layout
from trainer.storage.record import Record

CONFIG = resolve.load("seed")


@pytest.fixture
def record(tmp_path):
    made = Record(tmp_path / "r1")
    made.create(CONFIG, {"ray": "2.60.0"})
    return made


def test_a_damaged_run_is_listed_as_such_and_the_others_are_listed_too(record, tmp_path):
    record.write_result({"status": "failed"})
    other = Record(tmp_path / "r2")
    other.create(CONFIG, {})
    other.file(layout.RESULT).write_text("{")
    assert [row[:2] for row in status.kept(str(tmp_path))] == [("r1", "failed"), ("r2", "damaged")]
