# SPDX-License-Identifier: Apache-2.0
"""Describe the vision towers of families in a table: where their blocks are, and what becomes a token."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune import UnsupportedCallError
from tokenprune.towers.image import TowerImage

from .. import stock
from .parts import TowerParts
from .squares import square_images, squares


@dataclass(frozen=True)
class TowerKind:
    """Where the blocks of one kind of tower are.

    `blocks` is their path in the tower, and `attention` the name of a block's attention module. `packed`:
    the rows of all images are one sequence. `takes`: what blocks are passed for each row. `pixels`: the tower
    is passed the pixels of each of its rows, in their order. `windowed`: the tower has its tokens in the
    order of windows. `apart_since`: the transformers from which it keeps the images of a call apart.
    """

    blocks: str
    attention: str = "self_attn"
    packed: bool = False
    takes: tuple[str, ...] = ()
    pixels: bool = False
    windowed: bool = False
    apart_since: str = ""


_SIGLIP = TowerKind("encoder.layers")
_SEGMENTED = TowerKind("encoder.layers", packed=True, takes=("segments", "rotated"), pixels=True)
_LIKE_QWEN = dataclasses.replace(_SEGMENTED, blocks="blocks", attention="attn")
_WINDOWED = dataclasses.replace(_LIKE_QWEN, pixels=False, windowed=True)

KINDS: Mapping[str, TowerKind] = {  # by the type of the tower's configuration
    "clip_vision_model": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "idefics3_vision": _SIGLIP,
    "smolvlm_vision": _SIGLIP,
    "janus_vision_model": _SIGLIP,
    "ovis2_vision": TowerKind("transformer.encoder.layers", "attention"),
    "internvl_vision": TowerKind("encoder.layer", "attention"),
    "qianfan_ocr_vision": TowerKind("layers", "attention"),
    "pixtral": TowerKind("transformer.layers", "attention", packed=True, takes=("mask", "rotated")),
    "paddleocr_vl_vision": _SEGMENTED,
    "video_llama_3_vision": _SEGMENTED,
    "cosmos3_edge_vision": dataclasses.replace(_SEGMENTED, takes=("segments",)),
    "cohere_compass_vision": _LIKE_QWEN,
    "ernie4_5_vl_moe_vision": _LIKE_QWEN,
    "minimax_m3_vl_vision": dataclasses.replace(_SEGMENTED, blocks="layers", takes=(), apart_since="5.23"),
    "exaone4_5_vision": _WINDOWED,
    "glm_ocr_vision": _LIKE_QWEN,
    "qwen2_5_vl_vision": _WINDOWED,
    "qwen3_vl_vision": _LIKE_QWEN,
    "kimi_k25_vision": dataclasses.replace(_LIKE_QWEN, blocks="layers"),
}
CLASS_TOKENS = ("class_embedding", "cls_token")  # attributes of embeddings that begin with one


@dataclass(frozen=True)
class FamilyTower:
    """The vision tower of a family, and which of its rows become which token.

    Attributes
    ----------
    kinds
        The tested kinds of towers, keys of `KINDS`.
    path
        Where the tower is in the inner model.
    row_wise
        Where the modules with one row for each token are in the inner model; their outputs are widened.
        Without any, the rows of the tower are, for a connector that needs the whole grid.
    whole
        Where the module is in the tower whose rows are widened then; by default it is the tower.
    side
        Returns the side, in patches, of the square that becomes a token, from the configuration.
    skips_first
        Whether the first row of each image is skipped after the tower, where no setting says it.
    told_by
        The argument that says how many patches each image of a packed tower has: "sizes" in pixels, or
        "image_grids".
    grouped
        Whether the patches of a token follow each other in a packed tower, instead of the grid's rows.
    """

    kinds: tuple[str, ...]
    path: str = "vision_tower"
    row_wise: tuple[str, ...] = ()
    whole: str = ""
    side: Callable[[Any], int] = lambda config: 1
    skips_first: bool = False
    told_by: str = ""
    grouped: bool = False

    def why_not(self, inner: nn.Module, config: Any) -> str:
        """Why tokens cannot be cut inside the tower of a model; empty if they can."""
        kind = config.vision_config.model_type
        if kind not in self.kinds:
            kind = kind or type(config.vision_config).__name__  # some have no type in older transformers
            return f"cuts inside a tower of the type {kind} were not tested"
        since = KINDS[kind].apart_since
        if since and stock.is_before(since):
            return (
                f"transformers {stock.installed_version()} lets the images of a call attend to each other in "
                f"its tower, which transformers {since} corrected"
            )
        try:
            n_prefix = self._parts(inner, config).n_prefix
        except AttributeError as error:
            return f"its tower of the type {kind} has another structure here ({error})"
        rule = stock.configured(config, ("feature_rule",)).get("feature_rule")
        skips = self.skips_first if rule is None else rule == "default"
        if bool(n_prefix) == skips:
            return ""
        what = "its projector" if rule is None else f"{stock.argument_name('feature_rule')}={rule!r}"
        if n_prefix:
            return f"{what} makes the class token a visual token"
        return f"{what} drops the first patch of a tower without a class token"

    def parts(self, inner: nn.Module, config: Any) -> TowerParts | None:
        """The parts of the tower of a model; None if tokens cannot be cut inside it."""
        return None if self.why_not(inner, config) else self._parts(inner, config)

    def _parts(self, inner: nn.Module, config: Any) -> TowerParts:
        kind = KINDS[config.vision_config.model_type]
        module = inner.get_submodule(self.path)
        owner: Any = getattr(module, "vision_model", module)
        blocks: Any = owner.get_submodule(kind.blocks)
        embeddings = getattr(owner, "embeddings", None)
        return TowerParts(
            module=module,
            blocks=blocks,
            n_projected=n_projected(config, len(blocks)),
            widened=tuple(_modules(inner, self.row_wise)),
            attention=lambda i: getattr(blocks[i], kind.attention),
            n_prefix=int(any(hasattr(embeddings, name) for name in CLASS_TOKENS)),
            packed=kind.packed,
            rows_widened=None if self.row_wise else owner.get_submodule(self.whole) if self.whole else module,
            takes=kind.takes,
            pixels=kind.pixels,
        )

    def words(self, config: Any, modality: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Arguments of the encoder to read: settings that a call can override, and what tells the patches."""
        if modality != "image":
            return (), ()
        settings = tuple(stock.configured(config, stock.PROJECTED))
        return settings, (self.told_by, "merge_sizes") if self.told_by else ()

    def images(
        self, inner: nn.Module, config: Any, arguments: Mapping[str, Any], shape: tuple[int, int]
    ) -> list[TowerImage]:
        """The images in one run of the tower over (B, M) rows, from the encoder's arguments.

        Raises
        ------
        UnsupportedCallError
            When the arguments do not say how the rows are divided.
        """
        parts = self._parts(inner, config)
        if not parts.packed:
            return square_images(shape, parts.n_prefix, self.side(config))
        images, n_told = [], 0
        told, sides = arguments.get(self.told_by), arguments.get("merge_sizes")
        if told is None or (sides is None and self.side is told_with_images):
            raise UnsupportedCallError(
                f"a cut inside this vision tower needs the argument {stock.argument_name(self.told_by)} of "
                "pictures, which this call does not pass (videos are not cut there); pass what the processor "
                "returns, or prune at the projector stage"
            )
        for number, grid in enumerate(torch.as_tensor(told).tolist()):
            height, width = self._patches(config, grid)
            side = self.side(config) if sides is None else int(sides[number])
            rows, layout = squares(height, width, side)
            if self.grouped:
                rows = torch.arange(rows.numel()).view(rows.shape)
            images.append(TowerImage(rows + n_told, layout))
            n_told += rows.numel()
        if n_told != shape[1]:
            raise UnsupportedCallError(
                f"{stock.argument_name(self.told_by)} makes {n_told} patches of one frame, and the vision "
                f"tower has {shape[1]} rows; pass what the processor returns, or remove the pruning"
            )
        if not KINDS[config.vision_config.model_type].windowed:
            return images
        places = window_places(parts.module, told)
        in_order = torch.cat([image.rows for image in images])[places]
        divided = torch.split(in_order, [len(image.rows) for image in images])
        return [dataclasses.replace(image, rows=rows) for image, rows in zip(images, divided, strict=True)]

    def _patches(self, config: Any, grid: Sequence[int]) -> tuple[int, int]:
        """Height and width in patches, from frames, height and width in patches, or a size in pixels."""
        height, width = grid[-2:]
        side = 1 if len(grid) > 2 else config.vision_config.patch_size
        return height // side, width // side


