"""How gradients become weights: SGD, AdamW or Muon, and the learning rate's way through a run."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from trainer.config import OptimizerConfig


def build(model: nn.Module, config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """The optimizers of a model; each remembers its peak learning rate as ``peak_lr`` in its groups."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if config.name == "adamw":
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(parameters, config.lr, weight_decay=config.weight_decay, fused=True)
        ]
    elif config.name == "sgd":
        optimizers = [_sgd(parameters, config)]
    else:
        *hidden, last = [parameter for parameter in parameters if parameter.ndim >= 2]
        rest = [last, *(parameter for parameter in parameters if parameter.ndim < 2)]
        optimizers = [_sgd(rest, config)]
        if hidden:  # a network of one layer has none
            optimizers += [Muon(hidden, config.muon_lr, config.momentum, config.weight_decay)]
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["peak_lr"] = group["lr"]
    return optimizers


def _sgd(parameters: list[nn.Parameter], config: OptimizerConfig) -> torch.optim.SGD:
    return torch.optim.SGD(
        parameters,
        config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        fused=True,
    )


def schedule(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """Share of the peak learning rate at 0-based step `step` of `total_steps`."""
    warmup_steps = config.warmup * total_steps
    rising = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    if config.schedule == "constant":
        return rising
    falling = (total_steps - step) / max(1.0, total_steps - warmup_steps)
    return min(rising, falling, 1.0)


class Muon(torch.optim.Optimizer):
    """Momentum whose update for each matrix is replaced by the nearest orthogonal one.

    After Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024). In float32, since
    torch.optim.Muon computes in bfloat16, which processors without matrix units emulate slowly, and for kernels too:
    [out, in, h, w] is taken as [out, in * h * w].
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float, weight_decay: float):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override] # noqa: ARG002 # torch's signature
        """Update every matrix once from its gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, float]) -> None:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"].mul_(group["momentum"]).add_(gradient)
        update = orthogonalised(gradient.add(momentum, alpha=group["momentum"]).flatten(1))
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        # the step keeps one size for all shapes: that of an orthogonal matrix of these sides
        scale = max(1.0, parameter.shape[0] / update.shape[1]) ** 0.5
        parameter.add_(update.view_as(parameter), alpha=-group["lr"] * scale)
        if parameter.ndim > 2:  # kernels keep the norm of an orthogonal matrix, as in Jordan's airbench: 0.3 points
            parameter.mul_(len(parameter) ** 0.5 / parameter.norm())


def orthogonalised(matrix: Tensor, steps: int = 3) -> Tensor:
    """The orthogonal matrix nearest to `matrix`, [rows, columns], roughly: its singular values go near to 1.

    `steps` of the quintic Newton-Schulz iteration with Jordan's coefficients; 3 are as good as 5 here (measured).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
