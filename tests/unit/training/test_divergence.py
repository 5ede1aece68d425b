import math

import pytest
import torch
from torch import nn

from trainer.errors import DivergedError, ExitCode
from trainer.training import divergence


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_divergence(loss):
    with pytest.raises(DivergedError, match=f"The loss became {loss} in epoch 2, by step 31") as caught:
        divergence.check(nn.Linear(2, 2), loss, 2, 31)
    assert caught.value.step == 31
    assert caught.value.exit_code is ExitCode.DIVERGED
    assert "lower optimizer.lr" in caught.value.fix


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_weight_that_is_not_finite_is_divergence(value):
    network = nn.Linear(2, 2)
    with torch.no_grad():
        network.weight[1, 0] = value
    with pytest.raises(DivergedError, match="A weight became NaN or infinite in epoch 2, by step 31"):
        divergence.check(network, 0.5, 2, 31)


def test_finite_loss_and_weights_pass():
    divergence.check(nn.Linear(2, 2), 0.5, 2, 31)
