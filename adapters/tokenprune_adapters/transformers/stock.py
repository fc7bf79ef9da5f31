# SPDX-License-Identifier: Apache-2.0
"""What the engine knows of transformers: the one file that names its arguments, outputs, masks and caches.

Everything is looked up when a model is pruned, from the signatures and classes that are installed. A spelling
that a version of the tested range had is accepted; what is not there raises `UnsupportedModelError` from
`apply`, so that a renamed argument is never read as one that was not passed. The rest of the package uses the
words on the left of the tables below.
"""

from __future__ import annotations

import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from tokenprune import UnsupportedModelError, UntestedVersionWarning

TESTED = ((5, 17), (5, 24))  # first and last minor version of transformers that all tests pass on

# Arguments: our word and its spellings in the tested range, newest first.
ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "ids": ("input_ids",),
    "embeds": ("inputs_embeds",),
    "mask": ("attention_mask",),
    "positions": ("position_ids",),
    "kv": ("cache", "past_key_values"),
    "caching": ("use_cache",),
    "images": ("pixel_values",),
    "videos": ("pixel_values_videos",),
    "encoded": ("mm_encoder_outputs",),
    "hidden": ("hidden_states",),
    "rotated": ("position_embeddings",),
    "segments": ("cu_seqlens",),
    "longest": ("max_seqlen",),
    "like": ("x",),
    "answers": ("labels",),
    "settings": ("config",),
    "blocks": ("block_sequence_ids",),
    "either": ("or_mask_function",),
    "both": ("and_mask_function",),
    "index": ("layer_idx",),
    "visual": ("visual_pos_masks",),
    "added": ("deepstack_visual_embeds",),
    "layer_inputs": ("per_layer_inputs",),
    "sizes": ("image_sizes",),
    "patch_positions": ("image_position_ids",),
    "video_patch_positions": ("video_position_ids",),
    "video_frames": ("num_frames_per_video",),
    "images_of_rows": ("batch_num_images",),
    "packing": ("vision_aspect_ratio",),
    "image_grids": ("image_grid_thw",),
    "video_grids": ("video_grid_thw",),
    "patch_grids": ("target_sizes",),
    "patch_shapes": ("spatial_shapes",),
    "patch_mask": ("pixel_attention_mask",),
    "merge_sizes": ("image_merge_sizes",),
    "fine_images": ("high_res_pixel_values",),
    "local_images": ("pixel_values_local",),
    "local_counts": ("num_local_patches",),
    "pooled_patches": ("image_token_pooling",),
    "crop_grids": ("image_grids",),
    "expert_kinds": ("moe_mm_token_type_ids",),
    "feature_layer": ("vision_feature_layer", "vision_feature_layers"),
    "feature_rule": ("vision_feature_select_strategy",),
    "module": ("module",),
    "query": ("query",),
    "key": ("key",),
    "value": ("value",),
    "scaling": ("scaling",),
}

PROJECTED = ("feature_layer", "feature_rule")  # arguments, and settings, that say which rows are projected

# Arguments that reach the language model and are not read there: the loss, made outside, reads them.
OF_THE_LOSS = ("shift_labels",)

# Fields of outputs.
OUTPUTS: Mapping[str, tuple[str, ...]] = {
    "rows": ("last_hidden_state",),
    "states": ("hidden_states",),
    "kv": ("cache", "past_key_values"),
    "features": ("pooler_output",),
}

# Methods of a cache layer that a pruned one stands in front of (`pruned_layer`).
LAYER_METHODS: Mapping[str, str] = {
    "seen": "get_seq_length",
    "mask_sizes": "get_mask_sizes",
    "store": "update",
    "forget": "crop",
    "clear": "reset",
    "reorder": "reorder_cache",
    "repeat": "batch_repeat_interleave",
    "pick": "batch_select_indices",
}

NO_ANSWER = -100  # a label that says that a token is not to be predicted

# Functions that make a mask, by the kind of layer it is for.
MASKS: Mapping[str, str] = {
    "full_attention": "create_causal_mask",
    "sliding_attention": "create_sliding_window_causal_mask",
    "chunked_attention": "create_chunked_causal_mask",
}
FULL, SLIDING, CHUNKED = MASKS
WINDOWED = (SLIDING, CHUNKED)  # kinds whose cache layers keep a window of the last tokens

OVERLAYS = ("blockwise_overlay", "sliding_window_overlay")  # what a mask is composed of

# Kinds of layers whose cache is a state of fixed size (linear attention, convolutions): it holds no tokens.
STATES = ("linear_attention", "conv")

