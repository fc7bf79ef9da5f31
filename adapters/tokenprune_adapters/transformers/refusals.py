# SPDX-License-Identifier: Apache-2.0
"""Refuse calls that a pruned model cannot answer correctly, before the vision tower runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tokenprune import Selection, UnsupportedCallError

from . import stock
from .call import Call
from .calls import LanguageCall, ModelCall
from .interposed import interpose
from .masks import unknown
from .pruned_layer import PrunedLayer
from .token_rows import has_rows

BEFORE = "prune before the language model (zoo-exact, divprune ...)"


def refuse_chunked_prefill(model: Any) -> Callable[[], None]:
    """Check the settings of each `generate` with images; return a function that removes the check.

    `generate(prefill_chunk_size=...)` passes the prompt to the language model in chunks, and a budget per
    image cannot be applied to part of an image. The size is known once `generate` has merged its settings.
    """
    name = stock.settings_method(model)
    original = getattr(model, name)

    def checked(*args: Any, **kwargs: Any) -> Any:
        merged = original(*args, **kwargs)
        size = stock.chunk_size(merged)
        if size is not None and stock.brings_pixels(kwargs):
            raise UnsupportedCallError(
                f"prefill_chunk_size={size} would split an image into chunks, and its budget cannot be "
                "applied to part of an image; call generate with prefill_chunk_size=None"
            )
        return merged

    return interpose(model, name, checked)


def refuse_unknown_masks(call: ModelCall) -> None:
    """Refuse a mask that does not mark each token as padding or not.

    A four-dimensional mask covers the unpruned sequence; only the masks that `generate` makes for static
    caches, one or one per kind of layer, are supported.
    """
    pruned = any(isinstance(layer, PrunedLayer) for layer in stock.layers_of(call.kv))
    if call.mask is None or not (call.brings_images or pruned):
        return
    dimensions = call.mask.ndim if isinstance(call.mask, Tensor) else 4 if isinstance(call.mask, dict) else 0
    if dimensions != 2 and not (dimensions == 4 and stock.is_preallocated(call.kv)):
        raise UnsupportedCallError(unknown(call.mask))


def refuse_changed_settings(installed: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse a changed configuration: it decided which modules were hooked when the model was pruned."""
    for word, value in installed.items():
        if now[word] != value:
            name = stock.ARGUMENTS[word][0]
            raise UnsupportedCallError(
                f"model.config.{name} was {value!r} when the model was pruned and is {now[word]!r} now; call "
                "remove() on the handle and prune the model again"
            )


def refuse_other_rows(arguments: Mapping[str, Any], config: Any) -> None:
    """Refuse a call that projects other rows of the tower than configured, which hooks and signals are of."""
    for word, wanted in stock.configured(config, stock.PROJECTED).items():
        passed = arguments.get(word)
        if passed is not None and passed != wanted:
            raise UnsupportedCallError(
                f"this call asks for {stock.argument_name(word)}={passed!r}, the model was pruned with "
                f"{wanted!r}; set it in model.config before apply()"
            )


def refuse_other_modalities(call: ModelCall, modalities: Sequence[str]) -> None:
    """Refuse videos that would not be pruned."""
    if call.brings("video") and "video" not in modalities:
        raise UnsupportedCallError(
            "this call brings a video, and the videos of this model cannot be pruned; pass its frames as "
            "images, or remove() the pruning for this call"
        )


def refuse_images_into(call: ModelCall) -> None:
    """Refuse images in a call whose cache has no layers."""
    if call.brings_images:
        raise UnsupportedCallError(
            f"a prompt with images cannot be pruned into a {type(call.kv).__name__}, which has no layers "
            "that could store fewer tokens; use generate() instead, or remove() the pruning"
        )


def refuse_unknown_layers(call: ModelCall) -> None:
    """Refuse images in a call whose cache has layers of an unknown form."""
    for layer in stock.layers_of(call.kv) if call.brings_images else ():
        if not (stock.holds_tokens(layer) or stock.holds_state(layer) or stock.holds_nothing(layer)):
            raise UnsupportedCallError(
                f"a prompt with images cannot be pruned into a cache with a {type(layer).__name__}, which "
                "derives from no cache layer of transformers; pass another cache, or remove() the pruning"
            )


def refuse_untrimmed(call: ModelCall) -> None:
    """Refuse images in a call from whose cache dropped tokens cannot be removed again."""
    what = stock.why_not_trimmed(call.kv) if call.brings_images else ""
    if what:
        raise UnsupportedCallError(
            f"trim_early_cache=True removes dropped tokens from the layers before a cut, which {what} does "
            "not allow; pass another cache, or prune with trim_early_cache=False"
        )


def refuse_unread_past(kv: Any) -> None:
    """Refuse to read keys of an offloaded cache before their layer does: they may be on their way."""
    if kv is not None and stock.is_offloaded(kv) and int(stock.seen(kv)) > 0:
        raise UnsupportedCallError(
            "this method reads the keys of earlier turns before their layer runs, and those of an offloaded "
            "cache are not on the device yet; pass another cache, or choose a method that cuts before the "
            "language model (`tokenprune list methods` has the stages)"
        )


