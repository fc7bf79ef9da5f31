# SPDX-License-Identifier: Apache-2.0
"""All names of vLLM that this package depends on beyond the documented plugin interface.

The tables map names of ours, which state a purpose, to vLLM's names. All of them are looked up when an engine
starts with pruning configured, and not before: without a configuration, a vLLM that lacks one still works.
Other files call the functions below, read vLLM's objects through `view`, and define methods under our names
in these tables, which `lookup.derive` lets override vLLM's.
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
LISTS = (  # lists of models, some of which are multimodal
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
    **{f"list_of{name.lower()}": f"{MODELS}.registry:{name}" for name in LISTS},
    "registered_models": "vllm:ModelRegistry.models",
    "model_registration": "vllm:ModelRegistry.register_model(model_arch, model_cls)",
    "loading_of_registered_models": f"{MODELS}.registry:_BaseRegisteredModel.load_model_cls",
    "detection_of_multimodal_models": f"{MODELS}.interfaces:SupportsMultiModal.supports_multimodal",
    "processor_registration": (
        "vllm.multimodal:MULTIMODAL_REGISTRY.register_processor(processor, info, dummy_inputs)"
    ),
    "registered_processors": "vllm.multimodal.registry:_ProcessorFactories(processor, info, dummy_inputs)",
    "sending_budgets_to_workers": (
        "vllm.multimodal.inputs:MultiModalFieldConfig.batched(modality, keep_on_cpu)"
    ),
    "replacing_placeholders": "vllm.multimodal.processing:PromptReplacement(modality, target, replacement)",
    "detection_of_embeddings": "vllm.multimodal.parse:EmbeddingItems",
    "detection_of_named_embeddings": "vllm.multimodal.parse:DictEmbeddingItems",
    "fields_of_items": "vllm.multimodal.parse:DictEmbeddingItems.get_passthrough_data()",
    "recording_attention": f"{ATTENTIONS}:MMEncoderAttention.forward_native(query, key)",
    "all_gather": "vllm.distributed:tensor_model_parallel_all_gather(input_, dim)",
    "tensor_parallel_group": "vllm.distributed:get_tp_group",
    "on_cpu": "vllm.platforms:current_platform.is_cpu",
}

# objects that vLLM passes to us: their classes, and the attributes that we read
RECORDS = {
    "tensor_parallel_group": (
        "vllm.distributed.parallel_state:GroupCoordinator",
        {"size": "world_size", "is_first": "is_first_rank", "broadcast_from_first": "broadcast"},
    ),
    "request": (
        "vllm.multimodal.processing:ProcessorInputs",
        {
            "items": "mm_data_items",
            "arguments": "hf_processor_mm_kwargs",
            "media_arguments": "media_io_kwargs",
            "identifiers": "mm_uuid_items",
        },
    ),
    "processed_request": (
        "vllm.inputs.engine:MultiModalInput",
        {"keys": "mm_hashes", "items": "mm_kwargs", "placeholders": "mm_placeholders"},
    ),
    "worker_field": ("vllm.multimodal.inputs:MultiModalFieldElem", {"value": "data"}),
    "feature": (
        "vllm.multimodal.inputs:MultiModalFeatureSpec",
        {"placeholder": "mm_position", "modality": "modality", "fields": "data"},
    ),
    "placeholder": ("vllm.multimodal.inputs:PlaceholderRange", {"start": "offset", "rows": "length"}),
}

# options of an engine; a processing context has those of the model too
OPTIONS = {
    "configuration": "model_config.hf_config",
    "served_name": "model_config.served_model_name",
    "max_prompt_tokens": "model_config.max_model_len",
    "prompt_embeddings": "model_config.enable_prompt_embeds",
    "processor_arguments": "model_config.multimodal_config.mm_processor_kwargs",
    "tower_parallelism": "model_config.multimodal_config.mm_encoder_tp_mode",
    "video_pruning": "model_config.multimodal_config.video_pruning_rate",
    "max_tower_tokens": "scheduler_config.max_num_batched_tokens",
    "tower_lora": "lora_config?.enable_tower_connector_lora",
    "compiled_tower": "compilation_config.compile_mm_encoder",
    "decoder_graphs": "compilation_config.cudagraph_mode",
    "decoder_stages": "parallel_config.pipeline_parallel_size",
    "microbatching": "parallel_config.use_ubatching",
    "speculation": "speculative_config",
    "kv_connector": "kv_transfer_config?.kv_connector",
    "kv_connector_module": "kv_transfer_config?.kv_connector_module_path",
    "kv_connector_options": "kv_transfer_config?.kv_connector_extra_config",
}

# fields of HTTP requests, and the endpoints that pass the first one on to the processor
PROCESSOR_ARGUMENTS = "mm_processor_kwargs"
MEDIA_ARGUMENTS = "media_io_kwargs"
ENDPOINTS_WITH_ARGUMENTS = (
    "/v1/chat/completions",
    "/v1/chat/completions/batch",
    "/v1/chat/completions/render",
    "/v1/responses",
    "/v1/responses/render",
    "/v1/embeddings",
    "/classify",
    "/pooling",
    "/score",
    "/v1/score",
    "/rerank",
    "/v1/rerank",
    "/v2/rerank",
    "/tokenize",
    "/invocations",
)

# connectors for keys and values that are right with pruned prompts: they use vLLM's own keys of blocks, which
# contain the identifiers of images, or move the blocks of one request
KV_CONNECTORS = (
    "DecodeBenchConnector",
    "ExampleConnector",
    "MooncakeConnector",
    "MooncakeStoreConnector",
    "MoRIIOConnector",
    "NixlConnector",
    "NixlPullConnector",
    "NixlPushConnector",
    "OffloadingConnector",
    "SimpleCPUOffloadConnector",
)

# our methods -> the methods of vLLM that they override, with the parameters that ours take; `INFO_USES` lists
# methods of vLLM that ours call
INFO = {
    "transformers_processor": "get_hf_processor(kwargs)",
    "max_tokens_per_item": "get_mm_max_tokens_per_item(seq_len, mm_counts)",
}
INFO_USES = {
    "vllm_max_image_tokens": "get_max_image_tokens()",
    "vllm_max_tokens_per_item": "get_mm_max_tokens_per_item(seq_len, mm_counts)",
}
PROCESSOR = {
    "process_items": "_apply_hf_processor_main(hf_kwargs)",
    "worker_fields": "_get_mm_fields_config()",
    "shorten_placeholders": "_get_prompt_updates(mm_items, hf_processor_mm_kwargs)",
    "profiling_inputs": "get_dummy_mm_inputs()",
    "process_request": "apply(inputs)",
    "merge_cached": "_merge_mm_kwargs(mm_hashes, mm_is_cached, mm_missing_kwargs)",
    "cache_keys": "_get_mm_hashes(inputs)",
}
MODEL = {
    "embed_items": "embed_multimodal(kwargs)",
    "encode_images": "_process_image_input(image_input)",
}

# parts of models: their paths, and the attributes that we read
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
    "tower_blocks": ("vision_tower.vision_model.encoder.layers", {}),
    "attention": (
        "vision_tower.vision_model.encoder.layers.-1.self_attn",
        {**ATTENTION, "width": "head_dim", "scale": "scale"},
    ),
}


QWEN3_PARTS: dict[str, tuple[str, dict[str, str]]] = {
    "norm": ("visual.merger.norm", {"weight": "weight", "shift": "bias", "eps": "eps"}),
    "first_layer": ("visual.merger.linear_fc1", LINEAR),
    "activation": ("visual.merger.act_fn", {}),
    "second_layer": ("visual.merger.linear_fc2", LINEAR),
    "attention": ("visual.blocks.-1.attn", ATTENTION),
    "embeddings": ("language_model.embed_input_ids", {}),
    "tokenizer": ("_tokenizer", {}),
}
GRAPHS = {  # functions of families whose positions are corrected before the decoder runs
    "detection_of_full_graphs": "vllm.config:CUDAGraphMode.FULL",
    "detection_of_decode_graphs": "vllm.config:CUDAGraphMode.separate_routine",
    "prefill_graphs": "vllm.config:CUDAGraphMode.mixed_mode",
    "no_graphs": "vllm.config:CUDAGraphMode.NONE",
    "detection_of_breakable_graphs": "vllm.compilation.breakable_cudagraph:is_breakable_cudagraph_enabled",
    "modalities_of_tower_graphs": "vllm.v1.worker.encoder_cudagraph_defs:EncoderCudaGraphConfig.modalities",
}
CROPS = {
    "shortening_placeholders": "vllm.multimodal.processing:PromptUpdateDetails.full",
    "detection_of_placeholders": "vllm.multimodal.processing:PromptUpdateDetails.is_embed",
}
ORIGINAL_POSITIONS = {
    "initial_positions": "get_mrope_input_positions(input_tokens, mm_features)",
    "tower_graphs": "get_encoder_cudagraph_config()",
    "merge_item_rows": "embed_input_ids(input_ids, multimodal_embeddings, is_multimodal)",
    "run_decoder": "forward(positions)",
}


@dataclasses.dataclass(frozen=True)
class Family:
    """vLLM's names for a family of models."""

    module: str
    model: str
    info: str
    processor: str
    parts: Mapping[str, tuple[str, Mapping[str, str]]]
    functions: Mapping[str, str]  # in the family's module, unless they name another
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the blocks of its tower
    overrides: Mapping[str, str] = dataclasses.field(default_factory=lambda: MODEL)
    uses: Mapping[str, str] = dataclasses.field(default_factory=dict)
    info_uses: Mapping[str, str] = dataclasses.field(default_factory=lambda: INFO_USES)


