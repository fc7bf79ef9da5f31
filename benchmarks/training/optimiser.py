# SPDX-License-Identifier: Apache-2.0
"""Muon for hidden matrices, AdamW for all other parameters, and one cosine schedule for both."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import nn

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan 2024, "Muon": quintic iteration
_NEWTON_SCHULZ_STEPS = 5


def schedule(progress: float, *, floor: float, warm_up: float = 0.03) -> float:
    """Return the learning-rate factor at a progress in [0, 1]: linear warm-up, cosine decay to `floor`."""
    if progress < warm_up:
        return progress / warm_up
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates; matrices of the same shape are processed as one batch."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.02,
    ) -> None:
        super().__init__(list(parameters), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # without a closure
        """Perform one optimisation step."""
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape[weight.shape].append(weight)
            for shape, weights in by_shape.items():
                gradient = torch.stack([weight.grad for weight in weights])
                state = self.state[weights[0]]
                average = state.setdefault("momentum", torch.zeros_like(gradient))
                average.lerp_(gradient, 1 - group["momentum"])
                update = _orthogonal(gradient.lerp(average, group["momentum"]))
                size = -group["lr"] * math.sqrt(max(1.0, shape[0] / shape[1]))
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(weights, list(update.unbind()), alpha=size)


def _orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Orthogonalise a batch of matrices: move all singular values close to 1."""
    a, b, c = _NEWTON_SCHULZ
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    x = (
        x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    ).bfloat16()  # as in the original Muon: the sign of the update is enough
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.float()
    return x.mT if is_tall else x


class Optimiser:
    """The two optimisers of a training phase, stepped together."""

    def __init__(
        self,
        hidden: Iterable[nn.Parameter],
        other: Iterable[nn.Parameter],
        projector: Iterable[nn.Parameter] = (),
        *,
        muon_lr: float,
        adam_lr: float,
        projector_lr: float = 0.0,
        projector_decay: float = 0.0,
    ) -> None:
        self._other = [*other, *projector]
        groups = [{"params": list(other), "lr": adam_lr, "weight_decay": 0.0}]
        if projector_lr:
            # AdamW with weight decay, as LLaVA's projector is trained: Muon would flatten its Jacobian.
            groups.append({"params": list(projector), "lr": projector_lr, "weight_decay": projector_decay})
        self._optimisers = [Muon(hidden, muon_lr), torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)]
        self._rates = [[group["lr"] for group in opt.param_groups] for opt in self._optimisers]

    def step(self, loss: torch.Tensor, factor: float) -> None:
        """Backpropagate the loss and perform one step, with all learning rates times a factor."""
        for optimiser, rates in zip(self._optimisers, self._rates, strict=True):
            optimiser.zero_grad()
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._other, 1.0)
        for optimiser in self._optimisers:
            optimiser.step()


def split_parameters(*modules: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Sort parameters into hidden matrices (for Muon) and all others (embeddings, heads, norms, biases)."""
    hidden: list[nn.Parameter] = []
    other: list[nn.Parameter] = []
    for module in modules:
        for name, weight in module.named_parameters():
            is_hidden = weight.ndim == 2 and "embed" not in name and "head" not in name
            (hidden if is_hidden else other).append(weight)
    return hidden, other
