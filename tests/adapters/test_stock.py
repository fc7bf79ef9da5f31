# SPDX-License-Identifier: Apache-2.0
"""Every name of transformers that the engine knows, renamed, removed or moved: `apply` refuses by name.

Each case puts a shim around the stock piece, so that the model itself still works as before.
"""

import copy
import functools
import inspect
import sys

import pytest
import tiny_families
import tiny_models
import torch
import transformers
from cache_names import CACHE
from tokenprune_adapters.transformers import calls, signature, stock
from transformers import cache_utils, masking_utils, modeling_outputs, modeling_utils

import tokenprune

NEW = "renamed"


def renamed(function, old, new=NEW, move=False):
    """A function with the same behaviour whose argument has another name, or stands one place later."""
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    place = next(i for i, parameter in enumerate(parameters) if parameter.name == old)
    if move:
        parameters[place], parameters[place + 1] = parameters[place + 1], parameters[place]
        parameters = [
            p.replace(default=inspect.Parameter.empty) for p in parameters[: place + 2]
        ] + parameters[place + 2 :]
    else:
        parameters[place] = parameters[place].replace(name=new)

    @functools.wraps(function)
    def shim(*args, **kwargs):
        if new in kwargs:
            kwargs[old] = kwargs.pop(new)
        return function(*args, **kwargs)

    shim.__signature__ = signature.replace(parameters=parameters)
    return shim


def llava():
    return tiny_models.llava()


def family(name):
    return lambda: copy.deepcopy(tiny_families.model(name))  # cases change it


MODELS = {
    "llava": llava,
    "eager llava": lambda: tiny_models.llava("eager"),
    "llava_next": tiny_models.llava_next,
    "qwen": tiny_models.qwen,
    "qwen3_vl": family("qwen3_vl"),
    "gemma3": family("gemma3"),
    "gemma4": family("gemma4"),
    "llava_onevision": family("llava_onevision"),
}
PARTS = {
    "outer": type,
    "inner": lambda model: type(model.model),
    "language": lambda model: type(model.model.language_model),
    "layer": lambda model: type(model.model.language_model.layers[0]),
    "rotary": lambda model: type(model.model.language_model.rotary_emb),
    "attention": lambda model: type(model.model.language_model.layers[0].self_attn),
    "block": lambda model: type(model.model.visual.blocks[0]),
}
FRONT, DECODER, TOWER = "divprune", "pyramiddrop", "tower-diverse"
TRIMMED = tokenprune.method("fastv", trim_early_cache=True)
# word, model, part of it (or a function), method
ARGUMENTS = [
    ("answers", "llava", "outer", FRONT),
    ("ids", "llava", "inner", FRONT),
    ("embeds", "llava", "inner", FRONT),
    ("mask", "llava", "inner", FRONT),
    ("kv", "llava", "inner", FRONT),
    ("images", "llava", "inner", FRONT),
    ("videos", "qwen", "inner", FRONT),
    ("encoded", "llava", "inner", FRONT),
    ("embeds", "llava", "language", FRONT),
    ("mask", "llava", "language", FRONT),
    ("positions", "llava", "language", FRONT),
    ("kv", "llava", "language", FRONT),
    ("kv", "qwen", "language", FRONT),
    ("kv", "gemma3", "language", FRONT),
    ("caching", "llava", "language", FRONT),
    ("visual", "qwen3_vl", "language", FRONT),
    ("added", "qwen3_vl", "language", FRONT),
    ("layer_inputs", "gemma4", "language", FRONT),
    ("like", "llava", "rotary", FRONT),
    ("positions", "llava", "rotary", FRONT),
    ("hidden", "llava", "layer", DECODER),
    ("mask", "llava", "layer", DECODER),
    ("positions", "llava", "layer", DECODER),
    ("rotated", "llava", "layer", DECODER),
    ("hidden", "llava", "attention", DECODER),
    ("rotated", "llava", "attention", DECODER),
    ("mask", "llava", "attention", DECODER),
    *((word, "qwen", "block", TOWER) for word in ("hidden", "segments", "rotated")),
    ("feature_layer", "llava", "get_image_features", FRONT),
    ("feature_rule", "llava", "get_image_features", FRONT),
    ("sizes", "llava_next", "get_image_features", FRONT),
    ("patch_positions", "gemma4", "get_image_features", FRONT),
    ("video_patch_positions", "gemma4", "get_video_features", FRONT),
    ("images_of_rows", "llava_onevision", "get_image_features", FRONT),
    ("packing", "llava_onevision", "get_image_features", FRONT),
    ("image_grids", "qwen", "get_image_features", FRONT),
    ("video_grids", "qwen", "get_video_features", FRONT),
    *((word, "llava", "create_causal_mask", FRONT) for word in ("settings", "embeds", "mask", "kv")),
    *((word, "llava", "create_causal_mask", FRONT) for word in ("positions", "blocks")),
    *((word, "llava", "create_causal_mask", FRONT) for word in ("either", "both", "index")),
    ("kv", "llava", "create_sliding_window_causal_mask", FRONT),
    *((word, "llava", "sdpa", DECODER) for word in ("module", "query", "key", "value", "mask", "scaling")),
    ("query", "eager llava", "eager_attention_forward", DECODER),
]
# inputs of the pictures that checks make, one that is refused in a call where it is missing, and the longest
# segment's length, which blocks pass on without naming it
OTHERS = {
    "crop_grids",
    "expert_kinds",
    "fine_images",
    "local_counts",
    "local_images",
    "longest",
    "merge_sizes",
    "patch_grids",
    "patch_mask",
    "patch_shapes",
    "pooled_patches",
    "video_frames",
}
MOVED = [
    ("like", "llava", "rotary", FRONT),
    ("hidden", "llava", "layer", DECODER),
    ("query", "llava", "sdpa", DECODER),
    ("key", "eager llava", "eager_attention_forward", DECODER),
]