def _qwen3(module: str, name: str) -> Family:
    """Return the names of one of the families that share Qwen3-VL's tower and processor."""
    return Family(
        module=f"{MODELS}.{module}",
        model=f"{name}ForConditionalGeneration",
        info=f"{name}ProcessingInfo",
        processor="Qwen3VLMultiModalProcessor",
        parts=QWEN3_PARTS,
        functions={
            "splitting_images": f"{MODELS}.qwen2_5_vl:Qwen2_5_VLImagePixelInputs.type",
            "splitting_videos": f"{MODELS}.qwen2_5_vl:Qwen2_5_VLVideoPixelInputs.timestamps",
            "tokens_of_videos": (
                "Qwen3VLMultiModalProcessor.get_video_repl(tokens_per_frame, timestamps, tokenizer, "
                "vision_start_token_id, vision_end_token_id, video_token_id, select_token_id)"
            ),
            **CROPS,
            **GRAPHS,
        },
        overrides={**MODEL, **ORIGINAL_POSITIONS, "encode_videos": "_process_video_input(video_input)"},
    )


FAMILIES = {
    "llava": Family(
        module=f"{MODELS}.llava",
        model="LlavaForConditionalGeneration",
        info="LlavaProcessingInfo",
        processor="LlavaMultiModalProcessor",
        parts=LLAVA_PARTS,
        functions={
            "splitting_images": "LlavaImagePixelInputs.type",
            "arguments_of_clip_blocks": f"{MODELS}.clip:CLIPEncoderLayer.forward(hidden_states)",
            "arguments_of_siglip_blocks": f"{MODELS}.siglip:SiglipEncoderLayer.forward(hidden_states)",
        },
        arguments={"hidden": "hidden_states"},
    ),
    "llava-next": Family(
        module=f"{MODELS}.llava_next",
        model="LlavaNextForConditionalGeneration",
        info="LlavaNextProcessingInfo",
        processor="LlavaNextMultiModalProcessor",
        parts={**LLAVA_PARTS, "newline": ("image_newline", {})},
        functions={
            "splitting_images": "LlavaNextImagePixelInputs.type",
            "grid_of_tiles": "get_anyres_image_grid_shape",
            "token_order": "LlavaNextForConditionalGeneration._merge_image_patch_embeddings"
            "(image_size, patch_embeddings, strategy)",
            "size_of_an_image": "vllm.multimodal.parse:ImageProcessorItems.get_image_size",
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
            "full_attention_blocks": ("visual.fullatt_block_indexes", {}),
            "tower_blocks": ("visual.blocks", {}),
            "merging": ("visual.merger", {}),
            "tower_attention": ("visual.attn_backend", {}),
            "attention": ("visual.blocks.{}.attn", ATTENTION),
            "window_order": ("visual.get_window_index_thw", {}),
        },
        functions={
            "splitting_images": "Qwen2_5_VLImagePixelInputs.type",
            "splitting_videos": "Qwen2_5_VLVideoPixelInputs.type",
            **GRAPHS,
            "arguments_of_blocks": (
                "Qwen2_5_VisionBlock.forward"
                "(x, cu_seqlens, max_seqlen, rotary_pos_emb_cos, rotary_pos_emb_sin)"
            ),
        },
        arguments={
            "hidden": "x",
            "borders": "cu_seqlens",
            "longest": "max_seqlen",
            "rotary": ("rotary_pos_emb_cos", "rotary_pos_emb_sin"),
        },
        overrides={**MODEL, **ORIGINAL_POSITIONS, "encode_videos": "_process_video_input(video_input)"},
        uses={"item_grids": "iter_mm_grid_thw(mm_features)"},
    ),
    "gemma-3": Family(
        module=f"{MODELS}.gemma3_mm",
        model="Gemma3ForConditionalGeneration",
        info="Gemma3ProcessingInfo",
        processor="Gemma3MultiModalProcessor",
        parts={
            "projector": ("multi_modal_projector", {"weight": "mm_input_projection_weight"}),
            "norm": (
                "multi_modal_projector.mm_soft_emb_norm",
                {"weight": "weight", "eps": "variance_epsilon"},
            ),
        },
        functions={
            **CROPS,
            "splitting_images": "Gemma3ImagePixelInputs.num_patches",
            "counting_tokens": (
                "Gemma3ProcessingInfo.get_num_image_tokens(image_width, image_height, processor, mm_kwargs)"
            ),
            "largest_size": "Gemma3ProcessingInfo.get_image_size_with_most_features()",
        },
        overrides={**MODEL, "tower_graphs": "get_encoder_cudagraph_config()"},
        info_uses={"vllm_max_tokens_per_item": INFO_USES["vllm_max_tokens_per_item"]},
    ),
    "internvl": Family(
        module=f"{MODELS}.interns1",
        model="InternS1ForConditionalGeneration",
        info="InternS1ProcessingInfo",
        processor="InternS1MultiModalProcessor",
        parts={
            "projector": ("multi_modal_projector", {}),
            "norm": ("multi_modal_projector.layer_norm", {"weight": "weight", "shift": "bias", "eps": "eps"}),
            "first_layer": ("multi_modal_projector.linear_1", {}),
            "activation": ("multi_modal_projector.act", {}),
            "second_layer": ("multi_modal_projector.linear_2", {}),
        },
        functions={
            **CROPS,
            "splitting_images": "InternS1ImagePixelInputs.num_patches",
            "splitting_videos": "InternS1VideoPixelInputs.num_patches",
        },
        overrides={**MODEL, "encode_images": "_process_vision_input(image_input)"},
        info_uses={**INFO_USES, "vllm_max_frames": "get_num_frames_with_most_features(seq_len, mm_counts)"},
    ),
    "qwen3-vl": _qwen3("qwen3_vl", "Qwen3VL"),
    "qwen3-vl-moe": _qwen3("qwen3_vl_moe", "Qwen3VLMoe"),
    "qwen3.5": _qwen3("qwen3_5", "Qwen3_5"),
    "qwen3.5-moe": _qwen3("qwen3_5", "Qwen3_5Moe"),
}


