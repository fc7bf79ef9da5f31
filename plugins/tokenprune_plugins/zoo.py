# SPDX-License-Identifier: Apache-2.0
"""ZOO-Prune: sensitivity of the projector, estimated by zeroth-order sampling.

S_i = 1/m sum_j || M(x_i + h u_j) - M(x_i - h u_j) ||_2 / (2 h): how much the output of the projector M
changes when the token's tower feature x_i is perturbed. Kim et al., "ZOO-Prune", CVPR 2026, arXiv 2509.24837,
Eq. 2-3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

import tokenprune
from tokenprune.functional import flatten_equal

CHUNK = 1 << 24  # floats in one block of perturbed hidden rows (64 MB)


@dataclass(frozen=True)
class ZooScorer(tokenprune.Scorer):
    """Sensitivity by central differences along random unit directions, shared by all tokens.

    Always computed in float32: in half precision most of a perturbation of length 0.01 is rounded away. If
    the projector is linear -> activation -> linear, the first layer is applied once to the whole bank of
    directions (exact, half the work); any other projector is called on the perturbed rows.

    Parameters
    ----------
    n_directions
        m, the number of directions.
    step_size
        h, the length of the perturbation.
    seed
        Seed of the generator of the random directions.
    directions
        (m, D_v), directions to use instead of random ones; scaled to unit length unless `unit` is False.
    unit
        Whether to scale directions to unit length, as in the official code; False keeps them Gaussian.
    rank
        Truncate both weights of the projector to this rank by SVD first (the paper's k = 128 on LLaVA-NeXT).
        The last product then costs k instead of D. `zoo-exact` is cheaper and needs no low-rank
        approximation.
    """

    name: ClassVar[str] = "zoo"
    n_directions: int = 64
    step_size: float = 0.01
    seed: int = 0
    directions: Tensor | None = field(default=None, compare=False, repr=False)
    unit: bool = True
    rank: int | None = None
    batched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.n_directions < 1:
            raise tokenprune.OptionError(f"n_directions must be at least 1, got {self.n_directions}")
        if not self.step_size > 0:
            raise tokenprune.OptionError(f"step_size must be positive, got {self.step_size}")
        if self.directions is not None and not isinstance(self.directions, Tensor):
            raise tokenprune.OptionError(f"directions must be a tensor (m, D_v), got {self.directions!r}")
        if self.rank is not None and self.rank < 1:
            raise tokenprune.OptionError(f"rank must be at least 1, got {self.rank}")

    @property
    def needs(self) -> frozenset[str]:
        """The projector and its input."""
        return frozenset({"pre_features", "projector"})

    def bank(self, width: int, device: torch.device) -> Tensor:
        """Return the directions, (m, width) float32."""
        if self.directions is not None:
            if self.directions.shape[-1] != width:
                raise tokenprune.OptionError(
                    f"directions have width {self.directions.shape[-1]}, the projector's input has {width}"
                )
            bank = self.directions.to(device, torch.float32)
        else:
            generator = torch.Generator("cpu").manual_seed(self.seed)  # the same on any device
            shape = (self.n_directions, width)
            bank = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu").to(device)
        return nn.functional.normalize(bank, dim=-1) if self.unit else bank

    @torch.no_grad()
    def score(self, tokens: tokenprune.VisualTokens) -> Tensor:
        """Return the sensitivities S, (N,) or (B, N)."""
        rows: Tensor = tokens.signal("pre_features").float()
        shape = tokens.features.shape[:-1]
        flat = rows.reshape(shape.numel(), *rows.shape[len(shape) :])  # (B N, D_v) or (B N, P, D_v)
        bank = self.bank(flat[0].numel(), flat.device).view(-1, *flat.shape[1:])
        form = tokens.projector.linear_form()
        if form is not None and form.norm_weight is None:
            moves = _moves_through_form(form, flat, bank, self.step_size, self.rank)
        elif self.rank is not None:
            raise tokenprune.IncompatibleError("rank needs a linear -> activation -> linear projector")
        else:
            moves = _moves_through_call(tokens.projector, flat, bank, self.step_size)
        total = torch.zeros(len(flat), dtype=torch.float32, device=flat.device)
        for distances in moves:
            total += distances
        return flatten_equal((total / (2 * self.step_size * len(bank))).view(shape))


def _moves_through_form(
    form: tokenprune.LinearForm, rows: Tensor, bank: Tensor, step: float, rank: int | None
) -> Iterator[Tensor]:
    """Yield || M(x + h u) - M(x - h u) ||, (N,), for each direction: W2 (act(a + h v) - act(a - h v))."""
    first, last = form.W1, form.W2
    if rank is not None:
        first = form.derived(f"zoo first {rank}", lambda: _cut_to_rank(form.W1, rank)[0])
        last = form.derived(f"zoo last {rank}", lambda: _cut_to_rank(form.W2, rank)[1])
    hidden = nn.functional.linear(rows.flatten(1), first, form.b1)  # a = W1 x + b1, (N, D_h)
    for nudge in step * nn.functional.linear(bank.flatten(1), first):  # h v = h W1 u, (D_h,)
        change = form.act(hidden + nudge) - form.act(hidden - nudge)
        yield torch.linalg.vector_norm(nn.functional.linear(change, last), dim=-1)


def _cut_to_rank(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Truncate to the largest singular values: return the matrix, and S V^T, which gives the same norms."""
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    short = s[:rank, None] * v[:rank]
    return u[:, :rank] @ short, short


def _moves_through_call(
    projector: tokenprune.Projector, rows: Tensor, bank: Tensor, step: float
) -> Iterator[Tensor]:
    """Yield sums of the same norms, from calls of the projector on one block of perturbed rows at a time."""
    for nudges in torch.split(bank, max(1, CHUNK // rows.numel())):
        plus = (rows.unsqueeze(0) + step * nudges.unsqueeze(1)).flatten(0, 1)  # (m N, ...)
        minus = (rows.unsqueeze(0) - step * nudges.unsqueeze(1)).flatten(0, 1)
        moved = torch.linalg.vector_norm(projector(plus) - projector(minus), dim=-1)
        yield moved.view(len(nudges), len(rows)).sum(0)


@tokenprune.hookimpl
def tokenprune_scorers() -> list[type[tokenprune.Scorer]]:
    """Return the scorer class."""
    return [ZooScorer]


@tokenprune.hookimpl
def tokenprune_methods() -> list[tokenprune.Method]:
    """Return the paper's method: sensitivity times max-min diversity."""
    return [
        tokenprune.Method(
            name="zoo-prune",
            title="ZOO-Prune: sampled projector sensitivity x diversity",
            scorer="zoo",
            selector="diverse",
            scope="tile",
            newlines="drop",
            paper="arXiv 2509.24837 (CVPR 2026)",
            deviations=("sensitivities in float32; the official code takes differences in half precision",),
        )
    ]
