"""How gradients become weights: SGD, AdamW or Muon, and the learning-rate schedule."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from trainer.config import OptimizerConfig


def build(model: nn.Module, config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """Return the optimizers of a model; each group keeps its peak learning rate as ``initial_lr``, as in PyTorch."""
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
        if hidden:  # a network of one layer has no hidden matrix
            optimizers += [Muon(hidden, config.muon_lr, config.momentum, config.weight_decay)]
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["initial_lr"] = group["lr"]
    return optimizers


def set_lr(optimizers: list[torch.optim.Optimizer], config: OptimizerConfig, step: int, total_steps: int) -> None:
    """Set every group's learning rate for 0-based step `step` of `total_steps`."""
    lr_scale = schedule(config, step, total_steps)
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = group["initial_lr"] * lr_scale


def step(optimizers: list[torch.optim.Optimizer], network: nn.Module, clip_norm: float | None) -> None:
    """Update the weights of a network from its gradients, and clear the gradients.

    Where `clip_norm` is given, the gradients are first scaled to that total norm at most.
    """
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
    for optimizer in optimizers:
        optimizer.step()
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None  # 15 µs a step less than network.zero_grad(), which walks the modules


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
    """Return the share of the peak learning rate, 0..1, at 0-based step `step` of `total_steps`."""
    warmup_steps = config.warmup * total_steps
    rising = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    if config.schedule == "constant":
        return rising
    falling = (total_steps - step) / max(1.0, total_steps - warmup_steps)
    return min(rising, falling, 1.0)


class Muon(torch.optim.Optimizer):
    """SGD with momentum that replaces each matrix's update by the nearest orthogonal matrix.

    After Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024). It differs from
    torch.optim.Muon in two ways: it computes in float32, since CPUs without bfloat16 units emulate bfloat16 slowly,
    and it takes convolution kernels too, [out, in, h, w] as [out, in * h * w].
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float, weight_decay: float):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override] # noqa: ARG002 # PyTorch's signature
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
        # gives the step of every shape the size that an orthogonal matrix of that shape has
        scale = max(1.0, parameter.shape[0] / update.shape[1]) ** 0.5
        parameter.add_(update.view_as(parameter), alpha=-group["lr"] * scale)
        # kernels keep the norm of an orthogonal matrix, as in Jordan's airbench: 0.3 points of accuracy
        if parameter.ndim > 2:
            parameter.mul_(len(parameter) ** 0.5 / parameter.norm())


def orthogonalised(matrix: Tensor, steps: int = 3) -> Tensor:
    """Return roughly the orthogonal matrix nearest to `matrix`, [rows, columns]: all its singular values near 1.

    Takes `steps` steps of the quintic Newton-Schulz iteration with Jordan's coefficients; 3 give the same accuracy as 5
    here (measured).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
