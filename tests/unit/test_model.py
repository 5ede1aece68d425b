import pytest
import torch
from torch import nn

from trainer import model, resolve


def network(*settings, recipe=None):
    return model.build(resolve.load(recipe, None, settings).model)


@pytest.mark.parametrize("recipe", ["seed", "fast", "accurate"])
def test_every_recipe_maps_images_to_ten_logits(recipe):
    assert network(recipe=recipe)(torch.zeros(3, 784)).shape == (3, 10)


def test_the_seed_network_is_the_examples():
    kinds = [type(layer) for layer in network(recipe="seed")]
    assert kinds == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear, nn.ReLU, nn.Dropout, nn.Linear, nn.ReLU]
    assert sum(parameter.numel() for parameter in network(recipe="seed").parameters()) == 669_706


def test_without_relu_output_logits_may_be_negative():
    torch.manual_seed(0)
    images = torch.randn(64, 784)
    assert network("model.relu_output=false")(images).min() < 0
    assert network("model.relu_output=true")(images).min() >= 0


def test_dropout_of_zero_adds_no_layer():
    assert not any(isinstance(layer, nn.Dropout) for layer in network("model.dropout=0.0"))


def test_the_cnn_sees_a_moved_pixel():
    torch.manual_seed(0)
    cnn = network("model.name=cnn")
    one, other = torch.zeros(1, 784), torch.zeros(1, 784)
    one[0, 5], other[0, 700] = 1.0, 1.0
    assert not torch.allclose(cnn(one), cnn(other))


def test_an_empty_batch_passes_through():
    assert network("model.name=cnn")(torch.zeros(0, 784)).shape == (0, 10)
