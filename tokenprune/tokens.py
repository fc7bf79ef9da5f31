# SPDX-License-Identifier: Apache-2.0
"""What a strategy may see of one image."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .errors import IncompatibleError
from .projector import Projector
from .signals import SIGNALS


@dataclass(frozen=True)
class Layout:
    """Where an image's tokens lie.

    `grid` is (t, h, w); `tiles` (N,) the tile each token belongs to (None: one tile); `newlines` (N,) is True
    for separator tokens that are no patch (None: there are none); `full_tiles` says how many tiles an image
    of this model can have; `tile_grids` are (h, w) of each tile's patches, in raster order (empty: unknown).
    """

    grid: tuple[int, int, int]
    tiles: Tensor | None = None
    newlines: Tensor | None = None
    full_tiles: int = 1
    tile_grids: tuple[tuple[int, int], ...] = ()

    def of_tile(self, tile: int | None, n: int) -> Layout:
        """Layout of `n` tokens of a tile: its own grid if they are all its patches, else a single row."""
        h, w = self.tile_grids[tile] if tile is not None and tile < len(self.tile_grids) else (1, n)
        return Layout((1, h, w) if h * w == n else (1, 1, n))

    def __len__(self) -> int:
        for per_token in (self.tiles, self.newlines):
            if per_token is not None:
                return len(per_token)
        t, h, w = self.grid
        return t * h * w


class VisualTokens:
    """The visual tokens of one image (or video), with signals computed only when asked for.

    Parameters
    ----------
    features
        (N, D), the rows that would enter the language model; or (B, N, D), a stack of B images of equal
        layout, for strategies that say `batched = True` (signals then carry the same leading axis).
    signals
        Name -> tensor, or a callable without arguments that computes it on first use. Functions
        (`projector`, `attention_rows` ...; see `tokenprune.signals`) are handed over as they are.
    layout
        Where the tokens lie; a single row of N tokens when not given.
    layer
        At the decoder stage, the layer before which these tokens are cut, counted from 0.

    Raises
    ------
    IncompatibleError
        When `features` is not (N, D) or (B, N, D), or the layout is of another number of tokens.
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
                f"the layout is of {len(self.layout)} tokens, the features of {len(self)}"
            )
        self._given: dict[str, Any] = dict(signals or {})
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
        """The decoder layer before which these tokens are cut, for strategies that cannot do without.

        Raises
        ------
        IncompatibleError
            When they are not at the decoder stage.
        """
        if self.layer is None:
            raise IncompatibleError(
                "a strategy asked before which decoder layer the cut is made, and nobody said; "
                "say it: method.select(tokens, keep, layer=2) or VisualTokens(..., layer=2)"
            )
        return self.layer

    def before_layer(self, layer: int) -> VisualTokens:
        """The same tokens, to be cut before this decoder layer; signals computed already stay computed."""
        tokens = VisualTokens(self.features, self._given, self.layout, layer)
        tokens._computed = self._computed
        return tokens

    def part(self, slots: Tensor, tile: int | None = None) -> VisualTokens:
        """Some of the tokens of one image, `slots` (n,) of them; signals are cut down when asked for."""
        slots = slots.to(self.features.device)

        def cut(name: str) -> Any:
            value, known = self.signal(name), SIGNALS.get(name)
            if known is not None and known.of_tiles and tile is not None:
                return value[tile : tile + 1]
            if known is None and isinstance(value, Tensor) and value.shape[:1] == (len(self),):
                return value[slots.to(value.device)]  # a third party's own, one entry a token
            if known is None or known.token_axis is None:
                return value
            return value.index_select(known.token_axis % value.ndim, slots.to(value.device))

        def cut_result(name: str, axis: int, *args: Any, **kwargs: Any) -> Any:
            found = self.signal(name)(*args, **kwargs)
            return found.index_select(axis, slots.to(found.device))

        signals: dict[str, Any] = {}
        for name, value in self._given.items():
            known = SIGNALS.get(name)
            if known is None or not known.function:
                signals[name] = functools.partial(cut, name)
            elif known.result_axis is None:
                signals[name] = value
            else:
                signals[name] = functools.partial(cut_result, name, known.result_axis)
        layout = self.layout.of_tile(tile, len(slots))
        return VisualTokens(self.features[slots], signals, layout, self.layer)

    @property
    def provides(self) -> frozenset[str]:
        """Names of the signals that can be asked for."""
        return frozenset(self._given)

    def signal(self, name: str) -> Any:
        """Return a signal, computing it on first use.

        Raises
        ------
        IncompatibleError
            When nobody supplied it.
        """
        if name in self._computed:
            return self._computed[name]
        if name not in self._given:
            have = ", ".join(sorted(self._given)) or "none"
            raise IncompatibleError(
                f"the signal {name!r} was asked for, but these visual tokens carry: {have}. "
                f"Supply it: VisualTokens(features, signals={{{name!r}: ...}})"
            )
        value = self._given[name]
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
        return f"VisualTokens({shape}; grid={self.layout.grid}; signals={sorted(self._given)})"