# Classes of cache layers: of those that hold tokens, a state, and nothing.
TOKEN_LAYERS, STATE_LAYERS, EMPTY_LAYERS = "CacheLayerMixin", "LinearAttentionCacheLayerMixin", "DummyLayer"
STOCK_LAYER = "stock_layer"  # attribute of a class of pruned cache layers: the class it was made of
LAYER_KIND = "_layer_type"  # attribute of a class of cache layers, under which transformers finds it
# Classes of cache layers from which tokens can be removed: one that grows, and a preallocated one.
GROWING_LAYER, PREALLOCATED_LAYER = "DynamicLayer", "StaticLayer"
LAST_ROWS = "logits_to_keep"  # a language model that is passed it may return its last rows only

# Attributes that are read or set, by what they are for.
ATTRIBUTES: Mapping[str, str] = {
    "layers of a cache": "layers",
    "keys of a cache layer": "keys",
    "values of a cache layer": "values",
    "whether a cache is preallocated": "is_compileable",
    "whether a cache is offloaded": "offloading",
    "whether a cache layer slides": "is_sliding",
    "whether a sliding layer keeps its past": "record_past",
    "slots of a preallocated layer": "max_cache_len",
    "slots in use of a preallocated layer": "cumulative_length",
    "window of a layer": "sliding_window",
    "kinds of a language model's layers": "layer_types",
    "name of an attention implementation": "_attn_implementation",
    "where that name is stored": "_attn_implementation_internal",
    "attention function of a modeling file": "eager_attention_forward",
    "table of attention functions": "_global_mapping",
    "merged settings of generate": "_prepare_generation_config",
    "maker of drafts": "_get_candidate_generator",
    "drafts of a maker": "get_candidates",
    "arguments of the model's own call": "model_kwargs",
    "continuous batching": "generate_batch",
    "maker of a batching manager": "init_continuous_batching",
    "request to a batching manager": "add_request",
    "whether generate encodes images itself": "_supports_mm_encoder_outputs",
    "chunks of a prefill": "prefill_chunk_size",
    "table of embeddings": "get_input_embeddings",
    "whether layers are checkpointed": "gradient_checkpointing",
    "processes that share a layer's heads": "tp_size",
}

# What a model is recognised by (`structure`): attributes that it may lack.
MARKS: Mapping[str, str] = {
    "whether an encoder reads the prompt": "is_encoder_decoder",
    "layers that read images by cross-attention": "cross_attention_layers",
    "rotary embedding of a language model": "rotary_emb",
    "placeholders of a prompt": "get_placeholder_mask",
    "tokens of an image, if all have the same": "image_seq_len",
    "width of the inputs of single layers": "hidden_size_per_layer_input",
    "settings of rotary embeddings": "rope_parameters",
    "widths of the axes of positions": "mrope_section",
}

# Arguments of a stack whose layers read images by cross-attention, and methods of models whose positions have
# three axes.
CROSS_ATTENTION = ("cross_attention_states", "encoder_hidden_states")
OWN_FEATURES = ("deepstack_features",)  # features of single layers in a form of their own
THREE_AXES = ("get_rope_index", "compute_3d_position_ids")


def attribute(what: str) -> str:
    """The name of an attribute, from what it is for."""
    return ATTRIBUTES[what]


def mark(what: str) -> str:
    """The name of an attribute that some models have, from what it says of them."""
    return MARKS[what]


def missing(piece: str, where: str) -> UnsupportedModelError:
    """Build the error for a name that is missing where every tested version has it."""
    return UnsupportedModelError(
        f"{where} has no {piece}; tokenprune reads it, and was tested with transformers {tested_range()} "
        f"({installed_version()} is installed). Install a tested version, or a newer tokenprune"
    )


# -- versions


def tested_range() -> str:
    """The tested versions, as a string."""
    return " to ".join(".".join(map(str, version)) for version in TESTED)


def installed_version() -> str:
    """Version of the transformers that is installed."""
    import transformers

    version: str = transformers.__version__
    return version


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split(".")[:2])


def is_before(version: str) -> bool:
    """Whether the transformers that is installed is older than a minor version."""
    return _minor(installed_version()) < _minor(version)


@functools.cache
def warn_if_untested(version: str) -> None:
    """Warn, once a process, about a transformers outside of the tested range."""
    if not TESTED[0] <= _minor(version) <= TESTED[1]:
        warnings.warn(
            f"tokenprune was tested with transformers {tested_range()}, and {version} is installed. What it "
            "reads of it was found, and every model is rehearsed before it is pruned; to be sure, install a "
            "tested version or a newer tokenprune",
            UntestedVersionWarning,
            stacklevel=2,
        )


