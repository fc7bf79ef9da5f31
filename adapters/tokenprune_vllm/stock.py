# SPDX-License-Identifier: Apache-2.0
"""vLLM's names: the only file of this package that knows any but the documented call of a plugin.

The tables pair a name of ours, which says what it is for, with vLLM's. All of them are looked for when an
engine starts with pruning configured, and not before: otherwise a vLLM that lacks one is left alone. The
other files call the functions below, read vLLM's objects through `view`, and have methods called as these
tables call them; `joined` puts these where vLLM calls its own.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from .errors import EngineRefusedError
from .lookup import View, find, refusal
from .settings import KEY

MODELS = "vllm.model_executor.models"
ATTENTIONS = "vllm.model_executor.layers.attention.mm_encoder_attention"
LISTS = (  # of models, among which some take pictures
    "_MULTIMODAL_MODELS",
    "_TRANSFORMERS_BACKEND_MODELS",
    "_TRANSFORMERS_SUPPORTED_MODELS",
    "_EMBEDDING_MODELS",
    "_LATE_INTERACTION_MODELS",
    "_SEQUENCE_CLASSIFICATION_MODELS",
    "_TOKEN_CLASSIFICATION_MODELS",
    "_REWARD_MODELS",
)

# functions and classes
COMMON = {
    **{f"models_with_pictures{name.lower()}": f"{MODELS}.registry:{name}" for name in LISTS},
    "registered_models": "vllm:ModelRegistry.models",
    "registering_a_model": "vllm:ModelRegistry.register_model(model_arch, model_cls)",
    "loading_a_registered_model": f"{MODELS}.registry:_BaseRegisteredModel.load_model_cls",
    "telling_models_with_pictures": f"{MODELS}.interfaces:SupportsMultiModal.supports_multimodal",
    "registering_a_processor": (
        "vllm.multimodal:MULTIMODAL_REGISTRY.register_processor(processor, info, dummy_inputs)"
    ),
    "registered_processors": "vllm.multimodal.registry:_ProcessorFactories(processor, info, dummy_inputs)",
    "sending_the_budget_to_the_worker": (
        "vllm.multimodal.inputs:MultiModalFieldConfig.batched(modality, keep_on_cpu)"
    ),
    "counting_placeholders": "vllm.multimodal.processing:PromptReplacement(modality, target, replacement)",
    "telling_rows_from_pictures": "vllm.multimodal.parse:EmbeddingItems",
    "telling_named_rows_from_pictures": "vllm.multimodal.parse:DictEmbeddingItems",
    "watching_attention": f"{ATTENTIONS}:MMEncoderAttention.forward_native(query, key)",
    "all_gather": "vllm.distributed:tensor_model_parallel_all_gather(input_, dim)",
    "ranks": "vllm.distributed:get_tp_group",
    "on_cpu": "vllm.platforms:current_platform.is_cpu",
}

# what vLLM hands over: its class, and what we read of it
RECORDS = {
    "ranks": (
        "vllm.distributed.parallel_state:GroupCoordinator",
        {"number": "world_size", "from_first": "broadcast"},
    ),
    "request": (
        "vllm.multimodal.processing:ProcessorInputs",
        {"pictures": "mm_data_items", "arguments": "hf_processor_mm_kwargs"},
    ),
    "processed_request": (
        "vllm.inputs.engine:MultiModalInput",
        {"names": "mm_hashes", "pictures": "mm_kwargs", "places": "mm_placeholders"},
    ),
    "picture_for_the_worker": ("vllm.multimodal.inputs:MultiModalFieldElem", {"value": "data"}),
    "feature": ("vllm.multimodal.inputs:MultiModalFeatureSpec", {"place": "mm_position"}),
    "place": ("vllm.multimodal.inputs:PlaceholderRange", {"begin": "offset", "rows": "length"}),
}

# options of an engine; those of its model are in a processing context, too
OPTIONS = {
    "configuration": "model_config.hf_config",
    "longest_prompt": "model_config.max_model_len",
    "prompt_embeddings": "model_config.enable_prompt_embeds",
    "processor_arguments": "model_config.multimodal_config.mm_processor_kwargs",
    "tower_ranks": "model_config.multimodal_config.mm_encoder_tp_mode",
    "video_pruning": "model_config.multimodal_config.video_pruning_rate",
    "most_at_once": "scheduler_config.max_num_batched_tokens",
    "tower_lora": "lora_config?.enable_tower_connector_lora",
    "compiled_tower": "compilation_config.compile_mm_encoder",
    "decoder_graphs": "compilation_config.cudagraph_mode",
    "decoder_stages": "parallel_config.pipeline_parallel_size",
    "divided_steps": "parallel_config.use_ubatching",
    "speculation": "speculative_config",
}

# our methods -> vLLM's, around which they run, with the parameters that ours get; and vLLM's that ours call
INFO = {
    "transformers_processor": "get_hf_processor(kwargs)",
    "most_of_each": "get_mm_max_tokens_per_item(seq_len, mm_counts)",
}
INFO_USES = {
    "most_image_tokens": "get_max_image_tokens()",
    "whole_of_each": "get_mm_max_tokens_per_item(seq_len, mm_counts)",
}
PROCESSOR = {
    "call_transformers": "_call_hf_processor(hf_kwargs)",
    "processed_pictures": "_postprocess_hf_mm_data(hf_processor_mm_kwargs)",
    "fields": "_get_mm_fields_config()",
    "placeholders": "_get_prompt_updates(mm_items, hf_processor_mm_kwargs)",
    "rehearsal": "get_dummy_mm_inputs()",
    "processed_request": "apply(inputs)",
    "names_in_caches": "_get_mm_hashes(inputs)",
}
MODEL = {
    "pictures_of_a_step": "embed_multimodal(kwargs)",
    "images": "_process_image_input(image_input)",
}

# parts of models: where they are, and what we read of them
LINEAR = {
    "width": "input_size",
    "ranks": "tp_size",
    "dtype": "params_dtype",
    "bias": "bias",
    "multiply": "quant_method.apply",
}
ATTENTION = {"ranks": "tp_size", "hooked": "attn", "computes": "attn.forward_native"}
LLAVA_PARTS: dict[str, tuple[str, dict[str, str]]] = {
    "projector": ("multi_modal_projector", {}),
    "first_layer": ("multi_modal_projector.linear_1", LINEAR),
    "second_layer": ("multi_modal_projector.linear_2", LINEAR),
    "tower_layers": ("vision_tower.vision_model.encoder", {}),
    "attention": (
        "vision_tower.vision_model.encoder.layers.-1.self_attn",
        {**ATTENTION, "width": "head_dim", "scale": "scale"},
    ),
}


@dataclasses.dataclass(frozen=True)
class Family:
    """Names of one family of models."""

    module: str
    model: str
    info: str
    processor: str
    parts: Mapping[str, tuple[str, Mapping[str, str]]]
    functions: Mapping[str, str]  # in its module; or elsewhere, with a module's name
    around: Mapping[str, str] = dataclasses.field(default_factory=lambda: MODEL)
    uses: Mapping[str, str] = dataclasses.field(default_factory=dict)
    info_uses: Mapping[str, str] = dataclasses.field(default_factory=lambda: INFO_USES)


FAMILIES = {
    "llava": Family(
        module=f"{MODELS}.llava",
        model="LlavaForConditionalGeneration",
        info="LlavaProcessingInfo",
        processor="LlavaMultiModalProcessor",
        parts=LLAVA_PARTS,
        functions={"dividing_pictures": "LlavaImagePixelInputs.type"},
    ),
    "llava-next": Family(
        module=f"{MODELS}.llava_next",
        model="LlavaNextForConditionalGeneration",
        info="LlavaNextProcessingInfo",
        processor="LlavaNextMultiModalProcessor",
        parts={**LLAVA_PARTS, "newline": ("image_newline", {})},
        functions={
            "dividing_pictures": "LlavaNextImagePixelInputs.type",
            "grid_of_tiles": "get_anyres_image_grid_shape",
            "order_of_tokens": "LlavaNextForConditionalGeneration._merge_image_patch_embeddings"
            "(image_size, patch_embeddings, strategy)",
            "size_of_a_picture": "vllm.multimodal.parse:ImageProcessorItems.get_image_size",
            "height_and_width": "vllm.multimodal.parse:ImageSize(height, width)",
        },
        info_uses={**INFO_USES, "largest_size": "get_image_size_with_most_features()"},
    ),
    "qwen2.5-vl": Family(
        module=f"{MODELS}.qwen2_5_vl",
        model="Qwen2_5_VLForConditionalGeneration",
        info="Qwen2_5_VLProcessingInfo",
        processor="Qwen2_5_VLMultiModalProcessor",
        parts={
            "norm": ("visual.merger.ln_q", {"weight": "weight", "eps": "variance_epsilon"}),
            "first_layer": ("visual.merger.mlp.0", LINEAR),
            "activation": ("visual.merger.mlp.1", {}),
            "second_layer": ("visual.merger.mlp.2", LINEAR),
            "whole_blocks": ("visual.fullatt_block_indexes", {}),
            "attention": ("visual.blocks.{}.attn", ATTENTION),
            "window_order": ("visual.get_window_index_thw", {}),
        },
        functions={
            "dividing_pictures": "Qwen2_5_VLImagePixelInputs.type",
            "dividing_videos": "Qwen2_5_VLVideoPixelInputs.type",
            "telling_whole_graphs": "vllm.config:CUDAGraphMode.FULL",
            "telling_graphs_for_decoding": "vllm.config:CUDAGraphMode.separate_routine",
            "graphs_for_prompts": "vllm.config:CUDAGraphMode.mixed_mode",
            "graphs_of_the_tower": (
                "vllm.v1.worker.encoder_cudagraph_defs:EncoderCudaGraphConfig.modalities"
            ),
        },
        around={
            **MODEL,
            "videos": "_process_video_input(video_input)",
            "first_positions": "get_mrope_input_positions(input_tokens, mm_features)",
            "tower_graphs": "get_encoder_cudagraph_config()",
            "rows_of_a_step": "embed_input_ids(input_ids, multimodal_embeddings, is_multimodal)",
            "run_decoder": "forward(positions)",
        },
        uses={"grids": "iter_mm_grid_thw(mm_features)"},
    ),
}


def names(family: str) -> Iterator[tuple[str, str]]:
    """What a family needs, our name and vLLM's, of all that can be found without a model."""
    yield from COMMON.items()
    for record, (owner, attributes) in RECORDS.items():
        yield from ((f"{own} of {record}", f"{owner}.{theirs}") for own, theirs in attributes.items())
    of = FAMILIES[family]
    for own, theirs in of.functions.items():
        yield own, theirs if ":" in theirs else f"{of.module}:{theirs}"
    for owner, methods in (
        (of.info, {**INFO, **of.info_uses}),
        (of.processor, PROCESSOR),
        (of.model, {**of.around, **of.uses, "registered_processors": "_processor_factory"}),
    ):
        yield from ((own, f"{of.module}:{owner}.{theirs}") for own, theirs in methods.items())