def names(family: str) -> Iterator[tuple[str, str]]:
    """Yield our name and vLLM's for everything that a family needs and that exists without a model."""
    yield from COMMON.items()
    for record, (owner, attributes) in RECORDS.items():
        yield from (
            (f"{our_name} of {record}", f"{owner}.{vllm_name}") for our_name, vllm_name in attributes.items()
        )
    entry = FAMILIES[family]
    for our_name, vllm_name in entry.functions.items():
        yield our_name, vllm_name if ":" in vllm_name else f"{entry.module}:{vllm_name}"
    for owner, methods in (
        (entry.info, {**INFO, **entry.info_uses}),
        (entry.processor, PROCESSOR),
        (entry.model, {**entry.overrides, **entry.uses, "registered_processors": "_processor_factory"}),
    ):
        yield from (
            (our_name, f"{entry.module}:{owner}.{vllm_name}") for our_name, vllm_name in methods.items()
        )


def check(family: str) -> None:
    """Raise an error if vLLM lacks one of the names that a family needs."""
    for our_name, vllm_name in names(family):
        find(vllm_name, our_name)


def stock_class(family: str, kind: str) -> Any:
    """Return vLLM's own class of a family: its "model", "info" or "processor"."""
    entry = FAMILIES[family]
    return find(f"{entry.module}:{getattr(entry, kind)}", f"{family} {kind}")