def encodes_first(model: Any) -> bool:
    """Whether `generate` encodes images before it calls the model; not before transformers 5.20."""
    return bool(getattr(model, attribute("whether generate encodes images itself"), lambda: False)())


def pixel_word(modality: str) -> str:
    """Our word for the argument with a modality's pixels."""
    return "videos" if modality == "video" else "images"


def encoder_name(modality: str) -> str:
    """The inner model's method that encodes images or videos."""
    return f"get_{modality}_features"


# -- the model's methods and outputs


def output_field(output: Any, word: str) -> Any:
    """A field of an output.

    Raises
    ------
    UnsupportedModelError
        When the output has no such field, under any spelling.
    """
    return getattr(output, _output_name(output, word))


def features_of(output: Any) -> Any:
    """Image rows in the output of an encoder: its features, or its last rows where it has no features."""
    features = output_field(output, "features")
    return output_field(output, "rows") if features is None else features


def optional_field(output: Any, word: str) -> Any:
    """A field of an output; None if it has no such field, under any spelling."""
    return next((getattr(output, name) for name in OUTPUTS[word] if hasattr(output, name)), None)


def set_output_field(output: Any, word: str, value: Any) -> None:
    """Replace a field of an output."""
    setattr(output, _output_name(output, word), value)


def _output_name(output: Any, word: str) -> str:
    """The spelling an output has a field under."""
    for name in OUTPUTS[word]:
        if hasattr(output, name):
            return name
    raise _no_field(word, type(output))


def _no_field(word: str, kind: type) -> UnsupportedModelError:
    return missing(f"field {' or '.join(OUTPUTS[word])}", kind.__name__)


def check_outputs() -> None:
    """Refuse a transformers whose plain outputs lack a field the engine reads."""
    from transformers import modeling_outputs as outputs

    for kind, words in (
        (outputs.BaseModelOutputWithPast, ("rows", "states", "kv")),
        (outputs.BaseModelOutputWithPooling, ("states", "features")),
    ):
        declared = {field.name for field in fields(kind)}
        for word in words:
            if not declared & set(OUTPUTS[word]):
                raise _no_field(word, kind)


# -- configuration, embeddings


def argument_name(word: str) -> str:
    """The name transformers gives an argument now, from ours: "sizes", "feature_layer" and so on."""
    return ARGUMENTS[word][0]


def config_value(config: Any, word: str) -> Any:
    """The setting of the configuration that this argument overrides."""
    for name in ARGUMENTS[word]:
        if hasattr(config, name):
            return getattr(config, name)
    raise missing(" or ".join(ARGUMENTS[word]), type(config).__name__)


def configured(config: Any, words: Sequence[str]) -> dict[str, Any]:
    """The settings of the configuration that these arguments override."""
    named = {word: [name for name in ARGUMENTS[word] if hasattr(config, name)] for word in words}
    return {word: getattr(config, names[0]) for word, names in named.items() if names}


def token_id(config: Any, modality: str) -> int:
    """The placeholder token of a modality."""
    name = f"{modality}_token_id"
    token = getattr(config, name, None)
    if not isinstance(token, int):
        raise missing(name, type(config).__name__)
    return token


def layer_kinds(config: Any) -> tuple[str, ...]:
    """The kinds of attention of a language model's layers, each once; full attention where it names none."""
    kinds = getattr(config, attribute("kinds of a language model's layers"), None)
    if kinds is None:
        return (FULL,) if window_of(config) is None else (SLIDING,)
    return tuple(dict.fromkeys(kinds))


def rotary_sections(config: Any) -> Sequence[int]:
    """How a rotary embedding divides its width among the axes of positions; empty for a single axis."""
    settings = getattr(config, mark("settings of rotary embeddings"), None)
    sections = settings.get(mark("widths of the axes of positions")) if isinstance(settings, dict) else None
    return sections or ()


def first_layers(config: Any) -> list[int]:
    """The first layer of each kind."""
    kinds = getattr(config, attribute("kinds of a language model's layers"), None) or (FULL,)
    return [list(kinds).index(kind) for kind in dict.fromkeys(kinds)]


def window_of(holder: Any) -> int | None:
    """The window of a configuration or cache layer; None: all that came before is seen."""
    size: int | None = getattr(holder, attribute("window of a layer"), None)
    return size


def embedding_of(model: Any, token: int, device: torch.device) -> Tensor:
    """The embedding of a token, (D,)."""
    row: Tensor = embedding_table(model)(torch.tensor(token, device=device))
    return row


