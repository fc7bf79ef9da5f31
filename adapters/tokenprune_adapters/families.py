# SPDX-License-Identifier: Apache-2.0
"""Vision-language models with the usual structure of transformers 5: a table of families and its adapter.

The inner model encodes images, replaces the embeddings of placeholder tokens with their rows, and calls a
language model. The adapter does not provide what a family lacks (the tower's attention, projector inputs that
match tokens one to one, cuts inside the decoder); methods that need it are refused with an error naming it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tokenprune import IncompatibleError, Layout, Projector
from tokenprune.projector import in_float32

from .transformers import forms, pictures, stock
from .transformers.encoded import Encoded, ImageSignal
from .transformers.grids import grid_of, square_of
from .transformers.structural import StructuralAdapter
from .transformers.tower.described import FamilyTower, pixels_of_rows, told_with_images


@dataclass(frozen=True)
class Family:
    """How the models of a family differ from the usual structure.

    `rows` finds the row-wise part of the projector, None if its inputs do not match tokens one to one.
    `both_ways`: image tokens attend to each other bidirectionally. `unit`: the side in pixels of the square
    that a token covers, in models that keep the aspect ratio and receive the size. `prefix`: the prompt's
    tokens attend to each other bidirectionally, and the answer's tokens are marked as different.
    `rows_first`: pixel values have an entry for each row of the batch. `marks`: the model is told which
    tokens belong to an image, by `MODALITY_KINDS`. `counts_padding`: `generate` leaves positions to the
    model, which counts padding; signals that depend on absolute positions are not provided. `norm`: the norm
    before the attention of a decoder layer. `tower`: the vision tower, if tokens can be cut inside it.

    For the random inputs of checks: `picture` makes a picture from a generator and the configuration, by keys
    of `stock.ARGUMENTS`, where its format differs from what the other fields tell. `frame` names the settings
    of the configuration with the tokens before and after an image.
    """

    rows: Callable[[Any], forms.RowWise] | None = None
    both_ways: bool = False
    unit: Callable[[Any], int] | None = None
    prefix: bool = False
    rows_first: bool = False
    marks: bool = False
    counts_padding: bool = False
    picture: Callable[[torch.Generator, Any], Mapping[str, Tensor]] | None = None
    frame: tuple[str, ...] = ()
    norm: str = "input_layernorm"
    tower: FamilyTower | None = None


def _merged_patch(config: Any) -> int:
    """Side in pixels of the patches that are merged into a token."""
    side: int = config.vision_config.patch_size * config.spatial_merge_size
    return side


def _convolved(draw: torch.Generator, config: Any) -> Mapping[str, Tensor]:
    """A picture for a tower of convolutions, which takes any size."""
    return pictures.square(draw, 128)


def _one_tile(draw: torch.Generator, config: Any) -> Mapping[str, Tensor]:
    """A picture of one tile, for a tower of timm."""
    tile = pictures.square(draw, config.vision_config.model_args["img_size"][0])
    return {"images": tile["images"][None]}


def _placed(draw: torch.Generator, config: Any) -> Mapping[str, Tensor]:
    """A picture as patches, one for each token."""
    vision = config.vision_config
    return pictures.placed_patches(draw, pictures.N_UNITS // 2, 3 * vision.model_patch_size**2)


def _layers(path: str) -> Callable[[Any], forms.RowWise]:
    """The layers of a projector, by its path in the inner model; of the last of several."""

    def rows(inner: Any) -> forms.RowWise:
        module = inner.get_submodule(path)
        return forms.of_layers(module[-1] if isinstance(module, nn.ModuleList) else module)

    return rows


_VISION = ("vision_start_token_id", "vision_end_token_id")
_IMAGE = ("image_start_token_id", "image_end_token_id")
_BOI = ("boi_token_id", "eoi_token_id")
_SIGLIP = ("siglip_vision_model",)
_IDEFICS = Family(
    _layers("connector.modality_projection.proj"),
    rows_first=True,
    tower=FamilyTower(
        ("idefics3_vision", "smolvlm_vision"), "vision_model", side=lambda config: config.scale_factor
    ),
)


def _shuffled(config: Any) -> int:
    """Side of the squares of patches that InternVL's pixel shuffle makes one row of."""
    side: int = round(1 / config.downsample_ratio)
    return side


