import pytest

from trainer import resolve
from trainer.storage import layout, manifest, seal, store
from trainer.storage.layout import WEIGHTS
from trainer.storage.record import Record

RESULT = {
    **dict.fromkeys(("test_accuracy", "test_loss", "started_at", "ended_at"), 0.9),
    **dict.fromkeys(("exit_code", "epochs", "steps", "workers", "attempt"), 1),
    **{key: {} for key in ("class_accuracy", "seconds", "goodput")},
    "name": "r1",
    "config_sha256": "0",
    "status": "finished",
}


@pytest.fixture
def record(tmp_path):
    made = Record(tmp_path / "r1")
    made.create(resolve.load("seed"), {"ray": "2.60.0"})
    store.write(made.weights, b"weights")
    made.add_event({"event": "training_finished", "weights": manifest.facts(b"weights")})
    made.add_point({"step": 1})
    made.write_evaluation({"confusion": []})
    made.write_result(RESULT)
    seal.write(made)
    return made


def test_a_finished_run_gives_its_result(record):
    assert seal.finished_result(record) == (RESULT, ())
    assert seal.verify(record) == {}


@pytest.mark.parametrize("result", [None, {"status": "failed"}, {"status": "interrupted"}])
def test_a_run_that_did_not_finish_is_to_be_started(record, result):
    record.restart()
    if result is not None:
        record.write_result(result)
    assert seal.finished_result(record) == (None, ())


@pytest.mark.parametrize("name", [WEIGHTS, "result.json", "evaluation.json", "MANIFEST.json"])
@pytest.mark.parametrize("how", ["changed", "gone"])
def test_what_training_on_from_the_last_checkpoint_makes_is_made_again(record, name, how):
    if how == "gone":
        (record.folder / name).unlink()
    else:
        content = (record.folder / name).read_bytes()
        (record.folder / name).write_bytes(content.replace(b"i", b"j", 1))
    result, sentences = seal.finished_result(record)
    assert result is None
    assert len(sentences) == 1
    assert str(record.folder / name) in sentences[0]
    assert "rebuilt from the last checkpoint" in sentences[0]


@pytest.mark.parametrize("name", ["metrics.jsonl", "events.jsonl", "environment.json", "config.yaml"])
def test_what_nothing_can_make_again_is_told_with_the_result(record, name):
    (record.folder / name).unlink()
    result, sentences = seal.finished_result(record)
    assert result == RESULT
    assert sentences == (f"{record.folder / name} is missing; it cannot be rebuilt.",)


def test_lines_that_were_added_afterwards_are_no_damage(record):
    record.add_event({"event": "storage_back"})
    assert seal.verify(record) == {}


def test_a_run_that_ended_before_its_report_was_made_has_not_finished(record):
    record.file(layout.MANIFEST).unlink()
    result, (sentence,) = seal.finished_result(record)
    assert result is None
    assert "MANIFEST.json is missing" in sentence