def function(name: str) -> Any:
    """Return a function listed in `COMMON`."""
    return find(COMMON[name], name)


def options(engine: Any) -> View:
    """Return a view of the options of an engine, given its configuration."""
    return View(engine, OPTIONS, "an engine's configuration")


def model_options(context: Any) -> View:
    """Return a view of the model's options, given a processing context or an engine's configuration."""
    of_model = {name: path for name, path in OPTIONS.items() if path.startswith("model_config.")}
    return View(context, of_model, "a model's configuration")


def is_configured(engine: Any) -> bool:
    """Return whether pruning is configured. Raises an error if this version of vLLM does not tell."""
    return getattr(model_options(engine).configuration, KEY, None) is not None


def view(kind: str, record: Any) -> View:
    """Return a view of an object that vLLM passed to us."""
    return View(record, RECORDS[kind][1], RECORDS[kind][0])


def part(model: Any, name: str, *indices: Any) -> View:
    """Return a view of a part of a model; `indices` fill the placeholders of its path."""
    path, attributes = FAMILIES[model.family].parts[name]
    path, owner = path.format(*indices), type(model).__name__
    return View(getattr(View(model, {name: path}, owner), name), attributes, f"{path} in {owner}").check()


def arguments(family: str) -> Mapping[str, Any]:
    """Return the names of the arguments of the blocks of a family's tower, by ours."""
    return FAMILIES[family].arguments


