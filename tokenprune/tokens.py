# SPDX-License-Identifier: Apache-2.0
"""The visual tokens of an image, as passed to strategies."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .errors import IncompatibleError
from .layout import Layout as Layout
from .projector import Projector
from .signals import SIGNALS


class VisualTokens:
    """The visual tokens of one image (or video), with signals that are computed on first use.

    Parameters
    ----------
    features
        (N, D), the rows that would enter the language model; or (B, N, D), a stack of B images of equal
        layout, for strategies with `batched = True` (signals then have the same leading axis).
    signals
        Name -> tensor, or a callable without arguments that computes it on first use. Functions
        (`projector`, `attention_rows` ...; see `tokenprune.signals`) are passed to strategies themselves.
    layout
        Positions of the tokens in the image; by default a single row of N tokens.
    layer
        At the decoder stage, the layer before which these tokens are cut, counted from 0.

    Raises
    ------
    IncompatibleError
        When `features` is not (N, D) or (B, N, D), or the layout has a different number of tokens.
    """

    def __init__(
        self,
        features: Tensor,
        signals: Mapping[str, Any] | None = None,
        layout: Layout | None = None,
        layer: int | None = None,
    ) -> None:
        if not isinstance(features, Tensor) or features.ndim not in (2, 3):
            got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise IncompatibleError(f"features must be a tensor (N, D) or (B, N, D), got {got}")
        self.features = features
        self.layout = Layout((1, 1, features.shape[-2])) if layout is None else layout
        if len(self.layout) != len(self):
            raise IncompatibleError(
                f"the layout has {len(self.layout)} tokens, but there are features of {len(self)}"
            )
        self._sources: dict[str, Any] = dict(signals or {})
        self._computed: dict[str, Any] = {}
        self.layer = layer

    def __len__(self) -> int:
        """Number of visual tokens of one image, N."""
        return self.features.shape[-2]

    @property
    def is_batch(self) -> bool:
        """Whether this is a stack of images."""
        return self.features.ndim == 3

    @property
    def cut_layer(self) -> int:
        """The decoder layer before which these tokens are cut, for strategies that require it.

        Raises
        ------
        IncompatibleError
            When no layer was given.
        """
        if self.layer is None:
            raise IncompatibleError(
                "a strategy needs the decoder layer before which the cut is made, and none was given; "
                "pass it: method.select(tokens, keep, layer=2) or VisualTokens(..., layer=2)"
            )
        return self.layer

    def before_layer(self, layer: int) -> VisualTokens:
        """Return these tokens with the given `layer`; they share the signals computed so far."""
        tokens = VisualTokens(self.features, self._sources, self.layout, layer)
        tokens._computed = self._computed
        return tokens

    def part(self, slots: Tensor, tile: int | None = None) -> VisualTokens:
        """Return the tokens `slots` (n,) of one image; signals are sliced on first use."""
        return self._part(slots, self.layout.of_tile(tile, len(slots)), tile)

    def among(self, slots: Tensor) -> VisualTokens:
        """Return the tokens `slots` (n,) of one image, with their tiles and newlines."""
        return self._part(slots, self.layout.among(slots), None)

    def _part(self, slots: Tensor, layout: Layout, tile: int | None) -> VisualTokens:
        slots = slots.to(self.features.device)

        def sliced(name: str) -> Any:
            value, known = self.signal(name), SIGNALS.get(name)
            if known is not None and known.of_tiles and tile is not None:
                return value[tile : tile + 1]
            if known is None and isinstance(value, Tensor) and value.shape[:1] == (len(self),):
                return value[slots.to(value.device)]  # third-party signal with one entry per token
            if known is None or known.token_axis is None:
                return value
            return value.index_select(known.token_axis % value.ndim, slots.to(value.device))

        def sliced_result(name: str, axis: int, *args: Any, **kwargs: Any) -> Any:
            result = self.signal(name)(*args, **kwargs)
            return result.index_select(axis, slots.to(result.device))

        signals: dict[str, Any] = {}
        for name, value in self._sources.items():
            known = SIGNALS.get(name)
            if known is None or not known.function:
                signals[name] = functools.partial(sliced, name)
            elif known.result_axis is None:
                signals[name] = value
            else:
                signals[name] = functools.partial(sliced_result, name, known.result_axis)
        return VisualTokens(self.features[slots], signals, layout, self.layer)

    @property
    def provides(self) -> frozenset[str]:
        """Names of the available signals."""
        return frozenset(self._sources)

    def signal(self, name: str) -> Any:
        """Return a signal, computing it on first use.

        Raises
        ------
        IncompatibleError
            When there is no such signal.
        """
        if name in self._computed:
            return self._computed[name]
        if name not in self._sources:
            available = ", ".join(sorted(self._sources)) or "none"
            raise IncompatibleError(
                f"the signal {name!r} is required, but these visual tokens provide: {available}. "
                f"Supply it: VisualTokens(features, signals={{{name!r}: ...}})"
            )
        value = self._sources[name]
        known = SIGNALS.get(name)
        if name == "projector":
            value = Projector.wrap(value)
        elif callable(value) and not (known is not None and known.function):
            value = value()
        self._computed[name] = value
        return value

    @property
    def projector(self) -> Projector:
        """The projector (signal `projector`)."""
        projector: Projector = self.signal("projector")
        return projector

    def __repr__(self) -> str:
        shape = ", ".join(str(size) for size in self.features.shape)
        return f"VisualTokens({shape}; grid={self.layout.grid}; signals={sorted(self._sources)})"