def _method(owner: Any, what: str) -> str:
    """The name of a method, which the owner must have."""
    name = attribute(what)
    if not hasattr(owner, name):
        raise missing(f"method {name}", type(owner).__name__)
    return name


def embedding_table(model: Any) -> Any:
    """The module that maps token ids to embeddings."""
    name = _method(model, "table of embeddings")
    return getattr(model, name)()


# -- masks


def mask_functions() -> dict[str, Callable[..., Any]]:
    """Transformers' functions that make masks, by the kind of layer."""
    from transformers import masking_utils

    for name in MASKS.values():
        if not hasattr(masking_utils, name):
            raise missing(f"function {name}", masking_utils.__name__)
    return {kind: getattr(masking_utils, name) for kind, name in MASKS.items()}


def overlay_functions() -> tuple[Callable[..., Any], ...]:
    """Transformers' functions for masks of blocks, and of blocks within a window."""
    from transformers import masking_utils

    for name in OVERLAYS:
        if not hasattr(masking_utils, name):
            raise missing(f"function {name}", masking_utils.__name__)
    return tuple(getattr(masking_utils, name) for name in OVERLAYS)


def one_mask(mask: Any) -> Any:
    """The mask over all tokens, of a call that passes one for each kind of layer."""
    return mask.get(FULL) if isinstance(mask, dict) else mask


def packs(language_model: Any, kv: Any, caching: bool | None) -> bool:
    """Whether a call without a mask lets positions that start again begin another sequence.

    Not where a cache is used, one passed or one the model makes; flash attention reads positions in any case.
    """
    return is_flash(language_model.config) or not uses_cache(language_model, kv, caching)


def uses_cache(language_model: Any, kv: Any, caching: bool | None) -> bool:
    """Whether a call of the language model stores keys and values, in a cache passed or one that it makes."""
    name = attribute("whether layers are checkpointed")
    if caching is None:
        caching = bool(config_value(language_model.config, "caching"))
    if getattr(language_model, name) and language_model.training and torch.is_grad_enabled():
        caching = False
    return kv is not None or caching


# -- caches


def new_kv(config: Any) -> Any:
    """An empty cache, as the language model would make it."""
    from transformers import DynamicCache

    return DynamicCache(config=config)


def kv_of_one(layer: Any) -> Any:
    """A cache that has only this layer."""
    return kv_class()(layers=[layer])


def kv_class() -> type:
    """The base class of caches."""
    from transformers.cache_utils import Cache

    return Cache  # type: ignore[no-any-return]


def has_layers(kv: Any) -> bool:
    """Whether a cache, if any, keeps keys and values layer by layer; continuous batching's does not."""
    return kv is None or hasattr(kv, attribute("layers of a cache"))


def layers_of(kv: Any) -> list[Any]:
    """The layers of a cache; none where there is no cache."""
    return [] if kv is None else getattr(kv, attribute("layers of a cache"))


def holds_tokens(layer: Any) -> bool:
    """Whether a cache layer stores keys and values of tokens."""
    return isinstance(layer, _cache_class(TOKEN_LAYERS))


def holds_state(layer: Any) -> bool:
    """Whether a cache layer stores a state of fixed size, beside tokens or in place of them."""
    return isinstance(layer, _cache_class(STATE_LAYERS))


def holds_nothing(layer: Any) -> bool:
    """Whether a cache layer is a placeholder, of a decoder layer that uses another one's keys and values.

    Transformers before 5.21 has no such class, and makes shorter caches instead.
    """
    from transformers import cache_utils

    return hasattr(cache_utils, EMPTY_LAYERS) and isinstance(layer, _cache_class(EMPTY_LAYERS))


def _cache_class(name: str) -> type:
    """A class of cache layers, by its name."""
    from transformers import cache_utils

    if not hasattr(cache_utils, name):
        raise missing(f"class {name}", cache_utils.__name__)
    kind: type = getattr(cache_utils, name)
    return kind


def first_layer_of_kind(kv: Any, kind: str) -> int | None:
    """Index of the first layer of a cache that masks of a kind are made for; None if there is none yet."""
    slides = attribute("whether a cache layer slides")
    for index, layer in enumerate(layers_of(kv)):
        if holds_tokens(layer) and bool(getattr(layer, slides)) == (kind in WINDOWED):
            return index
    return None


def counting_layer(kv: Any) -> int:
    """Index of the first layer that stores tokens, which counts for the whole cache; 0 if there is none."""
    return next((i for i, layer in enumerate(layers_of(kv)) if holds_tokens(layer)), 0)


