# SPDX-License-Identifier: Apache-2.0
"""A key-value cache layer that stores fewer tokens than it has seen.

Sliding-window layers of transformers already work that way: their length is what was seen, so that positions
and the slicing in `generate` go on from the unpruned sequence, and the sizes of a mask tell what is stored.
The mixin gives the same to any layer class; everything a later call needs lives here. Its methods stand in
front of the layer's own (`stock.LAYER_METHODS`) and get the original as their first argument.
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


class PrunedLayer:
    """Mixed into a cache layer class. B rows, S stored slots."""

    lease: Lease
    dropped = 0  # tokens seen but not stored
    floor = 0  # stored slots up to the end of the last pruned prefill; cropping below it cannot be undone
    shift: Tensor | None = None  # (B, 1) how far positions were closed up; None: tokens kept their positions
    valid: Tensor | None = None  # (B, n) which of the first n stored slots are no padding; None: all
    tokens: Tensor | None = None  # (B, n) which of the tokens seen stand in the first n stored slots

    def __deepcopy__(self, memo: dict[int, Any]) -> PrunedLayer:
        """A copy of a conversation so far."""
        twin = object.__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Not pickled: what reads it again might be a model that knows nothing of what was left out."""
        raise UnsupportedCallError(
            "a cache filled by a pruned model cannot be pickled or saved; it belongs to this model, for as "
            "long as it is pruned"
        )

    def seen(self, original: Callable[[], Any]) -> Any:
        """Tokens seen."""
        return original() + self.dropped

    def mask_sizes(
        self, original: Callable[..., tuple[int, int]], *args: Any, **kwargs: Any
    ) -> tuple[int, int]:
        """Stored plus new tokens, and the offset of the first stored one."""
        self._check_lease()
        with self._as_stored():
            length, offset = original(*args, **kwargs)
        return length, offset + self.dropped

    def store(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Store new keys and values."""
        self._check_lease()
        return original(*args, **kwargs)

    def forget(self, original: Callable[[int], None], n: int) -> None:
        """Forget the last ``-n`` tokens (or, in old transformers, all but the first n)."""
        remove = int(stock.seen(self)) - n if n > 0 else -n
        if remove <= 0:
            return
        if stored_length(self) - remove < self.floor:
            raise UnsupportedCallError(
                "this cache cannot be cropped into a pruned prompt: the dropped visual tokens are gone. Crop "
                "only what came after it, or run the prompt again (assisted decoding needs a method that "
                "chooses without looking at the text)"
            )
        with self._as_stored():
            original(-remove)
        length = stored_length(self)
        self.valid = None if self.valid is None else self.valid[:, :length]
        self.tokens = None if self.tokens is None else self.tokens[:, :length]

    def clear(self, original: Callable[[], None]) -> None:
        """Forget everything."""
        original()
        self.dropped, self.floor, self.valid, self.tokens, self.shift = 0, 0, None, None, None
        self.lease = Lease()  # as good as new

    def reorder(self, original: Callable[[Tensor], None], beams: Tensor) -> None:
        """Reorder rows for beam search."""
        original(beams)
        self._each_row(lambda t: t.index_select(0, beams.to(t.device)))

    def repeat(self, original: Callable[[int], None], repeats: int) -> None:
        """Repeat rows."""
        original(repeats)
        self._each_row(lambda t: t.repeat_interleave(repeats, 0))

    def pick(self, original: Callable[[Tensor], None], indices: Tensor) -> None:
        """Keep some rows."""
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
        """Record a prefill: `dropped` tokens left out of each row; `valid` (B, P) of those stored.

        `tokens` (B, S) are the numbers of all that are stored by now, None where they are those that follow.
        The last `tail` slots could be forgotten again: they decided nothing, and no dropped token follows.
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
        """Which of the first `n` stored slots are no padding, (B, n)."""
        if self.valid is None:
            return torch.ones(rows, n, dtype=torch.bool, device=device)
        valid = self.valid[:, :n].to(device)
        return torch.nn.functional.pad(valid, (0, n - valid.shape[1]), value=True)

    def tokens_of(self, n: int, device: torch.device) -> Tensor:
        """Which of the tokens seen stand in the first `n` stored slots, (1 or B, n)."""
        following = (torch.arange(n, device=device) + self.dropped)[None]
        if self.tokens is None:
            return following
        known = self.tokens[:, :n].to(device)
        return torch.cat([known, following[:, known.shape[1] :].expand(len(known), -1)], 1)

    def visible(self, n: int, seen: SeenTokens | None, device: torch.device) -> Tensor | None:
        """Which of the first `n` stored slots a call sees, (B, n); None: all."""
        if seen is None:
            return None if self.valid is None else self.validity(len(self.valid), n, device)
        told = seen.of(self.tokens_of(n, device))
        return told & self.validity(len(told), n, device)

    def mask(self, n_new: int, seen: SeenTokens | None) -> Tensor | None:
        """Return the two-dimensional mask for `n_new` tokens more, of which none is dropped; None: all seen.

        As transformers' mask functions index it: the dropped tokens stand in front (never visible, the
        layer's offset skips them), then what is stored, then what comes. `seen` is what the call says of the
        tokens, None where it says nothing.
        """
        return self._in_front(self._slots(n_new, seen))

    def mask_of_rows(self, n_new: int, valid: Tensor | None, seen: SeenTokens | None) -> Tensor | None:
        """Return the same for `n_new` rows that stay of a call.

        `valid` (B, n_new) marks padding among them, None: there is none.
        """
        slots = self._slots(n_new, seen)
        if slots is None and valid is None:
            return None
        if slots is None:
            assert valid is not None
            slots = self.validity(len(valid), self._n_slots(n_new), valid.device)
        at = stored_length(self)
        slots[:, at : at + n_new] = True if valid is None else valid
        return self._in_front(slots)

    def _slots(self, n_new: int, seen: SeenTokens | None) -> Tensor | None:
        """Which slots a call sees, those of its own tokens included, (B, S); a tensor of its own."""
        like = self.valid if seen is None else seen.flat
        return None if like is None else self.visible(self._n_slots(n_new), seen, like.device)

    def _n_slots(self, n_new: int) -> int:
        length, offset = stock.mask_sizes(self, n_new)
        return offset - self.dropped + length

    def _in_front(self, slots: Tensor | None) -> Tensor | None:
        return None if slots is None else torch.nn.functional.pad(slots, (self.dropped, 0), value=False)

    def _check_lease(self) -> None:
        if not self.lease.active:
            raise StaleCacheError(
                "this key-value cache was filled while the model was pruned, and that pruning has been "
                "removed; start from a new cache"
            )

    @contextmanager
    def _as_stored(self) -> Iterator[None]:
        """Let the layer's own code see what is stored instead of what was seen."""
        dropped, self.dropped = self.dropped, 0
        try:
            yield
        finally:
            self.dropped = dropped

    def _each_row(self, change: Callable[[Tensor], Tensor]) -> None:
        self.valid = None if self.valid is None else change(self.valid)
        self.tokens = None if self.tokens is None else change(self.tokens)
        self.shift = None if self.shift is None else change(self.shift)


def as_pruned(kv: Any, index: int, lease: Lease) -> PrunedLayer:
    """Return layer `index` of a live cache as a PrunedLayer, swapping it in place; no tensor is copied."""
    layers = stock.layers_of(kv)
    layer = layers[index]
    pruned: PrunedLayer = object.__new__(stock.pruned_class(PrunedLayer, type(layer)))  # type: ignore[arg-type]
    pruned.__dict__ = layer.__dict__  # the same state: other references to the old layer stay right
    pruned.lease = lease
    layers[index] = pruned
    return pruned


def stored_length(layer: Any) -> int:
    """Slots in use of any cache layer."""
    dropped = layer.dropped if isinstance(layer, PrunedLayer) else 0
    return int(stock.seen(layer)) - dropped
