# SPDX-License-Identifier: Apache-2.0
"""Look-ups made once when a model is pruned: signatures of its modules, and mask functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from tokenprune import UnsupportedModelError

from . import stock
from .signature import Signature


@dataclass(frozen=True)
class Signatures:
    """The signatures of one model, resolved when it is pruned."""

    outer: Signature
    inner: Signature
    language: Signature
    rotary: Signature
    layer: Signature | None

    @classmethod
    def resolve(
        cls,
        model: nn.Module,
        inner: nn.Module,
        language: nn.Module,
        rotary: nn.Module,
        layers: Sequence[nn.Module],
        modalities: Sequence[str],
        language_words: Sequence[str] = (),
    ) -> Signatures:
        """Look up the signatures.

        Parameters
        ----------
        layers
            The decoder layers, if rows will be dropped before some of them.
        language_words
            Additional arguments of the language model that the adapter prunes.

        Raises
        ------
        UnsupportedModelError
            If something is missing, with its name.
        """
        pixels = [stock.pixel_word(modality) for modality in modalities]
        encodes_first = stock.encodes_first(model)
        words = ["ids", "embeds", "mask", "kv", *pixels, *(["encoded"] if encodes_first else [])]
        usual = ("embeds", "mask", "positions", "kv", "caching")
        of_layer = ("hidden", "mask", "positions", "rotated")
        kinds = {type(layer): layer for layer in layers}.values()
        of_layers = [Signature.of_forward(layer, of_layer, first=("hidden",)) for layer in kinds]
        for other in of_layers[1:]:
            if (other.order, other.names) != (of_layers[0].order, of_layers[0].names):
                raise UnsupportedModelError(
                    f"{of_layers[0].where} and {other.where} take different arguments; rows cannot be "
                    "dropped before layers of both kinds"
                )
        return cls(
            Signature.of_forward(model, ("answers",)),
            Signature.of_forward(inner, words, optional=("images", "videos", "encoded")),
            Signature.of_forward(language, (*usual, *language_words)),
            Signature.of_forward(rotary, ("like", "positions"), first=("like", "positions")),
            of_layers[0] if of_layers else None,
        )


def encoder_signature(inner: Any, modality: str, words: Sequence[str], optional: Sequence[str]) -> Signature:
    """The signature of the inner model's method that encodes images or videos."""
    name, where = stock.encoder_name(modality), type(inner).__name__
    if not hasattr(inner, name):
        raise stock.missing(f"method {name}", where)
    return Signature.of(getattr(inner, name), f"{where}.{name}", words, optional)


def _words_of(kind: str, words: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The required and optional words of a mask function; masks of chunks take no blocks before 5.20."""
    return (words, ("blocks",)) if kind == stock.CHUNKED else ((*words, "blocks"), ())


@dataclass(frozen=True)
class MaskMakers:
    """Transformers' mask functions by kind, with their signatures."""

    makers: Mapping[str, tuple[Callable[..., Any], Signature]]
    composer: Signature
    overlays: tuple[Callable[..., Any], ...]

    @classmethod
    def resolve(cls) -> MaskMakers:
        """Look up the functions; refuse a missing function or argument."""
        words = ("settings", "embeds", "mask", "kv", "positions")
        functions = stock.mask_functions()
        full = functions[stock.FULL]
        return cls(
            {
                kind: (make, Signature.of(make, make.__name__, *_words_of(kind, words)))
                for kind, make in functions.items()
            },
            Signature.of(full, full.__name__, (*words, "either", "both", "index")),
            stock.overlay_functions(),
        )

    def make(
        self,
        kind: str,
        config: Any,
        embeds: Tensor,
        flat: Tensor | None,
        kv: Any,
        numbering: Tensor | None = None,
        blocks: Tensor | None = None,
    ) -> Any:
        """Make the mask of a kind of layer for rows (B, P, D) from a two-dimensional one; None if not needed.

        Without `flat`, restarting positions `numbering` (B, P) separate packed sequences. Tokens with the
        same index (not -1) in `blocks` (B, n) attend to each other bidirectionally.
        """
        make, signature = self.makers[kind]
        names = signature.names
        arguments = {
            names["settings"]: config,
            names["embeds"]: embeds,
            names["mask"]: flat,
            names["kv"]: kv,
            names["positions"]: numbering,
        }
        if blocks is not None:
            arguments[names["blocks"]] = blocks
        return make(**arguments)

    def make_windowed(
        self, config: Any, embeds: Tensor, flat: Tensor | None, kv: Any, blocks: Tensor, window: int
    ) -> Any:
        """Make the mask of sliding layers in which tokens of a block attend to each other within the window.

        Arguments are those of `make`; `blocks` (B, n) covers all tokens up to the last row.
        """
        index = stock.first_layer_of_kind(kv, stock.SLIDING)
        if index is not None:  # a preallocated layer's mask has a column for every slot
            length, offset = stock.mask_sizes(stock.layers_of(kv)[index], embeds.shape[1])
            blocks = nn.functional.pad(blocks, (0, max(0, offset + length - blocks.shape[1])), value=-1)
        names = self.composer.names
        of_blocks, of_window = self.overlays
        arguments = {
            names["settings"]: config,
            names["embeds"]: embeds,
            names["mask"]: flat,
            names["kv"]: kv,
            names["positions"]: None,
            names["either"]: of_blocks(blocks),
            names["both"]: of_window(window),
            names["index"]: index or 0,
        }
        make, _ = self.makers[stock.FULL]
        return make(**arguments)