def uses_flashinfer(model: Any) -> bool:
    """Return whether a tower's attention is computed by FlashInfer."""
    return "FLASHINFER" in str(part(model, "tower_attention").wrapped)


def watch_attention(attention: View, record: Callable[[Tensor, Tensor], Any]) -> None:
    """Register a hook on a tower's layer that passes its queries and keys to `record`."""
    signature = inspect.signature(attention.computes)

    def hook(module: Any, args: Any, kwargs: Any) -> None:
        arguments = signature.bind(*args, **kwargs).arguments
        record(arguments["query"], arguments["key"])

    attention.hooked.register_forward_pre_hook(hook, with_kwargs=True)


def uses_full_graphs(engine: Any) -> bool:
    """Return whether steps that include prompts run as a full CUDA graph."""
    from vllm.config import CUDAGraphMode

    graphs = options(engine).decoder_graphs
    return graphs is not None and graphs.mixed_mode() == CUDAGraphMode.FULL


def uses_breakable_graphs(engine: Any) -> bool:
    """Return whether the whole model is captured in CUDA graphs that are interrupted where needed."""
    from vllm.compilation.breakable_cudagraph import is_breakable_cudagraph_enabled
    from vllm.config import CUDAGraphMode

    graphs = options(engine).decoder_graphs
    is_used = graphs is not None and graphs.mixed_mode() != CUDAGraphMode.NONE
    return is_used and bool(is_breakable_cudagraph_enabled())


def unsupported_kv_connectors(engine: Any) -> list[str]:
    """Return the names of the engine's connectors for keys and values that are not in `KV_CONNECTORS`."""
    given = options(engine)
    if given.kv_connector is None:
        return []
    connectors = [(given.kv_connector, given.kv_connector_module)]
    if connectors == [("MultiConnector", None)]:
        listed = given.kv_connector_options.get("connectors", [])
        connectors = [(each["kv_connector"], each.get("kv_connector_module_path")) for each in listed]
    return [name for name, module in connectors if module or name not in KV_CONNECTORS]


def disable_decode_graphs(engine: Any) -> None:
    """Let steps that only decode run like steps that include prompts."""
    graphs = options(engine).decoder_graphs
    if graphs is not None and graphs.separate_routine():
        engine.compilation_config.cudagraph_mode = graphs.mixed_mode()


