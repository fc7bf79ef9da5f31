# SPDX-License-Identifier: Apache-2.0
"""Qwen2.5-VL in vLLM, images and video. Kept rows keep their positions; the tower works in window order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from tokenprune import Layout, Selection
from tokenprune.functional import mean_attention
from tokenprune.selection import fill_new_rows

from . import stock
from .errors import EngineRefusedError
from .info import PruningInfo
from .model import PruningModel, kept_rows
from .positions import OwnPositions, grid_offsets, prompt_positions, with_offsets
from .processing import prunable
from .projector import ReadProjector
from .ranks import whole

SIGNALS = frozenset({"pre_features", "projector", "received_attention", "key_metric"})


class Qwen25VLInfo(PruningInfo):
    """Counts of a Qwen2.5-VL whose pictures are pruned."""

    family: ClassVar[str] = "qwen2.5-vl"
    modalities: ClassVar[tuple[str, ...]] = ("image", "video")
    positions: ClassVar[tuple[str, ...]] = ("original",)

    @classmethod
    def signals(cls, config: Any) -> frozenset[str]:
        """There is no class token."""
        return SIGNALS

    def n_whole(self, modality: str, picture: Any) -> int:
        """Tokens of a picture or video, from its grid of patches."""
        merge: int = self.config.vision_config.spatial_merge_size
        grid = stock.view("picture_for_the_worker", picture[f"{modality}_grid_thw"]).value
        return int(grid.prod()) // merge**2


class Qwen25VLModel(PruningModel, OwnPositions):
    """vLLM's Qwen2.5-VL; its pictures are pruned where that is configured."""

    family: ClassVar[str] = "qwen2.5-vl"
    grids: Callable[[Any], Any]  # vLLM's

    def check_engine(self, vllm_config: Any) -> None:
        """Refuse what would run the decoder without its positions being mended first."""
        super().check_engine(vllm_config)
        options = stock.options(vllm_config)
        for wrong, why in (
            (options.decoder_stages > 1, "--pipeline-parallel-size above 1"),
            (options.speculation is not None, "speculative decoding"),
            (options.divided_steps, "--enable-dbo or --ubatch-size"),
            (options.prompt_embeddings, "--enable-prompt-embeds"),
            (stock.whole_graphs(vllm_config), "cudagraph_mode FULL"),
        ):
            if wrong:
                raise EngineRefusedError(
                    f"tokenprune: {why} does not go together with pruning of this model, whose kept rows "
                    "keep their positions; leave it out"
                )
        # a last row of a picture alone in its step would run as decoding, in a graph without our mending
        stock.without_graphs_for_decoding(vllm_config)

    def watch(self, needs: frozenset[str]) -> None:
        """Put hooks on the merger's norm and on the last block that sees the whole picture."""
        self._needs = needs
        self._merge: int = self._hf_config.vision_config.spatial_merge_size
        self._window_order = stock.part(self, "window_order").thing
        norm = stock.part(self, "norm")
        if "pre_features" in needs:
            norm.thing.register_forward_pre_hook(  # the merger itself goes past its hooks
                lambda module, args: self._seen.update(patches=args[0])
            )
        if needs & {"received_attention", "key_metric"}:
            attention = stock.part(self, "attention", max(stock.part(self, "whole_blocks").thing))
            self._ranks = int(attention.ranks)
            stock.watch_attention(attention, lambda query, key: self._seen.update(query=query, key=key))
        if "projector" in needs:
            first, second = stock.part(self, "first_layer"), stock.part(self, "second_layer")
            self._projector = ReadProjector(first, stock.part(self, "activation").thing, second, norm)

    def images(self, vllm: Callable[..., Any], given: Any) -> Any:
        """Encode and prune images."""
        return self._process("image", given, vllm)

    def videos(self, vllm: Callable[..., Any], given: Any) -> Any:
        """Encode and prune videos."""
        return self._process("video", given, vllm)

    def _process(self, modality: str, given: Any, encode: Callable[[Any], Any]) -> Sequence[Tensor]:
        """Encode, as many at once as the tower bears; prune."""
        grids = given[f"{modality}_grid_thw"]
        patches = grids.prod(-1).tolist()
        kept: list[Tensor] = []
        for part in self.parts([n // self._merge**2 for n in patches]):
            some = stock.some_of(given, **{f"{modality}_grid_thw": grids[part]})
            rows = slice(sum(patches[: part.start]), sum(patches[: part.stop]))
            for name in ("pixel_values", "pixel_values_videos"):
                if given.get(name) is not None:
                    some[name] = given[name][rows]
            for name in ("image_embeds", "video_embeds"):
                if given.get(name) is not None:
                    merged = self._merge**2
                    some[name] = given[name][rows.start // merged : rows.stop // merged]
            if given.get("second_per_grid_ts") is not None:
                some["second_per_grid_ts"] = given["second_per_grid_ts"].flatten()[part]
            kept += self._prune(modality, some, encode(some), part.start)
        return kept

    def _prune(self, modality: str, given: Any, pictures: Sequence[Tensor], first: int) -> Sequence[Tensor]:
        """Prune, and give every row its distance from the picture's first."""
        merge = self._merge
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
        return each * float(getattr(self._hf_config.vision_config, "tokens_per_second", 1.0))

    def first_positions(
        self, vllm: Callable[..., Any], token_ids: list[int], features: Any
    ) -> tuple[Tensor, int]:
        """Positions of a prompt as far as they are known before the tower ran."""
        places = [stock.view("place", stock.view("feature", one).place) for one in features]
        rows = {place.begin: place.rows for place in places}
        spans = [
            (begin, rows[begin], grid_offsets((t, h, w), pace))
            for begin, t, h, w, pace in self.grids(features)
        ]
        return prompt_positions(len(token_ids), spans)

    def tower_graphs(self, vllm: Callable[..., Any]) -> Any:
        """No graphs of the tower while pruning: they would go past what is added behind it."""
        return stock.without_pictures(vllm())

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
        order = self._window_order(t, h, w)[0].argsort().to(own.device)
        return own.view(len(order), -1, *own.shape[1:])[order]

    def _pre_features(self, number: int) -> Tensor:
        """Merger inputs, (N, P, D_v)."""
        return self._in_token_order(self._seen["patches"].flatten(0, -2), number)

    def _heads(self, which: str) -> Tensor:
        """Queries or keys of the watched block, of all ranks, (M, H, d), float32."""
        return whole(self._seen[which][0], 1, self._ranks).float()

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


PrunedQwen25VL = prunable("PrunedQwen25VL", Qwen25VLModel, Qwen25VLInfo)
