# SPDX-License-Identifier: Apache-2.0
"""What vLLM's Qwen models share: packed patches, a merger, and kept rows that keep their positions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from tokenprune import Layout, Projector, Selection
from tokenprune.functional import mean_attention
from tokenprune.selection import fill_new_rows
from tokenprune.towers.image import TowerImage

from . import stock
from .errors import EngineRefusedError
from .info import PruningInfo
from .model import PruningModel, kept_rows
from .positions import OriginalPositions, grid_offsets, with_offsets
from .projector import ReadProjector
from .ranks import gather_shards
from .tower_run import EngineRun

SIGNALS = frozenset({"pre_features", "projector", "received_attention", "key_metric"})


class QwenInfo(PruningInfo):
    """Processing info of a pruned Qwen model."""

    positions: ClassVar[tuple[str, ...]] = ("original",)

    @classmethod
    def signals(cls, config: Any) -> frozenset[str]:
        """Return the signals of the tower, which has no class token."""
        return SIGNALS

    def n_unpruned(self, modality: str, item: Any) -> int:
        """Return the number of tokens of an image or video from its grid of patches."""
        merge: int = self.config.vision_config.spatial_merge_size
        grid = stock.view("worker_field", item[f"{modality}_grid_thw"]).value
        return int(grid.prod()) // merge**2


class QwenModel(PruningModel, OriginalPositions):
    """A Qwen model of vLLM, with its images and videos pruned if pruning is configured."""

    def check_engine(self, vllm_config: Any) -> None:
        """Refuse engine options that would run the decoder without correcting its positions first."""
        super().check_engine(vllm_config)
        options = stock.options(vllm_config)
        for is_set, option in (
            (options.decoder_stages > 1, "--pipeline-parallel-size above 1"),
            (options.speculation is not None, "speculative decoding"),
            (options.microbatching, "--enable-dbo or --ubatch-size"),
            (options.prompt_embeddings, "--enable-prompt-embeds"),
            (stock.uses_full_graphs(vllm_config), "cudagraph_mode FULL"),
            (
                stock.uses_breakable_graphs(vllm_config),
                "VLLM_USE_BREAKABLE_CUDAGRAPH (set it to 0 where VLLM_BATCH_INVARIANT switches it on)",
            ),
        ):
            if is_set:
                raise EngineRefusedError(
                    f"tokenprune: {option} cannot be combined with pruning of this model, whose kept rows "
                    "keep their positions; omit it"
                )
        # a step with only the last row of an image would run in a decode graph, without correcting positions
        stock.disable_decode_graphs(vllm_config)

    def watch(self, needs: frozenset[str]) -> None:
        """Register hooks on the merger's norm and on the attention of a block."""
        self._needs = needs
        self._merge: int = self._hf_config.vision_config.spatial_merge_size
        norm = stock.part(self, "norm")
        if "pre_features" in needs:
            norm.wrapped.register_forward_pre_hook(  # the merger's own hooks are not called
                lambda module, args: self._recorded.update(patches=args[0])
            )
        if needs & {"received_attention", "key_metric"}:
            attention = self.attention()
            self._ranks = int(attention.ranks)
            stock.watch_attention(attention, lambda query, key: self._recorded.update(query=query, key=key))
        if "projector" in needs:
            first, second = stock.part(self, "first_layer"), stock.part(self, "second_layer")
            self._projector = ReadProjector(first, stock.part(self, "activation").wrapped, second, norm)

    def attention(self) -> Any:
        """Return the attention layer whose queries and keys are recorded."""
        return stock.part(self, "attention")

    def in_token_order(self, patches: Tensor, grid: Sequence[int]) -> Tensor:
        """Return the patches (N, P, ...) of an item's tokens, given its patches as the tower orders them."""
        return patches.view(-1, self._merge**2, *patches.shape[1:])

    def scored_rows(self, rows: Tensor) -> Tensor:
        """Return the part of an item's rows that methods see, (N, D)."""
        return rows

    def frame_step(self, inputs: Any, modality: str, index: int) -> float:
        """Return the difference in position between consecutive frames of an item."""
        return 1.0

    def encode_images(self, original: Callable[..., Any], inputs: Any) -> Any:
        """Encode and prune images."""
        return self.encode("image", inputs, original)

    def encode_videos(self, original: Callable[..., Any], inputs: Any) -> Any:
        """Encode and prune videos."""
        return self.encode("video", inputs, original)

    def encode(self, modality: str, inputs: Any, original: Callable[[Any], Any]) -> Sequence[Tensor]:
        """Encode items in batches that fit the tower, and prune them."""
        grids = inputs[f"{modality}_grid_thw"]
        patches = grids.prod(-1).tolist()
        kept: list[Tensor] = []
        for batch in self.tower_batches([n // self._merge**2 for n in patches]):
            batch_inputs = stock.inputs_like(inputs, **{f"{modality}_grid_thw": grids[batch]})
            rows = slice(sum(patches[: batch.start]), sum(patches[: batch.stop]))
            for name in ("pixel_values", "pixel_values_videos"):
                if inputs.get(name) is not None:
                    batch_inputs[name] = inputs[name][rows]
            for name in ("image_embeds", "video_embeds"):
                if inputs.get(name) is not None:
                    merged = self._merge**2
                    batch_inputs[name] = inputs[name][rows.start // merged : rows.stop // merged]
            if inputs.get("second_per_grid_ts") is not None:
                batch_inputs["second_per_grid_ts"] = inputs["second_per_grid_ts"].flatten()[batch]
            if inputs.get("timestamps") is not None:
                batch_inputs["timestamps"] = inputs["timestamps"][batch]
            run = self._tower_run(modality, batch, grids[batch].tolist())
            with self.cutting(run):
                item_rows = original(batch_inputs)
            kept += self._prune(modality, batch_inputs, item_rows, batch.start, run)
        return kept

    def tower_images(self, patches: Sequence[Sequence[int]], shape: tuple[int, int]) -> list[TowerImage]:
        """Return items, given their grids of patches, as images of the tower."""
        raise NotImplementedError

    def _tower_run(self, modality: str, items: slice, patches: Sequence[Sequence[int]]) -> EngineRun | None:
        """Return the run of the tower over items; None if nothing is cut inside it."""
        budgets = self.item_budgets(modality, items)
        if self._tower_cuts is None or self.pruning is None or budgets is None:
            return None
        images = partial(self.tower_images, patches)
        return EngineRun(self.pruning, images, budgets, packed=True)

    def _prune(
        self, modality: str, inputs: Any, item_rows: Sequence[Tensor], first: int, run: EngineRun | None
    ) -> Sequence[Tensor]:
        """Prune items, and append to each row its offset from the first row of its item."""
        merge = self._merge
        self._patches = inputs[f"{modality}_grid_thw"].tolist()
        grids = [(t, h // merge, w // merge) for t, h, w in self._patches]
        layouts = [Layout(grid) for grid in grids]
        scored = [self.scored_rows(rows) for rows in item_rows]
        if self._tower_cuts is None:
            selections = self.select(modality, scored, layouts, self._signals, first)
        else:
            selections = [None] * len(item_rows) if run is None else run.tokens_left()
        return [
            self.placed(modality, inputs, index, kept_rows(rows, selection), kept_tokens(selection, grid))
            for index, (rows, selection, grid) in enumerate(zip(item_rows, selections, grids, strict=True))
        ]

    def placed(self, modality: str, inputs: Any, index: int, rows: Tensor, tokens: Tensor) -> Tensor:
        """Append to each kept row of an item its offset from the item's first row.

        Parameters
        ----------
        tokens
            The number of the token of each row, (K,), among all tokens of the item.
        """
        t, h, w = self._patches[index]
        grid = t, h // self._merge, w // self._merge
        return with_offsets(rows, grid_offsets(grid, self.frame_step(inputs, modality, index))[tokens])

    def _signals(self, index: int) -> Mapping[str, Any]:
        """Return the signals of an item, which are computed on first use."""
        signals: dict[str, Projector | Callable[[], Tensor]] = {}
        if "projector" in self._needs:
            signals["projector"] = self.current_projector()
        names = self._needs - {"projector"}
        return signals | {name: partial(getattr(self, f"_{name}"), index) for name in names}

    def _tokens(self, patches: Tensor, index: int) -> Tensor:
        """Return the patches (N, P, ...) of an item's tokens, given the patches of all items (M, ...)."""
        start = sum(a * b * c for a, b, c in self._patches[:index])
        t, h, w = self._patches[index]
        return self.in_token_order(patches[start : start + t * h * w], (t, h, w))

    def _pre_features(self, index: int) -> Tensor:
        """Return the merger's inputs, (N, P, D_v)."""
        return self._tokens(self._recorded["patches"].flatten(0, -2), index)

    def _heads(self, which: str) -> Tensor:
        """Return the "query" or "key" of the hooked block of all ranks, (M, H, d), in float32."""
        return gather_shards(self._recorded[which][0], 1, self._ranks).float()

    def _key_metric(self, index: int) -> Tensor:
        """Return the keys, averaged over heads and the patches of a token, (N, d_head)."""
        return self._tokens(self._heads("key").mean(1), index).mean(1)

    def _received_attention(self, index: int) -> Tensor:
        """Return the attention received within a frame, averaged over heads, queries and patches, (N,)."""
        query, key = self._heads("query").transpose(0, 1), self._heads("key").transpose(0, 1)  # (H, M, d)
        received = torch.zeros(query.shape[1], device=query.device)
        t, h, w = self._patches[index]
        start = sum(a * b * c for a, b, c in self._patches[:index])
        for frame in range(t):
            patches = slice(start + frame * h * w, start + (frame + 1) * h * w)
            received[patches] = mean_attention(query[:, patches], key[:, patches], query.shape[-1] ** -0.5)
        return self._tokens(received, index).mean(1)


def kept_tokens(selection: Selection | None, grid: tuple[int, int, int]) -> Tensor:
    """Return the number of each kept row's token, (K,); a new row takes that of the next free token."""
    n = math.prod(grid)
    if selection is None:
        return torch.arange(n)
    tokens: Tensor = fill_new_rows(selection.indices.cpu(), n)
    return tokens