def check(family: str) -> None:
    """Refuse a vLLM that lacks one of them."""
    for own, theirs in names(family):
        find(theirs, own)


def stock_class(family: str, which: str) -> Any:
    """The class vLLM has for a family's "model", "info" or "processor"."""
    of = FAMILIES[family]
    return find(f"{of.module}:{getattr(of, which)}", f"{family} {which}")


def function(name: str) -> Any:
    """A function of `COMMON`."""
    return find(COMMON[name], name)


def options(engine: Any) -> View:
    """Options of an engine, by our names, from its configuration."""
    return View(engine, OPTIONS, "an engine's configuration")


def model_options(context: Any) -> View:
    """The same, of what a processing context knows: options of the model."""
    of_model = {own: path for own, path in OPTIONS.items() if path.startswith("model_config.")}
    return View(context, of_model, "a model's configuration")


def is_configured(engine: Any) -> bool:
    """Whether pruning was asked for; a vLLM that cannot tell is refused."""
    return getattr(model_options(engine).configuration, KEY, None) is not None


def view(kind: str, record: Any) -> View:
    """What vLLM handed over, by our names."""
    return View(record, RECORDS[kind][1], RECORDS[kind][0])


def part(model: Any, name: str, *which: Any) -> View:
    """A part of a model, by our names."""
    path, read = FAMILIES[model.family].parts[name]
    path, what = path.format(*which), type(model).__name__
    return View(getattr(View(model, {name: path}, what), name), read, f"{path} in {what}").check()


