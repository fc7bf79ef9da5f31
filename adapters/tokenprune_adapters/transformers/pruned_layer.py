# SPDX-License-Identifier: Apache-2.0
"""A key-value cache layer that stores fewer tokens than it has seen.

Sliding-window layers of transformers already do so: they report the number of tokens seen as their length, so
that positions and the slicing in `generate` follow the unpruned sequence, and the stored tokens in their mask
sizes. The mixin adds this to any layer class and holds everything that a later call needs. Its methods wrap
the layer's own (`stock.LAYER_METHODS`), which they receive as their first argument.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor

from tokenprune import StaleCacheError, UnsupportedCallError

from . import stock
from .lease import Lease
from .masks import SeenTokens


class NotSaved:
    """Mixed into a cache layer class: it is copied with its cache, and cannot be pickled."""

    def __deepcopy__(self, memo: dict[int, Any]) -> NotSaved:
        """Copy the layer, as when a conversation is continued twice."""
        duplicate = object.__new__(type(self))
        memo[id(self)] = duplicate
        duplicate.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return duplicate

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Refuse to be pickled: a model that loads the cache might not know about the dropped tokens."""
        raise UnsupportedCallError(
            "a cache filled by a pruned model cannot be pickled or saved; it belongs to this model, for as "
            "long as it is pruned"
        )