def seen(kv: Any) -> Any:
    """Tokens a cache, or a layer of one, has seen."""
    return getattr(kv, LAYER_METHODS["seen"])()


def mask_sizes(layer: Any, n_new: int) -> tuple[int, int]:
    """Stored plus new tokens of a layer, and the offset of the first stored one."""
    sizes: tuple[int, int] = getattr(layer, LAYER_METHODS["mask_sizes"])(n_new)
    return sizes


def keys_of(layer: Any, n: int, like: Tensor) -> Tensor:
    """The keys a cache layer stores of `n` tokens, (B, H, S, d); `like` (B, H, n, d) are keys of new ones.

    A quantised layer shows those it has not quantised yet: it is given no more tokens, and returns all.
    """
    stored: Tensor | None = getattr(layer, attribute("keys of a cache layer"))
    if stored is None or not stored.numel() or stored.shape[-2] < n:
        none = like[:, :, :0]
        stored = getattr(layer, LAYER_METHODS["store"])(none, none)[0]
        assert stored is not None
    return stored


def contents_of(layer: Any) -> list[Tensor]:
    """The keys and values a cache layer stores, (B, H, S, d) each; empty while it holds none."""
    if not holds_tokens(layer):
        return []
    names = ("keys of a cache layer", "values of a cache layer")
    held = [getattr(layer, attribute(name)) for name in names]
    return [stored for stored in held if stored is not None and stored.numel()]


def is_offloaded(kv: Any) -> bool:
    """Whether the layers of a cache are moved off the device between calls of their layers."""
    _need(kv, attribute("whether a cache is offloaded"))
    return bool(getattr(kv, attribute("whether a cache is offloaded")))


def why_not_trimmed(kv: Any) -> str:
    """Why tokens cannot be removed from all layers of a cache; empty if they can."""
    if kv is None:
        return ""
    if is_offloaded(kv):
        return "a cache that is offloaded"
    for layer in layers_of(kv):
        kind = getattr(layer, STOCK_LAYER, type(layer))
        if kind not in (_cache_class(GROWING_LAYER), _cache_class(PREALLOCATED_LAYER)):
            return f"a {kind.__name__}"
        if kind is _cache_class(PREALLOCATED_LAYER):
            _need(layer, attribute("slots in use of a preallocated layer"))
    return ""


def store(layer: Any, keys: Tensor, values: Tensor) -> None:
    """Let a cache layer store keys and values (B, H, S, d)."""
    getattr(layer, LAYER_METHODS["store"])(keys, values)


def keep_rows(layer: Any, before: int, n: int, rows: Tensor) -> None:
    """Of the last `n` tokens of a cache layer, which `before` others precede, keep `rows` (B, P) in order."""
    n_kept, is_preallocated = rows.shape[1], isinstance(layer, _cache_class(PREALLOCATED_LAYER))
    for what in ("keys of a cache layer", "values of a cache layer"):
        stored = getattr(layer, attribute(what))
        index = (rows.to(stored.device) + before)[:, None, :, None]
        kept = stored.gather(2, index.expand(-1, stored.shape[1], -1, stored.shape[3]))
        if is_preallocated:
            stored[:, :, before : before + n_kept] = kept
        else:
            setattr(layer, attribute(what), torch.cat([stored[:, :, :before], kept], 2) if before else kept)
    if is_preallocated:
        getattr(layer, attribute("slots in use of a preallocated layer")).sub_(n - n_kept)


def is_preallocated(kv: Any) -> bool:
    """Whether a cache has all its slots from the start; `generate` then makes masks of four dimensions."""
    return bool(getattr(kv, attribute("whether a cache is preallocated"), False))