def disable_tower_graphs(tower_graphs: Any) -> Any:
    """Remove all modalities from the configuration of the tower's CUDA graphs."""
    tower_graphs.modalities = []
    return tower_graphs


def per_item_field(modality: str) -> Any:
    """Return the declaration of a field of processed inputs with one entry per item, kept on the CPU."""
    return function("sending_budgets_to_workers")(modality, keep_on_cpu=True)


def replace_placeholders(
    update: Any, change: Callable[[Callable[[int], list[int]]], Callable[[int], list[int]]]
) -> Any:
    """Return a prompt update whose placeholders are changed by `change`."""
    replacement = change(update.replacement)
    make = function("replacing_placeholders")
    return make(modality=update.modality, target=update.target, replacement=replacement)


def kind_of(items: Any, modality: str) -> str | None:
    """Return what a request contains of its items: "pixels", precomputed "rows", or only their "fields".

    Fields, such as sizes, are all that is needed of items whose rows come from another engine. The result is
    None if there are no items.
    """
    given = items.get(modality)
    if isinstance(given, function("detection_of_named_embeddings")):
        return "rows" if f"{modality}_embeds" in given.get_passthrough_data() else "fields"
    if isinstance(given, function("detection_of_embeddings")):
        return "rows"
    return None if given is None else "pixels"


def fields_of(items: Any, modality: str) -> Mapping[str, Any]:
    """Return the fields of items of which a request contains no more than these."""
    return cast(Mapping[str, Any], items[modality].get_passthrough_data())


def identifiers_of(request: View, modality: str) -> list[str | None]:
    """Return the identifiers that a request gives its items, None for those without."""
    given = (request.identifiers or {}).get(modality)
    return [None] * len(request.items[modality]) if given is None else list(given)


def with_arguments(request: Any, arguments: Mapping[str, Any]) -> Any:
    """Return a request with other arguments."""
    return dataclasses.replace(request, **{RECORDS["request"][1]["arguments"]: arguments})


def n_placeholders(replacement: Any) -> int:
    """Return the number of placeholders in the replacement of an item: of its tokens that get its rows."""
    return len(replacement) if isinstance(replacement, list) else int(_mask(replacement).sum())


def keep_placeholders(replacement: Any, sizes: Sequence[int], kept: Sequence[int]) -> Any:
    """Return the replacement of an item with fewer placeholders: `kept` of `sizes`, part by part."""
    tokens, mask = replacement, [True] * len(replacement) if isinstance(replacement, list) else None
    if mask is None:
        tokens, mask = replacement.full, _mask(replacement).tolist()
    in_order = iter([n < k for size, k in zip(sizes, kept, strict=True) for n in range(size)])
    left = [token for token, is_row in zip(tokens, mask, strict=True) if not is_row or next(in_order)]
    return left if tokens is replacement else dataclasses.replace(replacement, full=left)


def rows_everywhere(replacement: Any) -> Any:
    """Return the replacement of an item in which all tokens get rows from the model."""
    return dataclasses.replace(replacement, is_embed=None)


def video_tokens(model: Any, rows_per_frame: Sequence[int], timestamps: Any) -> list[int]:
    """Return the tokens of a video of a Qwen3 model: for each frame its time stamp and its rows."""
    config = model.config
    repl = stock_class(model.family, "processor").get_video_repl(
        tokens_per_frame=list(rows_per_frame),
        timestamps=timestamps,
        tokenizer=model._tokenizer,
        vision_start_token_id=config.vision_start_token_id,
        vision_end_token_id=config.vision_end_token_id,
        video_token_id=config.video_token_id,
        select_token_id=True,
    )
    return list(repl.full)


def text_rows(model: Any, token_ids: Tensor) -> Tensor:
    """Return the embeddings of tokens, (N, D)."""
    return cast(Tensor, model.language_model.embed_input_ids(token_ids))


def _mask(replacement: Any) -> Tensor:
    """Return which tokens of a replacement get rows, (N,)."""
    full = replacement.full
    return torch.ones(len(full)).bool() if replacement.is_embed is None else replacement.is_embed(full)


def modality_of(inputs: Any) -> str:
    """Return the modality of the inputs of a model."""
    return "video" if inputs["type"] in ("pixel_values_videos", "video_embeds") else "image"


