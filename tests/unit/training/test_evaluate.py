import base64
import contextlib

import pytest
import torch
from torch import nn

from trainer import resolve
from trainer.errors import StorageError
from trainer.training import checkpointer, evaluate, model
from trainer.training.data import Samples

CONFIG = resolve.load("seed")


@pytest.fixture
def samples():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2300, 784), dtype=torch.uint8, generator=generator)
    return Samples(images, torch.randint(10, (2300,), generator=generator))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return model.build(CONFIG.model)


def score(network, samples):
    return evaluate.score(network, samples, CONFIG.data, contextlib.nullcontext())


def test_scores_equal_those_of_torch_over_all_samples_at_once(network, samples):
    scores, _ = score(network, samples)
    network.eval()
    logits = network((samples.images.float() / 255 - 0.5) / 0.5)
    assert scores.loss == pytest.approx(nn.functional.cross_entropy(logits, samples.labels).item(), rel=1e-5)
    assert scores.accuracy == pytest.approx((logits.argmax(1) == samples.labels).float().mean().item())
    assert scores.samples == 2300


def test_scores_of_uneven_shares_add_up_to_the_whole(network, samples):
    whole, _ = score(network, samples)
    parts = [score(network, samples[rows])[0] for rows in (slice(0, 7), slice(7, 1500), slice(1500, None))]
    total = parts[0] + parts[1] + parts[2]
    assert torch.equal(total.confusion, whole.confusion)
    assert total.loss == pytest.approx(whole.loss, rel=1e-6)


def test_scoring_switches_dropout_off_and_on_again(network, samples):
    network.train()
    first, _ = score(network, samples)
    second, _ = score(network, samples)
    assert first.loss == second.loss
    assert network.training


def test_an_empty_share_scores_nothing(network, samples):
    scores, log_probabilities = score(network, samples[0:0])
    assert (scores.samples, tuple(log_probabilities.shape)) == (0, (0, 10))


def test_worst_mistakes_are_sorted_by_confidence_with_their_pixels(network, samples):
    _, log_probabilities = score(network, samples)
    mistakes = evaluate.worst_mistakes(samples, torch.arange(2300), log_probabilities)
    confidences = [mistake["confidence"] for mistake in mistakes]
    assert len(mistakes) == evaluate.MISTAKES
    assert confidences == sorted(confidences, reverse=True)
    assert all(mistake["label"] != mistake["prediction"] for mistake in mistakes)
    worst = mistakes[0]
    assert base64.b64decode(worst["pixels"]) == samples.images[worst["index"]].numpy().tobytes()


def test_saved_weights_load_bit_for_bit(network, tmp_path):
    checkpointer.save_weights(network, str(tmp_path / "model.safetensors"))
    loaded = evaluate.load_weights(str(tmp_path / "model.safetensors"), CONFIG)
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_missing_weights_are_refused(tmp_path):
    with pytest.raises(StorageError, match="does not exist: the run has no final weights"):
        evaluate.load_weights(str(tmp_path / "model.safetensors"), CONFIG)


def test_truncated_weights_are_refused(network, tmp_path):
    file = tmp_path / "model.safetensors"
    checkpointer.save_weights(network, str(file))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(StorageError, match="is not a complete safetensors file"):
        evaluate.load_weights(str(file), CONFIG)


def test_weights_of_another_network_are_refused_by_tensor_and_shape(network, tmp_path):
    checkpointer.save_weights(network, str(tmp_path / "w.safetensors"))
    with pytest.raises(StorageError, match=r"0\.bias is \(512,\), but the config expects \(64,\)"):
        evaluate.load_weights(str(tmp_path / "w.safetensors"), resolve.load("seed", None, ["model.hidden=[64]"]))
