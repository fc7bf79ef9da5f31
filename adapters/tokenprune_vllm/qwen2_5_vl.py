# SPDX-License-Identifier: Apache-2.0
"""Qwen2.5-VL in vLLM, images and video. Kept rows keep their positions; the tower works in window order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from vllm.model_executor.models import qwen2_5_vl

from tokenprune import Layout, Selection
from tokenprune.functional import mean_attention
from tokenprune.selection import fill_new_rows

from .errors import EngineRefusedError
from .info import PruningInfo
from .model import PruningModel, kept_rows
from .positions import OwnPositions, grid_offsets, prompt_positions, with_offsets
from .processing import PruningProcessor, prunable
from .projector import ReadProjector
from .ranks import whole

SIGNALS = frozenset({"pre_features", "projector", "received_attention", "key_metric"})


class PrunedQwen25VLInfo(PruningInfo, qwen2_5_vl.Qwen2_5_VLProcessingInfo):  # type: ignore[misc]
    """Counts of a Qwen2.5-VL whose pictures are pruned."""

    family: ClassVar[str] = "qwen2.5-vl"
    modalities: ClassVar[tuple[str, ...]] = ("image", "video")
    positions: ClassVar[tuple[str, ...]] = ("original",)

    @classmethod
    def signals(cls, hf_config: Any) -> frozenset[str]:
        """There is no class token."""
        return SIGNALS

    def n_whole(self, modality: str, item: Any) -> int:
        """Tokens of a picture or video, from its grid of patches."""
        merge: int = self.get_hf_config().vision_config.spatial_merge_size
        return int(item[f"{modality}_grid_thw"].data.prod()) // merge**2


class PrunedQwen25VLProcessor(  # type: ignore[misc]
    PruningProcessor, qwen2_5_vl.Qwen2_5_VLMultiModalProcessor
):
    """Placeholders of a Qwen2.5-VL whose pictures are pruned."""


@prunable(qwen2_5_vl.Qwen2_5_VLForConditionalGeneration, PrunedQwen25VLInfo, PrunedQwen25VLProcessor)
class PrunedQwen25VL(  # type: ignore[misc]
    PruningModel, OwnPositions, qwen2_5_vl.Qwen2_5_VLForConditionalGeneration
):
    """vLLM's Qwen2.5-VL; its pictures are pruned where that is configured."""

    def check_engine(self, vllm_config: Any) -> None:
        """Refuse what would run the decoder without its positions being mended first."""
        super().check_engine(vllm_config)
        parallel, graphs = vllm_config.parallel_config, vllm_config.compilation_config.cudagraph_mode
        for wrong, why in (
            (parallel.pipeline_parallel_size > 1, "--pipeline-parallel-size above 1"),
            (vllm_config.speculative_config is not None, "speculative decoding"),
            (parallel.use_ubatching, "--enable-dbo or --ubatch-size"),
            (vllm_config.model_config.enable_prompt_embeds, "--enable-prompt-embeds"),
            (graphs is not None and graphs.mixed_mode().name == "FULL", "cudagraph_mode FULL"),
        ):
            if wrong:
                raise EngineRefusedError(
                    f"tokenprune: {why} does not go together with pruning of this model, whose kept rows "
                    "keep their positions; leave it out"
                )
        if graphs is not None and graphs.separate_routine():
            # a last row of a picture alone in its step would run as decoding, in a graph without our mending
            vllm_config.compilation_config.cudagraph_mode = graphs.mixed_mode()

    def watch(self, needs: frozenset[str]) -> None:
        """Put hooks on the merger's norm and on the last block that sees the whole picture."""
        self._needs = needs
        if "pre_features" in needs:
            self.visual.merger.ln_q.register_forward_pre_hook(  # the merger itself goes past its hooks
                lambda module, args: self._seen.update(patches=args[0])
            )
        if needs & {"received_attention", "key_metric"}:
            attention = self.visual.blocks[max(self.visual.fullatt_block_indexes)].attn
            attention.attn.register_forward_pre_hook(
                lambda module, args, kwargs: self._seen.update(query=kwargs["query"], key=kwargs["key"]),
                with_kwargs=True,
            )

    @cached_property
    def _projector(self) -> ReadProjector:
        merger = self.visual.merger
        return ReadProjector(merger.mlp[0], merger.mlp[1], merger.mlp[2], merger.ln_q)

    def _process_image_input(self, image_input: Any) -> Any:
        return self._process("image", image_input, super()._process_image_input)

    def _process_video_input(self, video_input: Any) -> Any:
        return self._process("video", video_input, super()._process_video_input)

    def _process(self, modality: str, given: Any, encode: Callable[[Any], Any]) -> Sequence[Tensor]:
        """Encode, as many at once as the tower bears; prune."""
        if self.pruning is None:
            return cast("Sequence[Tensor]", encode(given))
        grids = given[f"{modality}_grid_thw"]
        patches = grids.prod(-1).tolist()
        kept: list[Tensor] = []
        for part in self.parts([n // self.visual.spatial_merge_size**2 for n in patches]):
            some = {"type": given["type"], f"{modality}_grid_thw": grids[part]}
            rows = slice(sum(patches[: part.start]), sum(patches[: part.stop]))
            for name in ("pixel_values", "pixel_values_videos"):
                if given.get(name) is not None:
                    some[name] = given[name][rows]
            for name in ("image_embeds", "video_embeds"):
                if given.get(name) is not None:
                    merged = self.visual.spatial_merge_size**2
                    some[name] = given[name][rows.start // merged : rows.stop // merged]
            if given.get("second_per_grid_ts") is not None:
                some["second_per_grid_ts"] = given["second_per_grid_ts"].flatten()[part]
            kept += self._prune(modality, some, encode(some), part.start)
        return kept

    def _prune(self, modality: str, given: Any, pictures: Sequence[Tensor], first: int) -> Sequence[Tensor]:
        """Prune, and give every row its distance from the picture's first."""
        merge = self.visual.spatial_merge_size
        self._patches = given[f"{modality}_grid_thw"].tolist()
        grids = [(t, h // merge, w // merge) for t, h, w in self._patches]
        chosen = self.select(modality, pictures, [Layout(grid) for grid in grids], self._signals, first)
        seconds = given.get("second_per_grid_ts") if modality == "video" else None
        per_frame = [self._per_frame(seconds, i, modality) for i in range(len(grids))]
        return [
            with_offsets(kept_rows(rows, one), _kept_offsets(grid_offsets(grid, pace), one))
            for rows, one, grid, pace in zip(pictures, chosen, grids, per_frame, strict=True)
        ]

    def _per_frame(self, seconds: Any, number: int, modality: str) -> float:
        if modality == "image":
            return 1.0
        each = 1.0 if seconds is None else float(seconds.flatten()[number])
        return each * float(getattr(self.config.vision_config, "tokens_per_second", 1.0))

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: Any) -> tuple[Tensor, int]:
        """Positions of a prompt as far as they are known before the tower ran; of vLLM without pruning."""
        if self.pruning is None:
            stock: tuple[Tensor, int] = super().get_mrope_input_positions(input_tokens, mm_features)
            return stock
        rows = {f.mm_position.offset: f.mm_position.length for f in mm_features}
        spans = [
            (offset, rows[offset], grid_offsets((t, h, w), pace))
            for offset, t, h, w, pace in self.iter_mm_grid_thw(mm_features)
        ]
        return prompt_positions(len(input_tokens), spans)

    def get_encoder_cudagraph_config(self) -> Any:
        """No graphs of the tower while pruning: they would go past what is added behind it."""
        config = super().get_encoder_cudagraph_config()
        if self.pruning is not None:
            config.modalities = []
        return config

    def _signals(self, number: int) -> Mapping[str, Any]:
        """Signals of one picture, computed when asked for."""
        given = {"projector": self.projector_now()} if "projector" in self._needs else {}
        names = self._needs - {"projector"}
        return given | {name: partial(getattr(self, f"_{name}"), number) for name in names}

    def _in_token_order(self, patches: Tensor, number: int) -> Tensor:
        """Rows of all patches in window order (M, ...) -> one picture's tokens' patches (N, P, ...)."""
        t, h, w = self._patches[number]
        start = sum(a * b * c for a, b, c in self._patches[:number])
        own = patches[start : start + t * h * w]
        order = self.visual.get_window_index_thw(t, h, w)[0].argsort().to(own.device)
        return own.view(len(order), -1, *own.shape[1:])[order]

    def _pre_features(self, number: int) -> Tensor:
        """Merger inputs, (N, P, D_v)."""
        return self._in_token_order(self._seen["patches"].flatten(0, -2), number)

    def _heads(self, which: str) -> Tensor:
        """Queries or keys of the watched block, of all ranks, (M, H, d), float32."""
        return whole(self._seen[which][0], 1, self.visual.tp_size).float()

    def _key_metric(self, number: int) -> Tensor:
        """Keys, mean over heads and the token's patches, (N, d_head)."""
        return self._in_token_order(self._heads("key").mean(1), number).mean(1)

    def _received_attention(self, number: int) -> Tensor:
        """Attention received in its frame, mean over heads, queries and the token's patches, (N,)."""
        query, key = self._heads("query").transpose(0, 1), self._heads("key").transpose(0, 1)  # (H, M, d)
        received = torch.zeros(query.shape[1], device=query.device)
        t, h, w = self._patches[number]
        start = sum(a * b * c for a, b, c in self._patches[:number])
        for frame in range(t):
            now = slice(start + frame * h * w, start + (frame + 1) * h * w)
            received[now] = mean_attention(query[:, now], key[:, now], query.shape[-1] ** -0.5)
        return self._in_token_order(received, number).mean(1)


def _kept_offsets(offsets: Tensor, selection: Selection | None) -> Tensor:
    """Distances (K, 3) of the rows that stay; a new row takes the next free token's."""
    if selection is None:
        return offsets
    kept: Tensor = offsets[fill_new_rows(selection.indices.cpu(), len(offsets))]
    return kept
