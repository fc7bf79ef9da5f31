# SPDX-License-Identifier: Apache-2.0
"""The projector between vision tower and language model, as passed to strategies."""

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
        """Return the result of `compute`, a function of the weights that is called once and cached."""
        if name not in self._derived:
            self._derived[name] = compute()
        return self._derived[name]

    def after_layer_norm(self, weight: Tensor, bias: Tensor, eps: float) -> LinearForm:
        """Return the form of a layer norm of each patch row followed by this form, for centred rows.

        A layer norm is an RMS norm of the centred row. The new form's first weights subtract the mean as
        well, so that its Jacobian is that of the projector.
        """
        weight, bias = weight.detach().float(), bias.detach().float()
        W1 = self.W1.view(len(self.W1), -1, len(weight))
        b1 = (W1 * bias).sum((1, 2)) + (0 if self.b1 is None else self.b1)
        W1 = W1 * weight
        W1 = (W1 - W1.mean(-1, keepdim=True)).flatten(1)
        return LinearForm(W1, b1, self.act, self.W2, self.b2, torch.ones_like(weight), eps)

    def hidden(self, rows: Tensor) -> Tensor:
        """Return pre-activations W1 norm(x) + b1, (N, D_v) or (N, P, D_v) -> (N, D_h), in float32."""
        if self.norm_weight is not None:
            rms = (rows.square().mean(-1, keepdim=True) + self.norm_eps).sqrt()
            rows = rows / rms * self.norm_weight
        return nn.functional.linear(rows.flatten(1), self.W1, self.b1)

    def __call__(self, rows: Tensor) -> Tensor:
        """Project rows, (N, D_v) or (N, P, D_v) -> (N, D)."""
        return nn.functional.linear(self.act(self.hidden(rows)), self.W2, self.b2)


class Projector:
    """A row-wise map from tower features to language-model inputs, callable in float32.

    Parameters
    ----------
    function
        Maps (N, D_v) or (N, P, D_v) float32 rows to (N, D) rows, each row independently.
    linear_form
        Called for closed forms; returns the weights as a `LinearForm`, or None if the projector has a
        different structure or its weights cannot be read.
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
        """Return the weights for closed forms, or None; read once and cached."""
        if self._form is None and self._linear_form is not None:
            self._form = self._linear_form()
        return self._form

    @classmethod
    def wrap(cls, source: Projector | LinearForm | Callable[[Tensor], Tensor]) -> Projector:
        """Return a Projector for a Projector, a LinearForm, a module or a function.

        An `nn.Sequential` of linear, activation, linear gets its closed form. Modules run with float32
        copies of their weights, so that half-precision models are scored in float32.
        """
        if isinstance(source, Projector):
            return source
        if isinstance(source, LinearForm):
            return cls(source, lambda: source)
        if isinstance(source, nn.Module):
            return cls(in_float32(source), lambda: _sequential_form(source))
        return cls(source)


def weights_mark(module: nn.Module) -> tuple[object, ...]:
    """Return a value that changes when a weight or a setting of `module` changes.

    Weights are compared by address, by torch's version counter, and by their sum for changes that torch does
    not count; submodules by their plain attributes, such as those that enable LoRA adapters.

    Raises
    ------
    IncompatibleError
        When the weights cannot be read: offloaded, sharded, or on the meta device.
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
    values = torch.stack([total.to(sums[0].device) for total in sums]).tolist() if sums else []
    versions = [(w.data_ptr(), None if w.is_inference() else w._version) for w in weights]
    return tuple(versions), tuple(values), tuple(settings)


def _can_sum(weight: Tensor) -> bool:
    return type(weight) is Tensor and weight.is_floating_point() and not weight.is_meta


def in_float32(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return a function that runs `module` in float32, with dequantised copies of its weights.

    Raises
    ------
    IncompatibleError
        On the first call of the function, when the weights cannot be read.
    """
    cached: list[tuple[nn.Module, dict[str, Tensor]]] = []

    def run(rows: Tensor) -> Tensor:
        if not cached:
            check_at_hand(module)
            plain = dequantised(module)
            named = {**dict(plain.named_parameters()), **dict(plain.named_buffers())}
            weights = {k: v.detach().float() if v.is_floating_point() else v for k, v in named.items()}
            cached.append((plain, weights))
        with evaluating(cached[0][0]):
            result: Tensor = torch.func.functional_call(*cached[0], (rows,))
        return result

    return run


def two_layer_form(first: nn.Module, act: Callable[[Tensor], Tensor], second: nn.Module) -> LinearForm | None:
    """Return the form of linear -> activation -> linear, or None if a layer's weights cannot be read."""
    weights1, weights2 = linear_weights(first), linear_weights(second)
    if weights1 is None or weights2 is None:
        return None
    return LinearForm(*weights1, act, *weights2)


def _sequential_form(module: nn.Module) -> LinearForm | None:
    """Return the form of an nn.Sequential(Linear, activation, Linear), or None for other modules."""
    if not isinstance(module, nn.Sequential) or len(module) != 3 or list(module[1].parameters()):
        return None
    return two_layer_form(module[0], module[1], module[2])