def refuse_answer_before_trimming(language_model: Any, call: Call) -> None:
    """Refuse labels in a call whose cache is trimmed at its end.

    The tokens of the answer would see what is removed only then, so that the loss would not be the answer's
    likelihood in decoding. Without a cache, decoding reads the whole prompt again, and it is.
    """
    if call.answers is not None and stock.uses_cache(language_model, call.kv, call.caching):
        raise UnsupportedCallError(
            "labels are not supported with trim_early_cache=True and a cache: the answer in this call would "
            "see tokens that are removed from the cache at its end, other than in decoding; pass "
            "use_cache=False, or prune with trim_early_cache=False"
        )


def refuse_changed_rows(name: str, selections: Sequence[Selection]) -> None:
    """Refuse new or changed rows, of which the layers before the cut have no keys and values."""
    if any(selection.features is not None for selection in selections):
        raise UnsupportedCallError(
            f"the selector of method {name!r} made new rows, of which there are no keys and values in the "
            "layers before the cut; prune with trim_early_cache=False"
        )


def refuse_padding_inside(call: Call, valid: Tensor | None, chunked: bool) -> None:
    """Refuse padding inside a sequence, which would change states and the borders of chunks.

    `valid` (B, P) marks the kept rows that are not padding. In front of a sequence, where the state is empty
    and no chunk has begun, padding does no harm.
    """
    if valid is not None and call.stored_at(call.counting) and (call.holds_states or chunked):
        raise UnsupportedCallError(
            "the rows of this batch keep unequal numbers of tokens (or are padded), and continue from a "
            "cache: padding would change the states of this model's linear-attention or convolution layers, "
            "or the borders of its chunks. Run the rows one by one, or start from an empty cache"
        )


def refuse_packing_into_states(call: Call, carries_state: bool) -> None:
    """Refuse packed sequences on a model whose layers carry a state from one sequence to the next."""
    if call.sequences is not None and carries_state:
        raise UnsupportedCallError(
            "position_ids restart inside a row, and the states of this model's linear-attention or "
            "convolution layers cannot be pruned in packed sequences; pass one sequence in each row of the "
            "batch"
        )


def refuse_ambiguous_packing(call: Call, language: LanguageCall, axes: int) -> None:
    """Refuse two-dimensional positions that restart, on models whose positions have several axes."""
    if call.sequences is not None and axes > 1 and language.positions is not None:
        if language.positions.ndim == 2:
            raise UnsupportedCallError(
                "two-dimensional position_ids restart, and this model recognises packed sequences by "
                f"position_ids of shape ({axes + 1}, batch, length), whose first row is the text's; pass "
                "those, or one sequence in each row of the batch"
            )


def refuse_bent_positions(call: Call, positions: Tensor | None) -> None:
    """Refuse to renumber visual tokens whose positions do not rise by one from token to token.

    `positions` (1 or B, L) or (axes, B, L) are those passed to the language model; None: it numbers its rows.
    """
    if positions is None or not call.images:
        return
    axes = positions[None] if positions.ndim == 2 else positions[-3:]
    is_line = (axes.diff(dim=-1) == 1).all(0) & (axes == axes[:1]).all(0)[:, 1:]
    assert call.entered is not None
    shape = len(call.entered), call.n_new
    visual = torch.zeros(shape, dtype=torch.bool, device=axes.device)
    for image in call.images:
        visual[image.span.row, image.span.slots.to(axes.device)] = True
    matters = visual[:, 1:] | visual[:, :-1]
    for borders in (call.restarts, _begins(call.sequences)):
        if borders is not None:
            matters &= ~borders[:, 1:].to(axes.device)
    if call.real is not None:
        real = call.real.to(axes.device)
        matters &= real[:, 1:] & real[:, :-1]
    if bool((matters & ~is_line).any()):
        raise UnsupportedCallError(
            "the positions of visual tokens do not rise by one from token to token, so they cannot be closed "
            "up where tokens are dropped; prune with positions='original'"
        )


def _begins(sequences: Tensor | None) -> Tensor | None:
    """Mark the first token of each packed sequence, (B, L)."""
    return None if sequences is None else torch.nn.functional.pad(sequences.diff(dim=1) != 0, (1, 0))


def refuse_recomputing(layers: Any, remedy: str = BEFORE) -> None:
    """Refuse layers that rerun hooks in the backward pass, where no rows can be dropped."""
    if torch.is_grad_enabled() and any(map(stock.recomputes_hooks, layers)):
        raise UnsupportedCallError(
            f"gradient checkpointing of transformers {stock.installed_version()} calls the hooks of a layer "
            "again when it recomputes it, where no rows can be dropped; install transformers 5.23 or "
            f"newer, {remedy}, or call model.gradient_checkpointing_disable()"
        )


def refuse_unknown_rows(language: LanguageCall, batch: int, n_new: int) -> None:
    """Refuse an unknown argument with a row for each of `n_new` tokens, which was not pruned."""
    for name, value in language.rest.items():
        if name not in stock.OF_THE_LOSS and has_rows(value, batch, n_new):
            raise UnsupportedCallError(
                f"the language model was passed {name}, which has a row for each of {n_new} tokens, and "
                "tokenprune does not know how to prune it; leave it out, or remove the pruning for this call"
            )