def bytes_held(layer: Any, n: int, stored: int) -> int:
    """Bytes a cache layer of `stored` tokens a row holds of `n` that came last; 0 while it is empty.

    A layer that slides holds its window at most. Of a quantised layer, with the scales of groups of numbers.
    """
    tensors = contents_of(layer)
    if not tensors:
        return sum(_bytes(value) for value in vars(layer).values()) * n // max(stored, 1)
    n = slots_held(layer, n)
    return sum(n * (t.numel() // t.shape[-2]) * t.element_size() for t in tensors)


def slots_held(layer: Any, n: int) -> int:
    """How many of `n` tokens a cache layer holds: a layer that slides holds its window at most."""
    if not getattr(layer, attribute("whether a cache layer slides")):
        return n
    slots = getattr(layer, attribute("slots of a preallocated layer"), None)
    if slots is not None:  # all of them from the start
        return min(n, int(slots))
    if getattr(layer, attribute("whether a sliding layer keeps its past")):
        return n
    # the window without the token that is to look through it
    return min(n, int(getattr(layer, attribute("window of a layer"))) - 1)


def _bytes(value: Any) -> int:
    """Bytes of all tensors in a value, of their parts where these are made of others."""
    if isinstance(value, Tensor):
        if type(value) is not Tensor and hasattr(value, "__tensor_flatten__"):
            return sum(_bytes(getattr(value, name)) for name in value.__tensor_flatten__()[0])
        counts = value.dtype in (torch.bool, torch.int64)  # says which tokens, not what is kept of them
        return 0 if counts or not value.ndim else value.numel() * value.element_size()
    if isinstance(value, dict):
        value = list(value.values())
    return sum(map(_bytes, value)) if isinstance(value, (list, tuple)) else 0


def check_kv(config: Any) -> None:
    """Refuse a language model whose cache layers are not known.

    Raises
    ------
    UnsupportedModelError
        For layers of unknown kinds, for a cache without tokens, and for methods that are not there.
    """
    name = type(config).__name__
    kinds = layer_kinds(config)
    unknown = [kind for kind in kinds if kind not in (*MASKS, *STATES)]
    if unknown:
        raise UnsupportedModelError(
            f"{name} has layers of the kind {', '.join(unknown)}; the kinds that can be pruned are "
            f"{', '.join((*MASKS, *STATES))}"
        )
    if not set(kinds) & set(MASKS):
        raise UnsupportedModelError(
            f"{name} has layers of the kind {', '.join(kinds)} only, whose cache does not count tokens; at "
            "least one layer must store keys and values"
        )
    for base in (TOKEN_LAYERS, STATE_LAYERS):
        _cache_class(base)
    kv = new_kv(config)
    _need(
        kv,
        attribute("layers of a cache"),
        attribute("whether a cache is preallocated"),
        LAYER_METHODS["seen"],
    )
    for layer in layers_of(kv):
        _check_layer(layer)
    slides = attribute("whether a cache layer slides")
    sliding = {kind in WINDOWED for kind in kinds if kind in MASKS}
    if sliding != {bool(getattr(layer, slides)) for layer in layers_of(kv) if holds_tokens(layer)}:
        names = map(attribute, ("kinds of a language model's layers", "window of a layer"))
        raise missing(f"{' or '.join(names)} that agrees with its cache", type(config).__name__)


def _check_layer(layer: Any) -> None:
    """Refuse a cache layer of an unknown form."""
    if holds_nothing(layer):
        return
    if not holds_tokens(layer):
        if not holds_state(layer):
            raise missing("cache layer that stores tokens or a state", type(layer).__name__)
        _need(layer, LAYER_METHODS["forget"])
        return
    slides = attribute("whether a cache layer slides")
    held = map(attribute, ("keys of a cache layer", "values of a cache layer"))
    _need(layer, *LAYER_METHODS.values(), *held, slides)
    if getattr(layer, slides):
        _need(layer, *map(attribute, ("window of a layer", "whether a sliding layer keeps its past")))


def _need(holder: Any, *names: str) -> None:
    """Refuse an object that lacks an attribute."""
    for name in names:
        if not hasattr(holder, name):
            raise missing(f"attribute {name}", type(holder).__name__)


@functools.cache
def pruned_class(mixin: type, layer_class: type) -> type:
    """A cache layer class whose methods go through those of a mixin, which get the original first."""

    def in_front(word: str, name: str) -> Callable[..., Any]:
        original = getattr(layer_class, name)

        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            return getattr(mixin, word)(self, functools.partial(original, self), *args, **kwargs)

        return method

    methods = {
        name: in_front(word, name)
        for word, name in LAYER_METHODS.items()
        if hasattr(layer_class, name) and hasattr(mixin, word)
    }
    # no class of this kind of layer: transformers registers those that are, for every new cache
    attributes = {**methods, LAYER_KIND: None, STOCK_LAYER: layer_class}
    return type("Pruned" + layer_class.__name__, (mixin, layer_class), attributes)


# -- decoder layers


def check_checkpointing(language_model: Any) -> None:
    """Refuse a language model that does not say whether its layers are checkpointed."""
    _need(language_model, attribute("whether layers are checkpointed"))


def recomputes_hooks(layer: Any) -> bool:
    """Whether a layer that is checkpointed runs its hooks again when it is recomputed; before 5.23."""
    calls = [kind for kind in type(layer).__mro__ if "__call__" in vars(kind)]
    if calls[0] is torch.nn.Module:
        return False
    return bool(getattr(layer, attribute("whether layers are checkpointed"))) and layer.training


def tensor_parallel_size(model: Any) -> int:
    """How many processes share the heads of each layer (tensor parallelism); 1 where none does."""
    name = attribute("processes that share a layer's heads")
    _need(model, name)
    return getattr(model, name) or 1


# -- attention functions


class AttentionFunctions:
    """Transformers' table of attention functions, by the name of the implementation."""

    def __init__(self) -> None:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        self._table: Any = ALL_ATTENTION_FUNCTIONS
        if not hasattr(self._table, attribute("table of attention functions")):
            raise missing(attribute("table of attention functions"), type(self._table).__name__)

    def name_of(self, attention: Any) -> str:
        """The implementation a module uses."""
        if not hasattr(attention.config, attribute("where that name is stored")):
            where = f"the config of {type(attention).__name__}"
            raise missing(attribute("where that name is stored"), where)
        return self.implementation(attention.config)

    def implementation(self, config: Any) -> str:
        """The implementation a configuration names."""
        attribute_name = attribute("name of an attention implementation")
        _need(config, attribute_name)
        name: str = getattr(config, attribute_name)
        return name

    def use(self, config: Any, name: str) -> None:
        """Let a configuration name an implementation, without transformers' checks."""
        setattr(config, attribute("where that name is stored"), name)

    def function(self, name: str, attention: Any) -> Callable[..., Any]:
        """The function of an implementation; the eager one is that of the module's own file."""
        if name != "eager":
            function: Callable[..., Any] = self._table[name]
            return function
        file, eager = (
            sys.modules[type(attention).__module__],
            attribute("attention function of a modeling file"),
        )
        if not hasattr(file, eager):
            raise missing(f"function {eager}", file.__name__)
        function = getattr(file, eager)
        return function

    def add(self, name: str, function: Callable[..., Any]) -> None:
        """Register a function of ours."""
        self._table.register(name, function)

    def remove(self, name: str) -> None:
        """Forget a function of ours; doing it twice is fine."""
        self.forgetting(name)()

    def forgetting(self, name: str) -> Callable[[], Any]:
        """What `remove` does, for the garbage collector to do."""
        return functools.partial(
            getattr(self._table, attribute("table of attention functions")).pop, name, None
        )


def is_flash(config: Any) -> bool:
    """Whether a configuration names an implementation of flash attention."""
    return "flash" in str(getattr(config, attribute("name of an attention implementation")))


def segments_of(options: Mapping[str, Any]) -> Tensor | None:
    """The borders of the segments that an attention function is called with for all of them; None for one."""
    borders: Tensor | None = options.get("cu_seq_lens_k")
    return borders


def mask_of(positional: Sequence[Any], options: Mapping[str, Any]) -> Tensor | None:
    """The mask that an attention function is called with, by position or by name; None without one."""
    return positional[0] if positional else options.get("attention_mask")


def scaling_of(options: Mapping[str, Any]) -> float | None:
    """The factor an attention function is to multiply logits by; None: the inverse root of the width."""
    (name,) = ARGUMENTS["scaling"]
    scaling: float | None = options.get(name)
    return scaling


# -- generate


def settings_method(model: Any) -> str:
    """The method of a model through which `generate` merges its settings."""
    from transformers import GenerationConfig

    name = _method(model, "merged settings of generate")
    if not hasattr(GenerationConfig(), attribute("chunks of a prefill")):
        raise missing(attribute("chunks of a prefill"), GenerationConfig.__name__)
    return name


def chunk_size(merged: Any) -> int | None:
    """The size of prefill chunks, from what the method above returned; None: one prefill."""
    size: int | None = getattr(merged[0], attribute("chunks of a prefill"))
    return size


def batching_method(model: Any) -> str:
    """The method of a model that generates by continuous batching."""
    return _method(model, "continuous batching")


def manager_method(model: Any) -> str:
    """The method of a model that makes a manager of continuous batching."""
    return _method(model, "maker of a batching manager")


def request_method(manager: Any) -> str:
    """The method through which a manager takes a request, from what the method above returned."""
    return _method(manager, "request to a batching manager")


def first_argument(method: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The first argument of a call, whatever its name: prompts of a batch, or the prompt of a request."""
    signature = inspect.signature(method)
    return signature.bind(*args, **kwargs).arguments[next(iter(signature.parameters))]


def drafting_method(model: Any) -> str:
    """The method of a model that makes the generator of drafts in assisted decoding."""
    name = _method(model, "maker of drafts")
    passed = attribute("arguments of the model's own call")
    if passed not in inspect.signature(getattr(model, name)).parameters:
        raise missing(f"argument {passed}", f"{type(model).__name__}.{name}")
    return name


def passed_on(
    method: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Mapping[str, Any]:
    """What a call of the method above says that the model itself will be passed."""
    bound = inspect.signature(method).bind(*args, **kwargs).arguments
    passed: Mapping[str, Any] = bound[attribute("arguments of the model's own call")]
    return passed


def kv_among(passed: Mapping[str, Any]) -> Any:
    """The cache among arguments of a model; None if there is none yet."""
    return next((passed[name] for name in ARGUMENTS["kv"] if passed.get(name) is not None), None)


def drafts_of(maker: Any) -> str:
    """The method through which assisted decoding gets drafts, from what the method above returned."""
    return _method(maker, "drafts of a maker")


def generates_tokens(model: Any) -> bool:
    """Whether a model generates token by token, by transformers' own `generate`."""
    from transformers import GenerationMixin

    return isinstance(model, GenerationMixin)


def taken_by(module: Any, words: Sequence[str]) -> tuple[str, ...]:
    """Those of these arguments that a module's forward takes."""
    takes = inspect.signature(type(module).forward).parameters
    return tuple(word for word in words if any(name in takes for name in ARGUMENTS[word]))


def brings_pixels(kwargs: Mapping[str, Any]) -> bool:
    """Whether a call of `generate` has images among its arguments."""
    words = ("images", "videos", "encoded")
    return any(kwargs.get(name) is not None for word in words for name in ARGUMENTS[word])


# -- checks of promises (`promises`)

HEAD = "get_output_embeddings"  # a model's method
MODALITY_KINDS = "mm_token_type_ids"  # 1: token of an image, 2: of a video
BLOCK_KINDS = "token_type_ids"  # which tokens see each other both ways
LAYER_STATES = ("conv_states", "recurrent_states")  # attributes of a cache layer that holds a state


def states_of(layer: Any) -> list[Tensor]:
    """The states a cache layer holds; empty if it holds none."""
    if not holds_state(layer):
        return []
    _need(layer, *LAYER_STATES)
    states = [state for name in LAYER_STATES for state in getattr(layer, name).values()]
    return [state for state in states if state is not None]


def last_rows(arguments: Mapping[str, Any]) -> int | None:
    """How many of its last rows a language model may return, from its arguments; None if it returns all."""
    n = arguments.get(LAST_ROWS)
    return n if isinstance(n, int) and n > 0 else None


def head_of(model: Any) -> Any:
    """The module that makes logits of the language model's rows."""
    head = getattr(model, HEAD, lambda: None)()
    if head is None:
        raise missing(f"method {HEAD}", type(model).__name__)
    return head


def implementation_of(config: Any) -> str:
    """The attention implementation a configuration names; empty where it names none."""
    return str(getattr(config, attribute("name of an attention implementation"), None) or "")


def generate_these(model: Any, inputs: Mapping[str, Any], tokens: Sequence[int], kv: Any) -> None:
    """Let `generate` answer each row with given tokens, whatever the logits; `kv` is an empty cache."""
    from transformers import LogitsProcessorList

    start = inputs[ARGUMENTS["ids"][0]].shape[1]

    def force(ids: Tensor, scores: Tensor) -> Tensor:
        forced = torch.full_like(scores, -torch.inf)
        forced[:, tokens[ids.shape[1] - start]] = 0.0
        return forced

    padding = getattr(model.generation_config, "pad_token_id", None)
    names = [name for name in ARGUMENTS["kv"] if name in inspect.signature(type(model).forward).parameters]
    if not names:
        raise missing(f"argument {' or '.join(ARGUMENTS['kv'])}", f"{type(model).__name__}.forward")
    model.generate(
        **{**inputs, names[0]: kv, ARGUMENTS["caching"][0]: True},  # whatever inputs and settings say
        max_new_tokens=len(tokens),
        min_new_tokens=len(tokens),
        do_sample=False,
        num_beams=1,
        pad_token_id=0 if padding is None else padding,
        logits_processor=LogitsProcessorList([force]),
    )


def vocabulary_of(config: Any) -> int:
    """Tokens a model knows."""
    size: int = config.get_text_config().vocab_size
    return size


def model_of(settings: Mapping[str, Any]) -> Any:
    """A model for pictures and text of a configuration, weights random; the global generators stay."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    plain = dict(settings)
    config = AutoConfig.for_model(plain.pop("model_type"), **plain)
    with torch.random.fork_rng(devices=[]):
        return AutoModelForImageTextToText.from_config(config)
