import pytest
import torch
from torch import nn

from trainer import resolve
from trainer.training import model, optimizer


def settings(*overrides):
    return resolve.load(None, None, [f"optimizer.{override}" for override in overrides]).optimizer


def test_the_linear_schedule_rises_over_the_warmup_and_ends_near_zero():
    rates = [optimizer.schedule(settings("warmup=0.2", "schedule=linear"), step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.05)
    assert max(rates) == 1.0
    assert rates.index(1.0) == 19
    assert rates[-1] == pytest.approx(1 / 80)
    assert all(0 < rate <= 1 for rate in rates)


def test_the_constant_schedule_without_warmup_is_constant():
    assert {optimizer.schedule(settings("warmup=0.0", "schedule=constant"), step, 10) for step in range(10)} == {1.0}


def test_every_parameter_belongs_to_exactly_one_optimizer():
    for name in ("sgd", "adamw", "muon"):
        for kind in ("mlp", "cnn"):
            network = model.build(resolve.load(None, None, [f"model.name={kind}"]).model)
            built = optimizer.build(network, settings(f"name={name}"))
            held = [id(p) for one in built for group in one.param_groups for p in group["params"]]
            assert sorted(held) == sorted(id(p) for p in network.parameters() if p.requires_grad)


def test_muon_takes_the_matrices_except_the_last_layer():
    network = model.build(resolve.load(None, None, ["model.hidden=[32,16]"]).model)
    sgd, muon = optimizer.build(network, settings("name=muon", "lr=0.3", "muon_lr=0.02"))
    assert [tuple(p.shape) for p in muon.param_groups[0]["params"]] == [(32, 784), (16, 32)]
    assert (10, 16) in [tuple(p.shape) for p in sgd.param_groups[0]["params"]]
    assert (sgd.param_groups[0]["initial_lr"], muon.param_groups[0]["initial_lr"]) == (0.3, 0.02)


@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (40, 40)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(optimizer.orthogonalised(matrix, steps=5))
    assert float(values.min()) > 0.4
    assert float(values.max()) < 1.4


def test_a_scaled_gradient_gives_the_same_muon_step():
    steps = []
    for scale in (1.0, 1000.0):
        weight = nn.Parameter(torch.zeros(20, 30))
        weight.grad = scale * torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
        optimizer.Muon([weight], lr=0.1, momentum=0.9, weight_decay=0.0).step()
        steps.append(weight.detach().clone())
    assert torch.allclose(steps[0], steps[1], atol=1e-5)


def test_muons_weight_decay_is_scaled_by_the_learning_rate():
    weight = nn.Parameter(torch.ones(4, 4))
    weight.grad = torch.zeros(4, 4)
    optimizer.Muon([weight], lr=0.1, momentum=0.9, weight_decay=0.5).step()
    assert torch.allclose(weight, torch.full((4, 4), 0.95))


def test_muon_keeps_the_norm_of_kernels_but_not_of_matrices():
    kernel, matrix = nn.Parameter(torch.randn(16, 4, 3, 3)), nn.Parameter(torch.randn(16, 36))
    for weight in (kernel, matrix):
        weight.grad = torch.randn_like(weight)
    optimizer.Muon([kernel, matrix], lr=0.1, momentum=0.9, weight_decay=0.0).step()
    assert kernel.norm().item() == pytest.approx(4.0)
    assert matrix.norm().item() > 10


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_each_optimizer_fits_a_small_problem(name):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 10))
    images, labels = torch.randn(64, 8), torch.randint(10, (64,))
    optimizers = optimizer.build(network, settings(f"name={name}", "lr=0.03", "muon_lr=0.02"))
    losses = []
    for _ in range(60):
        loss = nn.functional.cross_entropy(network(images), labels)
        losses.append(loss.item())
        loss.backward()
        optimizer.step(optimizers, network, None)
    assert losses[-1] < 0.8 * losses[0]


def test_muon_takes_networks_of_one_layer_and_of_narrow_layers():
    for hidden in ("[]", "[10]", "[3,3]"):
        network = model.build(resolve.load("fast", None, [f"model.hidden={hidden}"]).model)
        network(torch.randn(4, 784)).sum().backward()
        optimizer.step(optimizer.build(network, resolve.load("fast").optimizer), network, None)


def test_set_lr_scales_each_group_from_its_peak():
    network = model.build(resolve.load(None, None, ["model.hidden=[32]"]).model)
    config = settings("name=muon", "lr=0.3", "muon_lr=0.02", "warmup=0.2", "schedule=linear")
    sgd, muon = optimizers = optimizer.build(network, config)
    for step in (4, 19, 99):
        optimizer.set_lr(optimizers, config, step, 100)
        scale = optimizer.schedule(config, step, 100)
        assert (sgd.param_groups[0]["lr"], muon.param_groups[0]["lr"]) == (0.3 * scale, 0.02 * scale)


def test_step_clips_gradients_and_clears_them():
    network = nn.Linear(4, 4, bias=False)
    network.weight.grad = torch.full((4, 4), 100.0)
    before = network.weight.detach().clone()
    optimizer.step([torch.optim.SGD(network.parameters(), 1.0)], network, 1.0)
    assert network.weight.grad is None
    assert (before - network.weight).norm().item() == pytest.approx(1.0)