def _modules(inner: nn.Module, paths: Sequence[str]) -> Iterator[nn.Module]:
    """Modules by their paths; a list stands for all in it."""
    for path in paths:
        module = inner.get_submodule(path)
        yield from module if isinstance(module, nn.ModuleList) else (module,)


def n_projected(config: Any, n_blocks: int) -> int:
    """How many blocks come before the projector: hidden state i > 0 is the output of block i - 1."""
    layers = stock.configured(config, ("feature_layer",)).get("feature_layer")
    if layers is None:
        return n_blocks
    listed = layers if isinstance(layers, (list, tuple)) else [layers]
    return int(max(layer % (n_blocks + 1) for layer in listed))


def window_places(tower: Any, grids: Tensor) -> Tensor:
    """The place of each token among those of a tower that has them in the order of windows, (tokens,)."""
    window: Any = sys.modules[type(tower).__module__].get_vision_window_index
    index, _ = window(
        grids,
        spatial_merge_size=tower.spatial_merge_size,
        window_size=tower.window_size,
        patch_size=tower.patch_size,
        kwargs={},
    )
    return torch.as_tensor(index).argsort().cpu()


def pixels_of_rows(pixels: Tensor, rows: Tensor) -> Tensor:
    """The pixels (N, P * values) of each token, from those of a tower's rows in their order."""
    of_rows = pixels.reshape(-1, *pixels.shape[-3:]) if pixels.ndim > 3 else pixels
    return of_rows.flatten(1)[rows.to(pixels.device)].flatten(1)


def told_with_images(config: Any) -> int:
    """The side of the squares of models whose calls bring it with each image."""
    raise NotImplementedError
