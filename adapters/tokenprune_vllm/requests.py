# SPDX-License-Identifier: Apache-2.0
"""Count the visual tokens of processed requests, and log them at the level DEBUG."""

from __future__ import annotations

import logging
from typing import Any

from . import stock
from .counts import Tally, counts_of
from .info import PruningInfo
from .lookup import View

logger = logging.getLogger("vllm.tokenprune.requests")
MAX_SIZES = 2**17  # items whose sizes are stored; vLLM's cache of 4 GiB holds fewer of the smallest images


class RequestCounter:
    """Counts the visual tokens of the requests of a processor.

    vLLM does not process a cached item again, nor tell its size, so sizes are stored here when items enter
    vLLM's cache, which replaces them.
    """

    def __init__(self, info: PruningInfo) -> None:
        assert info.pruning is not None
        self.counts = counts_of(info.options.served_name, info.pruning.method.name)
        self._info = info
        self._sizes: dict[str, int] = {}  # tokens of items before pruning, by their keys in vLLM's caches

    def count(self, items: Any, processed: View, from_cache: bool) -> None:
        """Count a request.

        Parameters
        ----------
        items
            The items of the request, before they are processed.
        processed
            The processed request.
        from_cache
            Whether its items are in vLLM's cache; `store_size` was called for those that had not been.
        """
        tally, keys = Tally(requests=1), list[str]()
        for modality in self._info.modalities:
            placeholders = processed.placeholders.get(modality)
            if not placeholders or stock.kind_of(items, modality) == "rows":
                continue
            inputs = processed.items[modality]
            for key, item, placeholder in zip(processed.keys[modality], inputs, placeholders, strict=True):
                keys.append(key)
                if not from_cache:
                    self.store_size(modality, key, item)
                size = self._stored_size(key)
                if size is None:
                    tally.items_of_unknown_size += 1
                else:
                    tally.visual_tokens_before += size
                    tally.visual_tokens_after += stock.view("placeholder", placeholder).rows
        tally.items = len(keys)
        if keys:
            self.counts.add(tally)
            logger.debug(
                "tokenprune: %s kept %d of %d visual tokens of %d items (%d of unknown size): %s",
                self.counts.method,
                tally.visual_tokens_after,
                tally.visual_tokens_before,
                tally.items,
                tally.items_of_unknown_size,
                ", ".join(keys),
            )

    def store_size(self, modality: str, key: str, item: Any) -> None:
        """Store the number of tokens of a processed item before pruning."""
        self._sizes[key] = self._info.n_unpruned(modality, item)
        if len(self._sizes) > MAX_SIZES:
            self._sizes.pop(next(iter(self._sizes)))

    def _stored_size(self, key: str) -> int | None:
        """Return the number of tokens of an item before pruning. It becomes the most recently used one."""
        size = self._sizes.pop(key, None)
        if size is not None:
            self._sizes[key] = size
        return size