def gemma3_most_tokens(info: Any) -> int:
    """Return the number of tokens of the image with the most crops, from Gemma 3's processing info."""
    height, width = height_and_width(info.get_image_size_with_most_features())
    processor = info.get_hf_processor()
    count = info.get_num_image_tokens(
        image_width=width, image_height=height, processor=processor, mm_kwargs={}
    )
    return int(count)


def size_of(items: Any, index: int) -> tuple[int, int]:
    """Return the height and width of an image of a request."""
    return height_and_width(items["image"].get_image_size(index))


def height_and_width(size: Any) -> tuple[int, int]:
    """Convert vLLM's `ImageSize` to a tuple."""
    return size.height, size.width


def is_embeddings(inputs: Any) -> bool:
    """Return whether the inputs of a model are precomputed embeddings instead of pixels."""
    return bool(inputs["type"] in ("image_embeds", "video_embeds"))


def inputs_like(inputs: Any, **fields: Any) -> dict[str, Any]:
    """Return inputs of the same type with other fields."""
    return {"type": inputs["type"], **fields}


def grid_of_tiles(config: Any, size: Sequence[int]) -> tuple[int, int]:
    """Return the rows and columns of tiles of an image of size (height, width)."""
    from vllm.model_executor.models.llava_next import get_anyres_image_grid_shape

    shape = get_anyres_image_grid_shape(
        tuple(size), config.image_grid_pinpoints, config.vision_config.image_size
    )
    return int(shape[0]), int(shape[1])


def pack_tiles(config: Any, size: Sequence[int], tiles: Tensor, newline: Tensor) -> Tensor:
    """Pack rows (tiles, P, D) of an image of size (height, width) with the model's code, (N, D)."""
    pack = stock_class("llava-next", "model")._merge_image_patch_embeddings
    model = types.SimpleNamespace(config=config, image_newline=newline)
    try:
        return cast(Tensor, pack(model, torch.tensor(list(size)), tiles, strategy="spatial_unpad"))
    except AttributeError as error:
        raise refusal(f"packing of tiles without {error.name}", "token order") from error


def model_loaders(registry: Any) -> dict[str, Callable[[], Any]]:
    """Return functions that load vLLM's models: those in `LISTS`, or all models if a list is missing."""
    try:
        from vllm.model_executor.models import registry as module
    except ImportError:
        module = None
    models = getattr(registry, "models", {})
    lists = [getattr(module, name, models) for name in LISTS]
    loaders = {name: getattr(models.get(name), "load_model_cls", None) for name in set().union(*lists)}
    return {name: load for name, load in loaders.items() if load is not None}


def with_processor(
    model: Any,
    info: Callable[[Any, Callable[[Any], Any]], Any],
    processor: Callable[[Any, Any, Callable[[Any, Any], Any]], Any],
) -> Any:
    """Register functions that make a model's info and processor; vLLM's own are their last arguments."""
    factories = getattr(model, "_processor_factory", None)
    try:
        register, _ = function("processor_registration"), function("registered_processors")
    except EngineRefusedError:
        factories = None
    if factories is None:
        return model  # unchanged; `check` raises an error once pruning is configured
    return register(
        lambda made_info, dummy_inputs: processor(made_info, dummy_inputs, factories.processor),
        info=lambda context: info(context, factories.info),
        dummy_inputs=factories.dummy_inputs,
    )(model)


def guarded_model(model: Any, refuse: Callable[[Any], None]) -> Any:
    """Derive a class that calls `refuse` before its processing info or, without one, the model is made."""
    body: dict[str, Any] = {"__module__": model.__module__}
    if (factories := getattr(model, "_processor_factory", None)) is not None:

        def info(context: Any) -> Any:
            refuse(context)
            return factories.info(context)

        body["_processor_factory"] = dataclasses.replace(factories, info=info)
    elif getattr(model, "supports_multimodal", False):

        def init(self: Any, *, vllm_config: Any, prefix: str = "") -> None:
            refuse(vllm_config)
            model.__init__(self, vllm_config=vllm_config, prefix=prefix)

        body["__init__"] = init
    else:
        return model
    return type(model.__name__, (model,), body)