def watch_attention(attention: View, catch: Callable[[Tensor, Tensor], Any]) -> None:
    """Have queries and keys of a tower's layer shown to `catch` as they pass."""
    signature = inspect.signature(attention.computes)

    def hook(module: Any, args: Any, kwargs: Any) -> None:
        given = signature.bind(*args, **kwargs).arguments
        catch(given["query"], given["key"])

    attention.hooked.register_forward_pre_hook(hook, with_kwargs=True)


def whole_graphs(engine: Any) -> bool:
    """Whether steps with prompts in them are to run as one graph."""
    from vllm.config import CUDAGraphMode

    graphs = options(engine).decoder_graphs
    return graphs is not None and graphs.mixed_mode() == CUDAGraphMode.FULL


def without_graphs_for_decoding(engine: Any) -> None:
    """Let steps that only decode run as those with prompts do."""
    graphs = options(engine).decoder_graphs
    if graphs is not None and graphs.separate_routine():
        engine.compilation_config.cudagraph_mode = graphs.mixed_mode()


def without_pictures(tower_graphs: Any) -> Any:
    """The configuration of a tower's graphs, for no pictures at all."""
    tower_graphs.modalities = []
    return tower_graphs


def one_of_each(modality: str) -> Any:
    """A field of processed inputs of which each picture has an entry, wanted on the CPU."""
    return function("sending_the_budget_to_the_worker")(modality, keep_on_cpu=True)