def put_shim(monkeypatch, model, part, word, move=False):
    """Put a shim in front of a part's function; return the name that was changed."""
    if part in PARTS or part.startswith("get_"):
        owner = PARTS[part](model) if part in PARTS else type(model.model)
        attribute = "forward" if part in PARTS else part
    elif part == "sdpa":
        table = modeling_utils.ALL_ATTENTION_FUNCTIONS
        (name,) = [
            name for name in stock.ARGUMENTS[word] if name in inspect.signature(table["sdpa"]).parameters
        ]
        monkeypatch.setitem(table._global_mapping, "sdpa", renamed(table["sdpa"], name, move=move))
        return name
    elif part == "eager_attention_forward":
        owner, attribute = sys.modules[PARTS["attention"](model).__module__], part
    else:
        owner, attribute = masking_utils, part
    function = getattr(owner, attribute)
    (name,) = [name for name in stock.ARGUMENTS[word] if name in inspect.signature(function).parameters]
    monkeypatch.setattr(owner, attribute, renamed(function, name, move=move))
    return name


def refused(model, method, match):
    hooks = hooks_of(model)
    with pytest.raises(tokenprune.UnsupportedModelError, match=match):
        tokenprune.apply(model, method=method, keep=5, verify=False)
    assert hooks_of(model) == hooks and not tokenprune.is_pruned(model)


