# SPDX-License-Identifier: Apache-2.0
"""The projector between vision tower and language model, as strategies see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .at_hand import check_at_hand
from .weights import dequantised, evaluating
from .weights import linear_weights as linear_weights


@dataclass(frozen=True)
class LinearForm:
    """Weights of a projector of the shape norm -> linear -> activation -> linear, all in float32.

    For rows x of P patches of width D_v each (P = 1 where patches are not merged):
    ``M(x) = W2 act(W1 norm(x) + b1) + b2`` with W1 (D_h, P * D_v) and W2 (D, D_h). `norm_weight` (D_v,)
    and `norm_eps` describe an RMS norm of each patch row on its own; `norm_weight` is None without one.
    """

    W1: Tensor
    b1: Tensor | None
    act: Callable[[Tensor], Tensor]
    W2: Tensor
    b2: Tensor | None
    norm_weight: Tensor | None = None
    norm_eps: float = 1e-6
    _derived: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def derived(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """Return what `compute` makes of the weights, computed once and kept as long as this form is."""
        if name not in self._derived:
            self._derived[name] = compute()
        return self._derived[name]

    def hidden(self, rows: Tensor) -> Tensor:
        """Pre-activations W1 norm(x) + b1.

        Parameters
        ----------
        rows
            (N, D_v) or (N, P, D_v), float32. Returns (N, D_h).
        """
        if self.norm_weight is not None:
            rms = (rows.square().mean(-1, keepdim=True) + self.norm_eps).sqrt()
            rows = rows / rms * self.norm_weight
        return nn.functional.linear(rows.flatten(1), self.W1, self.b1)

    def __call__(self, rows: Tensor) -> Tensor:
        """The projector itself, (N, D_v) or (N, P, D_v) -> (N, D)."""
        return nn.functional.linear(self.act(self.hidden(rows)), self.W2, self.b2)


class Projector:
    """A row-wise map from tower features to language-model inputs, callable in float32.

    Parameters
    ----------
    function
        Takes (N, D_v) or (N, P, D_v) float32 rows and returns (N, D) rows; each row on its own.
    linear_form
        Called when a closed form is wanted; returns the weights as a `LinearForm`, or None where the
        projector has no such shape (or its weights cannot be read).
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        linear_form: Callable[[], LinearForm | None] | None = None,
    ) -> None:
        self._function = function
        self._linear_form = linear_form
        self._form: LinearForm | None = None

    def __call__(self, rows: Tensor) -> Tensor:
        """Project rows, (N, D_v) or (N, P, D_v) -> (N, D), in float32."""
        return self._function(rows.float()).float()

    def linear_form(self) -> LinearForm | None:
        """Return the weights for closed forms, or None; read once and kept."""
        if self._form is None and self._linear_form is not None:
            self._form = self._linear_form()
        return self._form

    @classmethod
    def wrap(cls, given: Projector | LinearForm | Callable[[Tensor], Tensor]) -> Projector:
        """Make a Projector of whatever stands for one: a Projector, a LinearForm, a module, a function.

        An `nn.Sequential` of linear, activation, linear gets its closed form; modules run with float32
        copies of their weights, so that half-precision models are scored in float32.
        """
        if isinstance(given, Projector):
            return given
        if isinstance(given, LinearForm):
            return cls(given, lambda: given)
        if isinstance(given, nn.Module):
            return cls(in_float32(given), lambda: _sequential_form(given))
        return cls(given)


def weights_mark(module: nn.Module) -> tuple[object, ...]:
    """Return what is another value once a weight of `module`, or how its parts are set, has changed.

    Weights are told apart by where they lie, by how often torch saw them changed, and by a sum over them for
    what it did not see; parts by their plain attributes, such as those that switch adapters on and off.

    Raises
    ------
    IncompatibleError
        When they are not at hand: offloaded, sharded, or on the meta device.
    """
    check_at_hand(module)
    weights = [weight.detach() for weight in (*module.parameters(), *module.buffers())]
    sums = [w.sum(dtype=torch.float32) for w in weights if _can_sum(w)]
    settings = [
        (name, repr(value))
        for part in module.modules()
        for name, value in vars(part).items()
        if name != "training" and isinstance(value, (bool, int, float, str, list))
    ]
    contents = torch.stack([one.to(sums[0].device) for one in sums]).tolist() if sums else []
    changed = [(w.data_ptr(), None if w.is_inference() else w._version) for w in weights]
    return tuple(changed), tuple(contents), tuple(settings)


def _can_sum(weight: Tensor) -> bool:
    return type(weight) is Tensor and weight.is_floating_point() and not weight.is_meta


def in_float32(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return a function that runs `module` in float32, with copies of its weights; quantised ones are read.

    Raises
    ------
    IncompatibleError
        When called, and the weights are not at hand, or those of a quantised layer cannot be read.
    """
    made: list[tuple[nn.Module, dict[str, Tensor]]] = []

    def run(rows: Tensor) -> Tensor:
        if not made:
            check_at_hand(module)
            plain = dequantised(module)
            named = {**dict(plain.named_parameters()), **dict(plain.named_buffers())}
            weights = {k: v.detach().float() if v.is_floating_point() else v for k, v in named.items()}
            made.append((plain, weights))
        with evaluating(made[0][0]):
            result: Tensor = torch.func.functional_call(*made[0], (rows,))
        return result

    return run


def two_layer_form(first: nn.Module, act: Callable[[Tensor], Tensor], second: nn.Module) -> LinearForm | None:
    """Return the form of linear -> activation -> linear, None where a layer's weights cannot be read."""
    one, two = linear_weights(first), linear_weights(second)
    if one is None or two is None:
        return None
    return LinearForm(one[0], one[1], act, two[0], two[1])


def _sequential_form(module: nn.Module) -> LinearForm | None:
    """Return the form of an nn.Sequential(Linear, activation, Linear)."""
    if not isinstance(module, nn.Sequential) or len(module) != 3 or list(module[1].parameters()):
        return None
    return two_layer_form(module[0], module[1], module[2])
