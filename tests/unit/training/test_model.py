import pytest
import torch
from torch import nn

from trainer import resolve
from trainer.training import model, optimizer


def network(*settings, recipe=None):
    return model.build(resolve.load(recipe, None, settings).model)


@pytest.mark.parametrize("recipe", ["seed", "fast", "accurate"])
def test_every_recipe_maps_images_to_ten_logits(recipe):
    assert network(recipe=recipe)(torch.zeros(3, 784)).shape == (3, 10)


def test_the_seed_network_is_that_of_rays_example():
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


def test_whitening_makes_patches_uncorrelated_with_unit_variance():
    torch.manual_seed(0)
    noise = torch.randn(500, 784)
    images = noise + 0.5 * noise.roll(1, dims=1)  # neighbours are alike, as in pictures
    cnn = network("model.name=cnn")
    model.whiten(cnn, images)
    outputs = cnn.whitening(images.view(-1, 1, 28, 28)).transpose(0, 1).flatten(1)
    half = len(outputs) // 2
    assert torch.equal(outputs[:half], -outputs[half:])
    second_moments = outputs[:half] @ outputs[:half].T / outputs.shape[1]
    assert torch.allclose(second_moments, torch.eye(half), atol=0.1)


def test_the_whitening_layer_is_not_trained():
    torch.manual_seed(0)
    cnn, images = network("model.name=cnn"), torch.randn(64, 784)
    model.whiten(cnn, images)
    before = {name: tensor.clone() for name, tensor in cnn.state_dict().items()}
    settings = resolve.load("accurate", None, []).optimizer
    cnn(images).square().sum().backward()
    optimizer.step(optimizer.build(cnn, settings), cnn, None)
    changed = [name for name, tensor in cnn.state_dict().items() if not torch.equal(tensor, before[name])]
    assert "features.0.weight" not in changed
    assert len(changed) == len(before) - 1


def test_build_whitens_a_cnn_from_images_and_leaves_other_weights():
    settings = resolve.load(None, None, ["model.name=cnn"]).model
    images = torch.randn(64, 784)
    torch.manual_seed(0)
    expected = model.build(settings)
    model.whiten(expected, images)
    torch.manual_seed(0)
    built = model.build(settings, images)
    assert [name for name, t in built.state_dict().items() if not torch.equal(t, expected.state_dict()[name])] == []


def test_build_takes_images_for_a_network_that_does_not_use_them():
    assert model.build(resolve.load("seed").model, torch.randn(4, 784))(torch.zeros(3, 784)).shape == (3, 10)