def hooks_of(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def skip_where_there_is_none(word, part):
    if word == "encoded" and not hasattr(transformers.GenerationMixin, "_supports_mm_encoder_outputs"):
        pytest.skip("this transformers encodes images inside forward only")


@pytest.mark.parametrize(("word", "name", "part", "method"), ARGUMENTS)
def test_a_renamed_argument_is_refused_by_name(monkeypatch, word, name, part, method):
    skip_where_there_is_none(word, part)
    model = MODELS[name]()
    old = put_shim(monkeypatch, model, part, word)
    refused(model, method, old)


@pytest.mark.parametrize(("word", "name", "part", "method"), MOVED)
def test_a_moved_argument_is_refused_by_name(monkeypatch, word, name, part, method):
    model = MODELS[name]()
    old = put_shim(monkeypatch, model, part, word, move=True)
    refused(model, method, old)


def test_every_argument_is_renamed_above():
    assert {word for word, *_ in ARGUMENTS} | OTHERS == set(stock.ARGUMENTS)


@pytest.mark.parametrize("word", stock.OUTPUTS)
def test_a_renamed_field_of_an_output_is_refused_by_name(monkeypatch, word):
    kind = "BaseModelOutputWithPooling" if word == "features" else "BaseModelOutputWithPast"
    fields = getattr(modeling_outputs, kind).__dataclass_fields__
    (name,) = [name for name in stock.OUTPUTS[word] if name in fields]
    changed = {NEW if field == name else field: value for field, value in fields.items()}
    shim = type(kind, (), {"__dataclass_fields__": rename_fields(changed)})
    monkeypatch.setattr(modeling_outputs, kind, shim)
    refused(llava(), FRONT, name)


def rename_fields(fields):
    renamed = {}
    for name, field in fields.items():
        renamed[name] = copy.copy(field)
        renamed[name].name = name
    return renamed


@pytest.mark.parametrize("name", stock.LAYER_METHODS.values())
def test_a_renamed_method_of_cache_layers_is_refused_by_name(monkeypatch, name):
    remove_everywhere(monkeypatch, cache_utils, name)
    refused(llava(), FRONT, name)


def remove_everywhere(monkeypatch, module, name):
    """Take an attribute away from every class of a module, or from its instances."""
    for kind in vars(module).values():
        if inspect.isclass(kind) and name in vars(kind):
            monkeypatch.setattr(kind, NEW, vars(kind)[name], raising=False)
            monkeypatch.delattr(kind, name)


def without_on_instances(monkeypatch, kind, name):
    """Take away what a class's constructor sets."""
    original = kind.__init__

    def shim(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self.__dict__[NEW] = self.__dict__.pop(name)

    monkeypatch.setattr(kind, "__init__", shim)


@pytest.mark.parametrize("name", [stock.TOKEN_LAYERS, stock.STATE_LAYERS])
def test_a_renamed_class_of_cache_layers_is_refused_by_name(monkeypatch, name):
    monkeypatch.delattr(cache_utils, name)
    refused(llava(), FRONT, name)


@pytest.mark.parametrize("name", [*stock.MASKS.values(), *stock.OVERLAYS])
def test_a_renamed_mask_function_is_refused_by_name(monkeypatch, name):
    monkeypatch.delattr(masking_utils, name)
    refused(llava(), FRONT, name)


@pytest.mark.parametrize("kind", [stock.FULL, stock.SLIDING])
def test_a_renamed_kind_of_layer_is_refused_by_name(kind):
    model = MODELS["gemma3"]()
    config = model.model.language_model.config
    config.layer_types = [NEW if each == kind else each for each in config.layer_types]
    refused(model, FRONT, NEW)


# -- attributes, one by one


def on_cache_layers(name, kind="DynamicLayer"):
    return lambda patch, model: without_on_instances(patch, getattr(cache_utils, kind), name)


def renamed_kinds(patch, model):
    """Layer types under another name, in the configuration and in the cache that reads it."""
    config = model.model.language_model.config
    kinds = config.__dict__[NEW] = config.__dict__.pop("layer_types")
    original = cache_utils.DynamicCache.__init__

    def shim(self, *args, config=None, **kwargs):
        config.layer_types = kinds
        original(self, *args, config=config, **kwargs)
        del config.layer_types

    patch.setattr(cache_utils.DynamicCache, "__init__", shim)


def renamed_window(patch, model):
    without_on_instances(patch, cache_utils.DynamicSlidingWindowLayer, "sliding_window")


def private_name_gone(patch, model):
    for layer in model.model.language_model.layers:
        config = layer.self_attn.config
        config.__dict__.pop("_attn_implementation_internal", None)
    patch.delattr(type(config), "_attn_implementation_internal", raising=False)


def preallocated_slots(patch, model):
    without_on_instances(patch, cache_utils.StaticSlidingWindowLayer, "max_cache_len")


ATTRIBUTES = {
    "layers": ("llava", FRONT, lambda patch, model: without_on_instances(patch, cache_utils.Cache, "layers")),
    "keys": ("llava", FRONT, on_cache_layers("keys")),
    "values": ("llava", FRONT, on_cache_layers("values")),
    "is_compileable": (
        "llava",
        FRONT,
        lambda patch, model: remove_everywhere(patch, cache_utils, "is_compileable"),
    ),
    "offloading": (
        "llava",
        TRIMMED,
        lambda patch, model: without_on_instances(patch, cache_utils.Cache, "offloading"),
    ),
    "is_sliding": ("llava", FRONT, lambda patch, model: remove_everywhere(patch, cache_utils, "is_sliding")),
    "record_past": ("gemma3", FRONT, on_cache_layers("record_past", "DynamicSlidingWindowLayer")),
    "sliding_window": ("gemma3", FRONT, renamed_window),
    "layer_types": ("gemma3", FRONT, renamed_kinds),
    "_attn_implementation": (
        "llava",
        DECODER,
        lambda patch, model: remove_everywhere(
            patch, sys.modules["transformers.configuration_utils"], "_attn_implementation"
        ),
    ),
    "_attn_implementation_internal": ("llava", DECODER, private_name_gone),
    "eager_attention_forward": (
        "eager llava",
        DECODER,
        lambda patch, model: patch.delattr(
            sys.modules[PARTS["attention"](model).__module__], "eager_attention_forward"
        ),
    ),
    "_global_mapping": (
        "llava",
        DECODER,
        lambda patch, model: (
            remove_everywhere(patch, sys.modules["transformers.utils.generic"], "_global_mapping")
            or patch.delattr(type(modeling_utils.ALL_ATTENTION_FUNCTIONS), "_global_mapping")
        ),
    ),
    "_prepare_generation_config": (
        "llava",
        FRONT,
        lambda patch, model: patch.delattr(transformers.GenerationMixin, "_prepare_generation_config"),
    ),
    **{
        name: (
            "llava",
            FRONT,
            lambda patch, model, name=name: patch.delattr(
                next(kind for kind in type(model).__mro__ if name in vars(kind)), name
            ),
        )
        for name in ("generate_batch", "init_continuous_batching")
    },
    "_get_candidate_generator": (
        "llava",
        FRONT,
        lambda patch, model: patch.delattr(transformers.GenerationMixin, "_get_candidate_generator"),
    ),
    "model_kwargs": (
        "llava",
        FRONT,
        lambda patch, model: patch.setattr(
            transformers.GenerationMixin, "_get_candidate_generator", lambda self, **options: None
        ),
    ),
    "prefill_chunk_size": (
        "llava",
        FRONT,
        lambda patch, model: without_on_instances(patch, transformers.GenerationConfig, "prefill_chunk_size"),
    ),
    "gradient_checkpointing": (
        "llava",
        FRONT,
        lambda patch, model: patch.delattr(model.model.language_model, "gradient_checkpointing"),
    ),
    "tp_size": ("llava", DECODER, lambda patch, model: remove_everywhere(patch, modeling_utils, "tp_size")),
    "get_input_embeddings": (
        "llava",
        FRONT,
        lambda patch, model: remove_everywhere(patch, modeling_utils, "get_input_embeddings"),
    ),
}
# read on other occasions than apply; each has a test of its own below
LATER = {
    "max_cache_len",
    "cumulative_length",
    "_supports_mm_encoder_outputs",
    "get_candidates",
    "add_request",
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_renamed_attribute_is_refused_by_name(monkeypatch, name):
    model_name, method, change = ATTRIBUTES[name]
    model = MODELS[model_name]()
    change(monkeypatch, model)
    refused(model, method, name)


def test_every_attribute_is_renamed_above():
    assert set(stock.ATTRIBUTES.values()) == set(ATTRIBUTES) | LATER


def test_slots_of_a_preallocated_layer_under_another_name_end_the_report():
    class Layer(cache_utils.DynamicLayer):
        is_sliding = True

        def __init__(self):
            self.keys = self.values = torch.zeros(1, 1, 4, 2)

    with pytest.raises(AttributeError, match="record_past"):
        stock.bytes_held(Layer(), 3, 3)


def test_slots_in_use_under_another_name_are_refused_where_they_are_counted(monkeypatch):
    model = llava()
    kv = cache_utils.StaticCache(config=model.config.get_text_config(), max_cache_len=40)
    del kv.layers[0].cumulative_length
    with tokenprune.apply(model, method=TRIMMED, keep=5):
        with pytest.raises(tokenprune.UnsupportedModelError, match="cumulative_length"):
            model(**tiny_models.llava_inputs((3, "I", 5)), **{CACHE: kv})


def test_drafts_under_another_name_are_refused_where_they_are_made(monkeypatch):
    model, inputs = llava(), tiny_models.llava_inputs((3, "I", 5))
    monkeypatch.setattr(model, "_get_candidate_generator", lambda model_kwargs, **_: object())
    with tokenprune.apply(model, method=DECODER, layer=2, keep=5):
        with pytest.raises(tokenprune.UnsupportedModelError, match="object has no method get_candidates"):
            model.generate(**inputs, prompt_lookup_num_tokens=3, max_new_tokens=3)


def test_a_renamed_method_of_batching_managers_is_refused_by_name(monkeypatch):
    model = llava()
    monkeypatch.setattr(model, "init_continuous_batching", lambda: object())
    with tokenprune.apply(model, method=FRONT, keep=5):
        with pytest.raises(tokenprune.UnsupportedModelError, match="object has no method add_request"):
            model.init_continuous_batching()


@pytest.mark.parametrize("name", [stock.GROWING_LAYER, stock.PREALLOCATED_LAYER])
def test_a_renamed_class_that_is_trimmed_is_refused_by_name(monkeypatch, name):
    kv = cache_utils.DynamicCache(config=llava().config.get_text_config())
    monkeypatch.delattr(cache_utils, name)
    with pytest.raises(tokenprune.UnsupportedModelError, match=name):
        stock.why_not_trimmed(kv)


def test_a_token_that_is_not_in_the_configuration_is_refused_by_name():
    model = llava()
    model.config.image_token_id = None
    refused(model, FRONT, "image_token_id")


def test_an_encoder_under_another_name_is_refused(monkeypatch):
    model = llava()
    monkeypatch.setattr(type(model.model), NEW, type(model.model).get_image_features, raising=False)
    monkeypatch.delattr(type(model.model), "get_image_features")
    refused(model, FRONT, "get_image_features")


def test_images_that_generate_encodes_but_brings_by_an_unknown_name_are_refused(monkeypatch):
    if not hasattr(transformers.GenerationMixin, "_supports_mm_encoder_outputs"):
        pytest.skip("this transformers encodes images inside forward only")
    model, inputs = llava(), tiny_models.llava_inputs((3, "I", 5))
    inner = type(model.model).forward

    def by_another_name(self, *args, **kwargs):
        kwargs["mm_encoder_outputs"] = kwargs.pop(NEW, None)
        return inner(self, *args, **kwargs)

    with tokenprune.apply(model, method=FRONT, keep=5) as handle:
        features = model.model.get_image_features(inputs.pop("pixel_values"))
        monkeypatch.setattr(type(model.model), "forward", by_another_name)
        with pytest.raises(tokenprune.UnsupportedCallError, match="image features were encoded"):
            model.model(**inputs, **{NEW: {"image": features}})
        assert handle.last is None


def test_both_spellings_of_an_argument_at_once_are_refused():
    model = llava()
    language = signature.Signature.of_forward(model.model.language_model, ("embeds", "kv"))
    rows, kv = torch.zeros(1, 2, 64), stock.new_kv(model.model.language_model.config)
    for name in stock.ARGUMENTS["kv"]:
        assert language.read(calls.LanguageCall, (), {"inputs_embeds": rows, name: kv}).kv is kv
    both = dict.fromkeys(stock.ARGUMENTS["kv"], kv)
    with pytest.raises(tokenprune.UnsupportedCallError, match="both"):
        language.read(calls.LanguageCall, (), both)


@pytest.mark.parametrize("version", ["5.16.1", "5.25.0", "6.0.0.dev0"])
def test_a_version_outside_of_the_tested_range_warns_once_and_names_what_to_do(version):
    stock.warn_if_untested.cache_clear()
    with pytest.warns(
        tokenprune.UntestedVersionWarning, match=f"5.17 to 5.24, and {version}.*install a tested"
    ):
        stock.warn_if_untested(version)
    stock.warn_if_untested(version)  # an error if it warned again


@pytest.mark.parametrize("version", ["5.17.0", "5.20.2", "5.24.3"])
def test_a_tested_version_does_not_warn(version):
    stock.warn_if_untested.cache_clear()
    stock.warn_if_untested(version)


def test_layers_that_take_different_arguments_are_refused_inside_the_decoder(monkeypatch):
    model = llava()
    layer = model.model.language_model.layers[2]

    def forward(
        self, hidden_states, position_embeddings=None, attention_mask=None, position_ids=None, **more
    ):
        raise AssertionError("never called")

    monkeypatch.setattr(layer, "__class__", type("Other", (type(layer),), {"forward": forward}))
    refused(model, "fastv", "Other.forward take different arguments")
