# SPDX-License-Identifier: Apache-2.0
"""Qwen2.5-VL in vLLM, images and videos. Kept rows keep their positions; the tower uses window order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, ClassVar

import torch
from tokenprune_adapters.towers.image import TowerImage
from torch import Tensor

from tokenprune import IncompatibleError, Layout, Selection
from tokenprune.functional import mean_attention
from tokenprune.selection import fill_new_rows

from . import stock
from .errors import EngineRefusedError
from .info import PruningInfo
from .model import PruningModel, kept_rows
from .positions import OriginalPositions, grid_offsets, prompt_positions, with_offsets
from .processing import prunable
from .projector import ReadProjector
from .ranks import gather_shards
from .settings import Settings
from .tower_cuts import TowerCuts
from .tower_run import TOWER_SIGNALS, EngineRun

SIGNALS = frozenset({"pre_features", "projector", "received_attention", "key_metric"})


class Qwen25VLInfo(PruningInfo):
    """Processing info of a pruned Qwen2.5-VL."""

    family: ClassVar[str] = "qwen2.5-vl"
    modalities: ClassVar[tuple[str, ...]] = ("image", "video")
    positions: ClassVar[tuple[str, ...]] = ("original",)

    @classmethod
    def signals(cls, config: Any) -> frozenset[str]:
        """Return the signals of the tower, which has no class token."""
        return SIGNALS

    @classmethod
    def tower_signals(cls, config: Any) -> frozenset[str]:
        """Return the signals inside the tower."""
        return TOWER_SIGNALS

    @classmethod
    def tower_blocks(cls, config: Any) -> int:
        """Return the number of blocks of the tower."""
        return int(config.vision_config.depth)

    def n_unpruned(self, modality: str, item: Any) -> int:
        """Return the number of tokens of an image or video from its grid of patches."""
        merge: int = self.config.vision_config.spatial_merge_size
        grid = stock.view("worker_field", item[f"{modality}_grid_thw"]).value
        return int(grid.prod()) // merge**2

    def check_fields(self, modality: str, fields: Mapping[str, Any]) -> None:
        """Refuse videos without the duration of their frames, which the positions of later text depend on."""
        if modality == "video" and fields.get("second_per_grid_ts") is None:
            raise IncompatibleError(
                "a video whose rows come from another engine needs second_per_grid_ts beside video_grid_thw "
                "(seconds between frames after temporal merging, one number per video)"
            )


class Qwen25VLModel(PruningModel, OriginalPositions):
    """vLLM's Qwen2.5-VL, with its images and videos pruned if pruning is configured."""

    family: ClassVar[str] = "qwen2.5-vl"
    info: ClassVar[type[PruningInfo]] = Qwen25VLInfo
    item_grids: Callable[[Any], Any]  # vLLM's

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
        """Register hooks on the merger's norm and on the last block with full attention."""
        self._needs = needs
        self._find_windows()
        norm = stock.part(self, "norm")
        if "pre_features" in needs:
            norm.wrapped.register_forward_pre_hook(  # the merger's own hooks are not called
                lambda module, args: self._recorded.update(patches=args[0])
            )
        if needs & {"received_attention", "key_metric"}:
            attention = stock.part(self, "attention", max(stock.part(self, "full_attention_blocks").wrapped))
            self._ranks = int(attention.ranks)
            stock.watch_attention(attention, lambda query, key: self._recorded.update(query=query, key=key))
        if "projector" in needs:
            first, second = stock.part(self, "first_layer"), stock.part(self, "second_layer")
            self._projector = ReadProjector(first, stock.part(self, "activation").wrapped, second, norm)

    def _find_windows(self) -> None:
        self._merge: int = self._hf_config.vision_config.spatial_merge_size
        self._window_order = stock.part(self, "window_order").wrapped

    def cut_tower(self, settings: Settings) -> TowerCuts:
        """Register hooks on the blocks of the tower and on the merger, whose output is widened."""
        self._find_windows()
        if stock.uses_flashinfer(self):
            raise EngineRefusedError(
                "tokenprune: a cut inside the vision tower does not know the lengths that FlashInfer's "
                "attention is given; choose another --mm-encoder-attn-backend"
            )
        schedule = settings.method.schedule
        if schedule is None:
            raise EngineRefusedError("tokenprune: a cut inside the vision tower needs a layer")
        blocks = stock.part(self, "tower_blocks").wrapped
        cuts = TowerCuts(blocks, schedule.boundaries(settings.n_blocks), stock.arguments(self.family))
        cuts.widen_after(stock.part(self, "merging").wrapped)
        return cuts

    def _tower_images(self, patches: Sequence[Sequence[int]], shape: tuple[int, int]) -> list[TowerImage]:
        """Return the items of one sequence, whose tokens are in the order of windows."""
        images, start, per_token = [], 0, self._merge**2
        for t, h, w in patches:
            order = self._window_order(t, h, w)[0].argsort().cpu()
            rows = start + order[:, None] * per_token + torch.arange(per_token)
            images.append(TowerImage(rows, Layout((t, h // self._merge, w // self._merge))))
            start += t * h * w
        return images

    def encode_images(self, original: Callable[..., Any], inputs: Any) -> Any:
        """Encode and prune images."""
        return self._encode("image", inputs, original)

    def encode_videos(self, original: Callable[..., Any], inputs: Any) -> Any:
        """Encode and prune videos."""
        return self._encode("video", inputs, original)

    def _encode(self, modality: str, inputs: Any, original: Callable[[Any], Any]) -> Sequence[Tensor]:
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
            run = self._tower_run(modality, batch, grids[batch].tolist())
            with nullcontext() if self._tower_cuts is None else self._tower_cuts.running(run):
                item_rows = original(batch_inputs)
            kept += self._prune(modality, batch_inputs, item_rows, batch.start, run)
        return kept

    def _tower_run(self, modality: str, items: slice, patches: Sequence[Sequence[int]]) -> EngineRun | None:
        """Return the run of the tower over items; None if nothing is cut inside it."""
        budgets = self.item_budgets(modality, items)
        if self._tower_cuts is None or self.pruning is None or budgets is None:
            return None
        images = partial(self._tower_images, patches)
        cut = self.pruning.cut(budgets[0])
        return EngineRun(cut, self.pruning.n_blocks, images, budgets, packed=True)

    def _prune(
        self,
        modality: str,
        inputs: Any,
        item_rows: Sequence[Tensor],
        first: int,
        run: EngineRun | None,
    ) -> Sequence[Tensor]:
        """Prune items, and append to each row its offset from the first row of its item."""
        merge = self._merge
        self._patches = inputs[f"{modality}_grid_thw"].tolist()
        grids = [(t, h // merge, w // merge) for t, h, w in self._patches]
        layouts = [Layout(grid) for grid in grids]
        if self._tower_cuts is None:
            selections = self.select(modality, item_rows, layouts, self._signals, first)
        else:
            selections = [None] * len(item_rows) if run is None else run.tokens_left()
        seconds = inputs.get("second_per_grid_ts") if modality == "video" else None
        per_frame = [self._per_frame(seconds, i, modality) for i in range(len(grids))]
        return [
            with_offsets(kept_rows(rows, selection), _kept_offsets(grid_offsets(grid, step), selection))
            for rows, selection, grid, step in zip(item_rows, selections, grids, per_frame, strict=True)
        ]

    def _per_frame(self, seconds: Any, index: int, modality: str) -> float:
        """Return the difference in position between consecutive frames."""
        if modality == "image":
            return 1.0
        seconds_per_frame = 1.0 if seconds is None else float(seconds.flatten()[index])
        return seconds_per_frame * float(getattr(self._hf_config.vision_config, "tokens_per_second", 1.0))

    def initial_positions(
        self, original: Callable[..., Any], token_ids: list[int], features: Any
    ) -> tuple[Tensor, int]:
        """Return the positions of a prompt, as far as they are known before the tower runs."""
        placeholders = [
            stock.view("placeholder", stock.view("feature", feature).placeholder) for feature in features
        ]
        rows = {placeholder.start: placeholder.rows for placeholder in placeholders}
        spans = [
            (start, rows[start], grid_offsets((t, h, w), step))
            for start, t, h, w, step in self.item_grids(features)
        ]
        return prompt_positions(len(token_ids), spans)

    def tower_graphs(self, original: Callable[..., Any]) -> Any:
        """Disable the tower's CUDA graphs, which would bypass pruning."""
        return stock.disable_tower_graphs(original())

    def _signals(self, index: int) -> Mapping[str, Any]:
        """Return the signals of an item, which are computed on first use."""
        signals = {"projector": self.current_projector()} if "projector" in self._needs else {}
        names = self._needs - {"projector"}
        return signals | {name: partial(getattr(self, f"_{name}"), index) for name in names}

    def _in_token_order(self, patches: Tensor, index: int) -> Tensor:
        """Return the patches (N, P, ...) of an item's tokens, given all patches in window order (M, ...)."""
        t, h, w = self._patches[index]
        start = sum(a * b * c for a, b, c in self._patches[:index])
        item = patches[start : start + t * h * w]
        order = self._window_order(t, h, w)[0].argsort().to(item.device)
        return item.view(len(order), -1, *item.shape[1:])[order]

    def _pre_features(self, index: int) -> Tensor:
        """Return the merger's inputs, (N, P, D_v)."""
        return self._in_token_order(self._recorded["patches"].flatten(0, -2), index)

    def _heads(self, which: str) -> Tensor:
        """Return the "query" or "key" of the hooked block of all ranks, (M, H, d), in float32."""
        return gather_shards(self._recorded[which][0], 1, self._ranks).float()

    def _key_metric(self, index: int) -> Tensor:
        """Return the keys, averaged over heads and the patches of a token, (N, d_head)."""
        return self._in_token_order(self._heads("key").mean(1), index).mean(1)

    def _received_attention(self, index: int) -> Tensor:
        """Return the attention received within a frame, averaged over heads, queries and patches, (N,)."""
        query, key = self._heads("query").transpose(0, 1), self._heads("key").transpose(0, 1)  # (H, M, d)
        received = torch.zeros(query.shape[1], device=query.device)
        t, h, w = self._patches[index]
        start = sum(a * b * c for a, b, c in self._patches[:index])
        for frame in range(t):
            patches = slice(start + frame * h * w, start + (frame + 1) * h * w)
            received[patches] = mean_attention(query[:, patches], key[:, patches], query.shape[-1] ** -0.5)
        return self._in_token_order(received, index).mean(1)


def _kept_offsets(offsets: Tensor, selection: Selection | None) -> Tensor:
    """Gather the offsets (K, 3) of kept rows; a new row takes the offset of the next free token."""
    if selection is None:
        return offsets
    kept: Tensor = offsets[fill_new_rows(selection.indices.cpu(), len(offsets))]
    return kept


PrunedQwen25VL = prunable("PrunedQwen25VL", Qwen25VLModel, Qwen25VLInfo)