def replaced(update: Any, instead: Callable[[Callable[[int], list[int]]], Callable[[int], list[int]]]) -> Any:
    """A change of a prompt, with other placeholders for a picture in place of those it has."""
    replacement = instead(update.replacement)
    make = function("counting_placeholders")
    return make(modality=update.modality, target=update.target, replacement=replacement)


def brings_pixels(pictures: Any, modality: str) -> bool:
    """Whether a request brings pictures, and not their rows ready made."""
    ready_made = function("telling_rows_from_pictures"), function("telling_named_rows_from_pictures")
    return not isinstance(pictures.get(modality), ready_made)


def size_of(pictures: Any, number: int) -> tuple[int, int]:
    """Height and width of an image of a request."""
    return height_and_width(pictures["image"].get_image_size(number))


def height_and_width(size: Any) -> tuple[int, int]:
    """The two of a size of vLLM's."""
    return size.height, size.width


def is_ready_made(given: Any) -> bool:
    """Whether a model is given rows instead of pictures."""
    return bool(given["type"] == "image_embeds")


def some_of(given: Any, **fields: Any) -> dict[str, Any]:
    """What a model is given, for some of its pictures."""
    return {"type": given["type"], **fields}


def grid_of_tiles(config: Any, size: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of tiles of a picture of this (height, width)."""
    from vllm.model_executor.models.llava_next import get_anyres_image_grid_shape

    shape = get_anyres_image_grid_shape(
        tuple(size), config.image_grid_pinpoints, config.vision_config.image_size
    )
    return int(shape[0]), int(shape[1])


def packed(config: Any, size: Sequence[int], tiles: Tensor, newline: Tensor) -> Tensor:
    """Rows (tiles, P, D) of a picture of this (height, width) as its tokens (N, D), by the model's code."""
    pack = stock_class("llava-next", "model")._merge_image_patch_embeddings
    model = types.SimpleNamespace(config=config, image_newline=newline)
    try:
        return cast(Tensor, pack(model, torch.tensor(list(size)), tiles, strategy="spatial_unpad"))
    except AttributeError as error:
        raise refusal(f"packing of tiles that does without {error.name}", "the order of tokens") from error


def originals(registry: Any) -> dict[str, Callable[[], Any]]:
    """Functions that load vLLM's models with pictures; all its models, if it does not say which these are."""
    try:
        from vllm.model_executor.models import registry as known
    except ImportError:
        known = None
    models = getattr(registry, "models", {})
    lists = [getattr(known, name, models) for name in LISTS]
    loaders = {name: getattr(models.get(name), "load_model_cls", None) for name in set().union(*lists)}
    return {name: load for name, load in loaders.items() if load is not None}


def registered(
    model: Any,
    info: Callable[[Any, Callable[[Any], Any]], Any],
    processor: Callable[[Any, Any, Callable[[Any, Any], Any]], Any],
) -> Any:
    """The model, with functions of ours that make its processor; they get vLLM's in addition."""
    theirs = getattr(model, "_processor_factory", None)
    try:
        register, _ = function("registering_a_processor"), function("registered_processors")
    except EngineRefusedError:
        theirs = None
    if theirs is None:
        return model  # left alone; `check` refuses it once pruning is configured
    return register(
        lambda made, dummy_inputs: processor(made, dummy_inputs, theirs.processor),
        info=lambda context: info(context, theirs.info),
        dummy_inputs=theirs.dummy_inputs,
    )(model)


def checked(model: Any, refuse: Callable[[Any], None]) -> Any:
    """Derive a model that calls `refuse` before its processor, or else itself, is made."""
    body: dict[str, Any] = {"__module__": model.__module__}
    if (stock := getattr(model, "_processor_factory", None)) is not None:

        def info(context: Any) -> Any:
            refuse(context)
            return stock.info(context)

        body["_processor_factory"] = dataclasses.replace(stock, info=info)
    elif getattr(model, "supports_multimodal", False):

        def start(self: Any, *, vllm_config: Any, prefix: str = "") -> None:
            refuse(vllm_config)
            model.__init__(self, vllm_config=vllm_config, prefix=prefix)

        body["__init__"] = start
    else:
        return model
    return type(model.__name__, (model,), body)