def _pooled(config: Any) -> int:
    """Side of the squares of patches that Gemma 3 averages."""
    vision = config.vision_config
    return int(vision.image_size // vision.patch_size // config.mm_tokens_per_image**0.5)


def _merged(config: Any) -> int:
    """Side of the squares of patches that are merged, a setting of the model or of its tower."""
    holder = config if hasattr(config, "spatial_merge_size") else config.vision_config
    side: int = holder.spatial_merge_size
    return side


def _kernel(config: Any) -> int:
    """Side of the squares of patches that Kimi merges."""
    side: int = config.vision_config.merge_kernel_size[0]
    return side


def _like_qwen(kind: str, *mergers: str) -> FamilyTower:
    """A tower whose patches come token by token, and mergers with a row for each token."""
    paths = mergers or ("visual.merger",)
    return FamilyTower((kind,), "visual", row_wise=paths, side=_merged, told_by="image_grids", grouped=True)


_DEEPSTACK = ("visual.merger", "visual.deepstack_merger_list")


ABSOLUTE = frozenset({"keys", "text_keys"})  # signals that depend on absolute positions

FAMILIES: Mapping[str, Family] = {
    "AyaVisionForConditionalGeneration": Family(
        rows=lambda inner: forms.of_gated_layers(inner.multi_modal_projector),
        tower=FamilyTower(_SIGLIP, side=lambda config: config.downsample_factor),
    ),
    "Gemma3ForConditionalGeneration": Family(
        rows=lambda inner: forms.of_pooled_norm(inner.multi_modal_projector),
        both_ways=True,
        tower=FamilyTower(_SIGLIP, side=_pooled),
    ),
    "Idefics3ForConditionalGeneration": _IDEFICS,
    "InternVLForConditionalGeneration": Family(
        _layers("multi_modal_projector"), tower=FamilyTower(("internvl_vision",), side=_shuffled)
    ),
    "Mistral3ForConditionalGeneration": Family(
        _layers("multi_modal_projector"),
        unit=_merged_patch,
        tower=FamilyTower(("pixtral",), side=_merged, told_by="sizes"),
    ),
    "PaliGemmaForConditionalGeneration": Family(
        _layers("multi_modal_projector"),
        both_ways=True,
        prefix=True,
        tower=FamilyTower(_SIGLIP, row_wise=("multi_modal_projector",)),
    ),
    "SmolVLMForConditionalGeneration": _IDEFICS,
    "Apertus1p5ForConditionalGeneration": Family(
        picture=lambda draw, config: pictures.coded(draw, config.vision_config), norm="attention_layernorm"
    ),
    "AriaForConditionalGeneration": Family(),
    "Cohere2VisionForConditionalGeneration": Family(
        tower=FamilyTower(_SIGLIP, side=lambda config: config.downsample_factor)
    ),
    "CohereCompassForConditionalGeneration": Family(
        _layers("visual.merger"),
        picture=pictures.patches,
        frame=_VISION,
        marks=True,
        tower=_like_qwen("cohere_compass_vision", *_DEEPSTACK),
    ),
    "Cosmos3EdgeForConditionalGeneration": Family(
        _layers("projector"),
        picture=pictures.patches,
        frame=_VISION,
        marks=True,
        tower=_like_qwen("cosmos3_edge_vision", "projector"),
    ),
    "Cosmos3OmniForConditionalGeneration": Family(
        _layers("visual.merger"),
        picture=pictures.patches,
        frame=_VISION,
        marks=True,
        tower=_like_qwen("qwen3_vl_vision", *_DEEPSTACK),
    ),
    "DeepseekOcr2ForConditionalGeneration": Family(
        picture=lambda draw, config: pictures.square(draw, config.vision_config.sam_config.image_size)
    ),
    "DeepseekVLForConditionalGeneration": Family(
        _layers("aligner"), tower=FamilyTower(_SIGLIP, "vision_model", row_wise=("aligner",))
    ),
    "DeepseekVLHybridForConditionalGeneration": Family(picture=pictures.two_resolutions),
    "Emu3ForConditionalGeneration": Family(
        picture=lambda draw, config: pictures.coded(draw, config.vq_config)
    ),
    "Ernie4_5_VLMoeForConditionalGeneration": Family(
        picture=pictures.patches,
        frame=_IMAGE,
        marks=True,
        tower=FamilyTower(("ernie4_5_vl_moe_vision",), side=_merged, told_by="image_grids", grouped=True),
    ),
    "Exaone4_5_ForConditionalGeneration": Family(
        picture=pictures.patches, tower=_like_qwen("exaone4_5_vision")
    ),
    "FastVlmForConditionalGeneration": Family(_layers("multi_modal_projector"), picture=_convolved),
    "FuyuForCausalLM": Family(),
    "Gemma3nForConditionalGeneration": Family(picture=_convolved, frame=_BOI),
    "Gemma4UnifiedForConditionalGeneration": Family(picture=_placed, frame=_BOI, marks=True),
    "GlmOcrForConditionalGeneration": Family(
        picture=pictures.patches, frame=_IMAGE, marks=True, tower=_like_qwen("glm_ocr_vision")
    ),
    "GotOcr2ForConditionalGeneration": Family(_layers("multi_modal_projector")),
    "GraniteDoclingForConditionalGeneration": Family(picture=pictures.masked_tiles, rows_first=True),
    "HyperCLOVAXVisionV2ForConditionalGeneration": Family(
        _layers("projector"),
        counts_padding=True,
        picture=pictures.patches,
        tower=FamilyTower(
            ("qwen2_5_vl_vision",),
            "vision_model",
            row_wise=("vision_model.merger",),
            side=_merged,
            told_by="image_grids",
            grouped=True,
        ),
    ),
    "Idefics2ForConditionalGeneration": Family(rows_first=True),
    "JanusForConditionalGeneration": Family(
        tower=FamilyTower(("janus_vision_model",), "vision_model", row_wise=("aligner",))
    ),
    "Kimi_K25ForConditionalGeneration": Family(
        _layers("mm_projector"),
        picture=pictures.square_patches,
        tower=FamilyTower(("kimi_k25_vision",), whole="final_layernorm", side=_kernel, told_by="image_grids"),
    ),
    "Lfm2VlForConditionalGeneration": Family(
        _layers("multi_modal_projector"), picture=pictures.masked_patches
    ),
    "Lfm3VlForConditionalGeneration": Family(_layers("multi_modal_projector"), picture=pictures.patches),
    "LightOnOcrForConditionalGeneration": Family(
        _layers("vision_projection"),
        unit=_merged_patch,
        tower=FamilyTower(("pixtral",), "vision_encoder", side=_merged, told_by="sizes"),
    ),
    "Llama4ForConditionalGeneration": Family(),
    "LlavaNextVideoForConditionalGeneration": Family(),
    "MiniCPMOcrForConditionalGeneration": Family(_layers("merger.mlp"), picture=pictures.side_by_side),
    "MiniCPMV4_6ForConditionalGeneration": Family(_layers("merger.mlp"), picture=pictures.side_by_side),
    "MiniCPMV4_7ForConditionalGeneration": Family(
        _layers("merger.mlp"),
        picture=pictures.side_by_side,
        frame=("image_start_id", "image_end_id"),
        marks=True,
    ),
    "MiniMaxM3SparseForConditionalGeneration": Family(
        _layers("multi_modal_projector"),
        picture=pictures.patches,
        tower=FamilyTower(("minimax_m3_vl_vision",), side=_merged, told_by="image_grids", grouped=True),
    ),
    "Molmo2ForConditionalGeneration": Family(
        picture=pictures.pooled, frame=_IMAGE, marks=True, both_ways=True
    ),
    "MuseGlimmerForConditionalGeneration": Family(picture=pictures.patches),
    "MuseSparkForConditionalGeneration": Family(picture=pictures.patches),
    "Ovis2ForConditionalGeneration": Family(
        tower=FamilyTower(
            ("ovis2_vision",), whole="transformer", side=lambda config: config.vision_config.hidden_stride
        )
    ),
    "PaddleOCRVLForConditionalGeneration": Family(
        _layers("projector"),
        picture=pictures.square_patches,
        frame=_VISION,
        marks=True,
        tower=FamilyTower(("paddleocr_vl_vision",), "visual", side=_merged, told_by="image_grids"),
    ),
    "PerceptionLMForConditionalGeneration": Family(picture=_one_tile),
    "QianfanOCRForConditionalGeneration": Family(
        _layers("multi_modal_projector"), tower=FamilyTower(("qianfan_ocr_vision",), side=_shuffled)
    ),
    "Step3p7ForConditionalGeneration": Family(),
    "VideoLlama3ForConditionalGeneration": Family(
        _layers("projector"),
        picture=pictures.patches_merged_as_told,
        tower=FamilyTower(
            ("video_llama_3_vision",),
            "vision_model",
            whole="encoder",
            side=told_with_images,
            told_by="image_grids",
            grouped=True,
        ),
    ),
    "VideoLlavaForConditionalGeneration": Family(
        _layers("multi_modal_projector"),
        tower=FamilyTower(("clip_vision_model",), "image_tower", row_wise=("multi_modal_projector",)),
    ),
    "VipLlavaForConditionalGeneration": Family(
        _layers("multi_modal_projector"),
        tower=FamilyTower(("clip_vision_model",), row_wise=("multi_modal_projector",), skips_first=True),
    ),
}


class FamilyAdapter(StructuralAdapter):
    """Adapter for the families in a table, looked up by the name of the model's class (subclasses too).

    Subclasses define `name` and `families`. Where the parts of a model are is read from its structure.
    """

    fallback: ClassVar[bool] = False
    families: ClassVar[Mapping[str, Family]] = {}

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        family = self._family(model)
        assert family is not None  # checked by `matches`
        self.family = family
        self.rows_first = family.rows_first

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        """Whether the model's class, or one it derives from, is in the table."""
        return cls._family(model) is not None

    @classmethod
    def _family(cls, model: nn.Module) -> Family | None:
        names = (base.__name__ for base in type(model).__mro__)
        return next((cls.families[name] for name in names if name in cls.families), None)

    @property
    def projector_module(self) -> nn.Module:
        """The module whose inputs have one row per token."""
        return self._rows().module

    def _rows(self) -> forms.RowWise:
        assert self.family.rows is not None  # not called otherwise: no signal is derived from them
        return self.family.rows(self.inner)

    # -- what strategies may see

    @classmethod
    def why_not(cls, model: nn.Module) -> str:
        """Say nothing: a class that is not in the table may have another adapter."""
        return ""

    @property
    def provides(self) -> Mapping[str, frozenset[str]]:
        """Signals by stage; the decoder stage is absent if it cannot be pruned."""
        signals = dict(super().provides)
        if self.family.rows is not None:
            signals["projector"] |= {"projector"}
        if self.family.counts_padding and "decoder" in signals:
            signals["decoder"] -= ABSOLUTE
        return signals

    def image_signals(self) -> Mapping[str, ImageSignal]:
        """The projector's inputs, if they match tokens one to one."""
        return {} if self.family.rows is None else {"pre_features": self._pre_features}

    def _pre_features(self, encoded: Encoded, number: int) -> Tensor:
        """Projector inputs of one image, (N, D_v)."""
        calls = encoded.projector_inputs  # one for each image, or one for all
        if sum(call.shape[:-1].numel() for call in calls) < sum(encoded.lengths):  # after a cut in the tower
            calls = [encoded.widened(call) for call in calls]
        rows = encoded.rows_of(number, torch.cat([call.flatten(0, -2) for call in calls]))
        return forms.centred(rows) if self._rows().centred else rows

    def projector(self) -> Projector:
        """The row-wise part of the projector, with its closed form if its weights can be read."""
        if self.family.rows is None:
            return Projector(_no_rows)  # not provided: `check` refuses what needs it
        rows = self._rows()
        return Projector(in_float32(rows.project), rows.form)

    def projector_parts(self) -> nn.Module:
        """The row-wise part; an identity if there is none."""
        return nn.Identity() if self.family.rows is None else self._rows().project

    def lengths(self, rows: Any) -> list[int]:
        """Number of tokens of each image, newlines included."""
        return [len(is_newline) for is_newline in self.newlines(rows)] or super().lengths(rows)

    def newlines(self, rows: Any) -> list[Tensor]:
        """Masks of the newline tokens of each image, (N,) bool each; empty if the model has no newline."""
        newline = getattr(self.inner, "image_newline", None)
        if newline is None:
            return []
        return [(image == newline.to(image)).all(-1).flatten() for image in rows]

    def layout(self, encoded: Encoded, number: int) -> Layout:
        """The picture's grid if the model keeps its aspect ratio, else a square if possible, else one row."""
        n = encoded.lengths[number]
        if encoded.newlines and bool(encoded.newlines[number].any()):
            return Layout((1, 1, n), newlines=encoded.newlines[number])
        if self.family.unit is not None:
            return grid_of(encoded.arguments["sizes"][number], self.family.unit(self.model.config), n)
        return square_of(n)

    def encoder_words(self, modality: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The sizes of pictures, if they determine the grid of tokens, and which rows are projected."""
        words = ("sizes",) if self.family.unit is not None else ()
        if self.family.tower is None:
            return words, ()
        settings, others = self.family.tower.words(self.model.config, modality)
        return (*words, *settings), tuple(word for word in others if word not in words)

    # -- cuts inside the tower

    @property
    def described(self) -> FamilyTower | None:
        """The tower as the table describes it; None if tokens cannot be cut inside it."""
        return self.family.tower

    def pixels_of(self, pixels: Tensor, rows: Tensor) -> Tensor:
        """Pixels of each token's patches, of towers that are passed them in the order of their rows."""
        return pixels_of_rows(pixels, rows)

    def norm_before_attention(self, layer: int, hidden: Tensor) -> Tensor:
        """Apply the family's norm before a decoder layer's attention to its input rows (B, P, D)."""
        norm = getattr(self.layers[layer], self.family.norm, None)
        return super().norm_before_attention(layer, hidden) if norm is None else norm(hidden)

    def token_arguments(self, ids: Tensor) -> dict[str, Tensor]:
        """The inputs of single layers of text tokens, in models that have them."""
        arguments = super().token_arguments(ids)
        if "layer_inputs" in arguments:
            known = ids < self.language_model.config.vocab_size_per_layer_input
            arguments["layer_inputs"] = self.language_model.get_per_layer_inputs(ids.where(known, 0))
        return arguments

    # -- random inputs, and inputs of reference runs

    def example_picture(self, draw: torch.Generator) -> Mapping[str, Tensor] | None:
        """A random picture in the family's format: tiled, with its size, one row per picture, or plain."""
        config = self.model.config
        if self.family.picture is not None:
            return self.family.picture(draw, config)
        if hasattr(config, "image_grid_pinpoints"):
            return pictures.tiled(draw, config)
        if self.family.unit is not None:
            return pictures.sized(draw, config, self.family.unit(config))
        plain = super().example_picture(draw)
        if plain is None or not self.rows_first:
            return plain
        return {word: pixels[None] for word, pixels in plain.items()}

    def picture_frame(self) -> tuple[int, ...]:
        """The special tokens before and after an image's tokens."""
        return tuple(getattr(self.model.config, name) for name in self.family.frame)

    def prompt_kinds(self, ids: Tensor) -> dict[str, Tensor]:
        """Which tokens belong to an image or attend to each other, if the model is told."""
        if self.family.marks:
            marks = (ids == self.token_id("image")).int()
            experts = stock.taken_by(self.language_model, ("expert_kinds",))
            return {name: marks for name in (stock.MODALITY_KINDS, *map(stock.argument_name, experts))}
        if not self.family.both_ways:
            return {}
        kinds = torch.zeros_like(ids) if self.family.prefix else (ids == self.token_id("image")).long()
        return {stock.BLOCK_KINDS: kinds}

    def answer_kinds(self, inputs: Mapping[str, Any], n: int) -> dict[str, Tensor]:
        """The same for a prompt and its answer, whose tokens attend causally."""
        name = stock.MODALITY_KINDS if self.family.marks else stock.BLOCK_KINDS
        if name not in inputs:
            return {}
        return {name: nn.functional.pad(inputs[name], (0, n), value=int(self.family.prefix))}

    # -- what is refused

    def why_no_decoder(self) -> str:
        """Why the decoder cannot be pruned: bidirectional image tokens, or a reason of the base class."""
        if self.family.both_ways:
            return "its image tokens attend to each other, which masks inside the decoder do not support yet"
        return super().why_no_decoder()


def _no_rows(rows: Tensor) -> Tensor:
    raise IncompatibleError("the projector of this model does not work row by row")
