import pytest
import torch
from torch import nn

from trainer import resolve
from trainer.training import model, optimizer
from trainer.training.state import capture, from_files, restore, to_files

CPU = torch.device("cpu")


def training(name, seed=0):
    """Return a small network with dropout, its optimizers, and a function that trains it one step."""
    settings = ["model.hidden=[16]", "model.dropout=0.5", f"optimizer.name={name}", "optimizer.lr=0.01"]
    config = resolve.load(None, None, settings)
    torch.manual_seed(seed)
    network = model.build(config.model)
    optimizers = optimizer.build(network, config.optimizer)

    def step():
        loss = nn.functional.cross_entropy(network(torch.rand(8, 784)), torch.randint(10, (8,)))
        loss.backward()
        optimizer.step(optimizers, network, None)

    return network, optimizers, step


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_training_resumes_bitwise_from_a_state(name):
    network, optimizers, step = training(name)
    for _ in range(3):
        step()
    files = to_files(capture(network, optimizers, CPU, 1))
    for _ in range(3):
        step()
    expected = capture(network, optimizers, CPU, 1)
    network, optimizers, step = training(name, seed=9)  # another process
    assert restore(from_files(files), network, optimizers, CPU, 0)
    for _ in range(3):
        step()
    resumed = capture(network, optimizers, CPU, 1)
    assert resumed.keys() == expected.keys()
    assert [key for key in resumed if not torch.equal(resumed[key], expected[key])] == []


def test_later_steps_do_not_change_a_captured_state():
    network, optimizers, step = training("muon")
    step()
    state = capture(network, optimizers, CPU, 1)
    before = to_files(state)
    step()
    assert to_files(state) == before


def test_restore_returns_false_for_a_rank_without_rng_state():
    network, optimizers, step = training("sgd")
    step()
    assert not restore(capture(network, optimizers, CPU, 1), network, optimizers, CPU, 1)