class PrunedLayer(NotSaved):
    """Mixed into a cache layer class that stores tokens. B rows, S stored slots."""

    lease: Lease
    dropped = 0  # number of tokens seen but not stored
    attending = False  # whether the attention module that it belongs to is running
    floor = 0  # smallest stored length that cropping may leave: the end of the last pruned prefill
    shift: Tensor | None = None  # (B, 1) shift of later positions; None if tokens keep their positions
    valid: Tensor | None = None  # (B, n) False for padding in the first n stored slots; None: no padding
    tokens: Tensor | None = None  # (B, n) indices of the tokens in the first n stored slots

    def seen(self, original: Callable[[], Any]) -> Any:
        """Return the number of tokens seen, or stored if its attention module asks, to count positions."""
        return original() if self.attending else original() + self.dropped

    def mask_sizes(
        self, original: Callable[..., tuple[int, int]], *args: Any, **kwargs: Any
    ) -> tuple[int, int]:
        """Return the number of stored plus new tokens, and the offset of the first stored one."""
        self._check_lease()
        with self._as_stored():
            length, offset = original(*args, **kwargs)
        return length, offset + self.dropped

    def store(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Store new keys and values."""
        self._check_lease()
        return original(*args, **kwargs)

    def forget(self, original: Callable[[int], None], n: int) -> None:
        """Remove the last ``-n`` tokens (or, in older transformers, all but the first n)."""
        remove = self.removable(n)
        if remove <= 0:
            return
        with self._as_stored():
            original(-remove)
        length = stored_length(self)
        self.valid = None if self.valid is None else self.valid[:, :length]
        self.tokens = None if self.tokens is None else self.tokens[:, :length]

    def removable(self, n: int) -> int:
        """Number of tokens that ``crop(n)`` removes.

        Raises
        ------
        UnsupportedCallError
            If dropped tokens would have to come back.
        """
        remove = int(stock.seen(self)) - n if n > 0 else -n
        if remove > 0 and stored_length(self) - remove < self.floor:
            raise UnsupportedCallError(
                "this cache cannot be cropped into a pruned prompt: the dropped visual tokens are gone. Crop "
                "only what follows it, or run the prompt again"
            )
        return remove

    def clear(self, original: Callable[[], None]) -> None:
        """Remove all tokens."""
        original()
        self.dropped, self.floor, self.valid, self.tokens, self.shift = 0, 0, None, None, None
        self.lease = Lease()  # an empty cache can be used again

    def reorder(self, original: Callable[[Tensor], None], beams: Tensor) -> None:
        """Reorder rows for beam search."""
        original(beams)
        self._each_row(lambda t: t.index_select(0, beams.to(t.device)))

    def repeat(self, original: Callable[[int], None], repeats: int) -> None:
        """Repeat each row of the batch."""
        original(repeats)
        self._each_row(lambda t: t.repeat_interleave(repeats, 0))

    def pick(self, original: Callable[[Tensor], None], indices: Tensor) -> None:
        """Select rows of the batch."""
        original(indices)
        self._each_row(lambda t: t[indices.to(t.device)])

    def commit(
        self,
        dropped: int,
        stored_before: int,
        valid: Tensor | None,
        shift: Tensor | None,
        tokens: Tensor | None,
        tail: int = 0,
    ) -> None:
        """Record a prefill that dropped `dropped` tokens from each row; `valid` (B, P) marks those stored.

        `tokens` (B, S) are the indices of all tokens stored by now, None if the new ones are consecutive.
        The last `tail` slots can be cropped again: they did not affect the choice and follow all dropped
        ones.
        """
        if valid is not None:
            self.valid = torch.cat([self.validity(len(valid), stored_before, valid.device), valid], 1)
        if tokens is not None:
            self.tokens = tokens
        if shift is not None:
            self.shift = shift if self.shift is None else self.shift + shift
        if dropped:
            self.dropped += dropped
            self.floor = stored_length(self) - tail

    def validity(self, rows: int, n: int, device: torch.device) -> Tensor:
        """Which of the first `n` stored slots are not padding, (B, n)."""
        if self.valid is None:
            return torch.ones(rows, n, dtype=torch.bool, device=device)
        valid = self.valid[:, :n].to(device)
        return torch.nn.functional.pad(valid, (0, n - valid.shape[1]), value=True)

    def tokens_of(self, n: int, device: torch.device) -> Tensor:
        """Indices of the tokens in the first `n` stored slots, (1 or B, n)."""
        consecutive = (torch.arange(n, device=device) + self.dropped)[None]
        if self.tokens is None:
            return consecutive
        recorded = self.tokens[:, :n].to(device)
        return torch.cat([recorded, consecutive[:, recorded.shape[1] :].expand(len(recorded), -1)], 1)

    def visible(self, n: int, seen: SeenTokens | None, device: torch.device) -> Tensor | None:
        """Which of the first `n` stored slots are visible to a call, (B, n); None if all are."""
        if seen is None:
            return None if self.valid is None else self.validity(len(self.valid), n, device)
        unmasked = seen.of(self.tokens_of(n, device))
        return unmasked & self.validity(len(unmasked), n, device)

    def mask(self, n_new: int, seen: SeenTokens | None) -> Tensor | None:
        """Return the two-dimensional mask for `n_new` unpruned new tokens; None if all tokens are visible.

        Laid out as transformers' mask functions index it: the dropped tokens first (never visible, skipped by
        the layer's offset), then the stored, then the new ones. `seen` is the call's own mask, None without
        one.
        """
        return self._with_dropped(self._slots(n_new, seen))

    def full_mask(self, rows: int, n_new: int, device: torch.device) -> Tensor:
        """Return the same mask, of `rows` rows, where all tokens are visible: the dropped tokens hidden."""
        slots = torch.ones(rows, self._n_slots(n_new), dtype=torch.bool, device=device)
        return torch.nn.functional.pad(slots, (self.dropped, 0), value=False)

    def mask_of_rows(self, n_new: int, valid: Tensor | None, seen: SeenTokens | None) -> Tensor | None:
        """Return the same mask for the `n_new` kept rows of a pruned call.

        `valid` (B, n_new) is False for padding, None if there is none.
        """
        slots = self._slots(n_new, seen)
        if slots is None and valid is None:
            return None
        if slots is None:
            assert valid is not None
            slots = self.validity(len(valid), self._n_slots(n_new), valid.device)
        stored = stored_length(self)
        slots[:, stored : stored + n_new] = True if valid is None else valid
        return self._with_dropped(slots)

    def _slots(self, n_new: int, seen: SeenTokens | None) -> Tensor | None:
        """Which slots, including those of the new tokens, are visible to a call, (B, S); a new tensor."""
        like = self.valid if seen is None else seen.flat
        return None if like is None else self.visible(self._n_slots(n_new), seen, like.device)

    def _n_slots(self, n_new: int) -> int:
        length, offset = stock.mask_sizes(self, n_new)
        return offset - self.dropped + length

    def _with_dropped(self, slots: Tensor | None) -> Tensor | None:
        return None if slots is None else torch.nn.functional.pad(slots, (self.dropped, 0), value=False)

    def _check_lease(self) -> None:
        if not self.lease.active:
            raise StaleCacheError(
                "this key-value cache was filled while the model was pruned, and that pruning has been "
                "removed; start from a new cache"
            )

    @contextmanager
    def _as_stored(self) -> Iterator[None]:
        """Report the stored length instead of the tokens seen, for the layer's own code."""
        dropped, self.dropped = self.dropped, 0
        try:
            yield
        finally:
            self.dropped = dropped

    def _each_row(self, change: Callable[[Tensor], Tensor]) -> None:
        self.valid = None if self.valid is None else change(self.valid)
        self.tokens = None if self.tokens is None else change(self.tokens)
        self.shift = None if self.shift is None else change(self.shift)


class PrunedState(NotSaved):
    """Mixed into a cache layer class that holds a state and no tokens.

    The language model is passed the kept rows only, so their state needs no change. It is not cropped if the
    layer that counts, which comes after it, cannot be.
    """

    counting: PrunedLayer

    def forget(self, original: Callable[[int], None], n: int) -> None:
        """Remove the last ``-n`` tokens from the state."""
        self.counting.removable(n)
        original(n)


def as_pruned(kv: Any, index: int, lease: Lease) -> PrunedLayer:
    """Convert layer `index` of a cache to a PrunedLayer in place; no tensor is copied."""
    pruned: PrunedLayer = _converted(kv, index, PrunedLayer)
    pruned.lease = lease
    return pruned


def guard_states(kv: Any) -> None:
    """Convert the layers of a pruned cache that hold a state to `PrunedState` in place."""
    layers = stock.layers_of(kv)
    counting = stock.counting_layer(kv)
    for index, layer in enumerate(layers):
        if stock.holds_state(layer) and not stock.holds_tokens(layer):
            state = layer if isinstance(layer, PrunedState) else _converted(kv, index, PrunedState)
            state.counting = layers[counting]


def _converted(kv: Any, index: int, mixin: type) -> Any:
    layers = stock.layers_of(kv)
    layer = layers[index]
    pruned: Any = object.__new__(stock.pruned_class(mixin, type(layer)))  # type: ignore[arg-type]
    pruned.__dict__ = layer.__dict__  # shared state, so other references to the old layer remain valid
    layers[index] = pruned
    return pruned


def stored_length(layer: Any) -> int:
    """Number of slots in use in a cache layer, pruned or not; 0 if it holds a state."""
    if not stock.holds_tokens(layer):
        return 0
    dropped = layer.dropped if isinstance(layer, PrunedLayer) else 0
    return int(stock.seen(layer)) - dropped
