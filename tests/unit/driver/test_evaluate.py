import pytest

from trainer import resolve
from trainer.driver import evaluate
from trainer.errors import StorageError
from trainer.storage import layout, manifest, store
from trainer.storage.record import Record
from trainer.training import checkpointer, data, model
from trainer.training.evaluate import score

CONFIG = resolve.load("fast", None, ["model.hidden=[8]", "precision=fp32"])


@pytest.fixture
def record(tmp_path):
    """A finished run with weights of an untrained network."""
    made = Record(tmp_path / "r1")
    made.create(CONFIG, {})
    facts = checkpointer.save_weights(model.build(CONFIG.model), made.weights)
    made.write_result({"status": "finished"})
    store.write(str(made.file(layout.MANIFEST)), manifest.seal({"format": 1, "files": {layout.WEIGHTS: facts}}))
    return made


def test_weights_of_a_run_are_verified_before_they_are_used(record):
    assert evaluate.weights_of(record) == record.weights
    store.write(record.weights, b"x")
    with pytest.raises(StorageError, match=r"model\.safetensors has 1 bytes .*; run the same `trainer train`"):
        evaluate.weights_of(record)


@pytest.mark.parametrize("tasks", [1, 3])
def test_shards_add_up_to_the_whole_test_set(record, data_folder, tasks):
    shards = [
        evaluate._score_shard(record.weights, CONFIG.model_dump(), data_folder, rank, tasks) for rank in range(tasks)
    ]
    _, test = data.load(data_folder)
    whole, _ = score(model_of(record), test, CONFIG.data, autocast())
    confusion = sum(shard[1] for shard in shards)
    assert confusion.tolist() == whole.confusion.tolist()
    assert float(sum(shard[0] for shard in shards)) == pytest.approx(float(whole.loss_sum))


def test_an_error_of_a_shard_is_its_value(record, data_folder):
    found = evaluate._score_shard(record.weights + ".no", CONFIG.model_dump(), data_folder, 0, 1)
    assert isinstance(found, StorageError)


def model_of(record):
    from trainer.training.evaluate import load_weights

    return load_weights(record.weights, CONFIG)


def autocast():
    import torch

    return torch.autocast("cpu", enabled=False)
