# SPDX-License-Identifier: Apache-2.0
"""What `apply` says of every class of transformers for images and text: an adapter's name, or why not.

Each class is built without weights, from its tiny configuration in these tests or else from its default one.
`python tests/model_classes.py` writes the list of docs/models.md; tests/meta/test_model_classes.py asks about
every class again and compares.
"""

import contextlib
import functools
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import tiny_families as families
import torch
import transformers
from tiny_refused import REFUSED, qwen4
from tiny_structures import llama4
from tokenprune_adapters.transformers import stock
from transformers.initialization import no_init_weights
from transformers.models.auto import modeling_auto

import tokenprune

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
BY_STRUCTURE = "by-structure"
THINKERS = ("Qwen2_5OmniThinkerForConditionalGeneration", "Qwen3OmniMoeThinkerForConditionalGeneration")
MAIN = (  # run by `model_cases`
    "LlavaForConditionalGeneration",
    "LlavaNextForConditionalGeneration",
    "Qwen2_5_VLForConditionalGeneration",
)
REASONS = (  # words of an adapter's sentence, and the same in a few words
    (r"is an encoder-decoder", "is an encoder-decoder, whose decoder reads images by cross-attention"),
    (r"by cross-attention", "reads images by cross-attention"),
    (r"not generate token by token", "does not generate token by token (block diffusion)"),
    (r"layers of the kind ([\w, ]+?)(?: only)?[;,]", "has decoder layers of an unknown kind, `{}`"),
    (r"has no rotary_emb", "has a decoder without `rotary_emb`: where positions are used is not known"),
    (r"has no get_image_features", "has no `get_image_features`: image rows cannot be told from text rows"),
    (r"no child with decoder layers", "has no stack of decoder layers that takes embeddings and a cache"),
    (r"forward takes (no [\w -]+?) \(", "takes {} in the `forward` that encodes images"),
    (r"(positions of \d axes)", "has {}"),
    (r"takes no images", "takes no images"),
    (r"that generates text", "generates no text"),
    (r"in a form that is not known", "adds features to visual tokens in a form that is not known"),
    (r"several axes and sliding windows", "has positions of several axes and sliding windows"),
    (r"ended in \w+: ([^.,]+)", "fails the rehearsal: {}"),
)


@dataclass(frozen=True)
class Outcome:
    """The adapter that prunes a model, or why none does (a sentence); the other is empty."""

    adapter: str
    reason: str


def names():
    """All classes for images and text, sorted."""
    listed = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values()
    found = {name for one in listed for name in ([one] if isinstance(one, str) else one)}
    return sorted(found | {name for name in THINKERS if hasattr(transformers, name)})


def run():
    """Tiny configurations of the classes whose models are run by tests (None: in `tiny_models`), by name."""
    tiny = dict(families.CLASSES.values()) | {one.model: one.config for one in families.STRUCTURAL.values()}
    return dict.fromkeys(MAIN) | tiny | {"Llama4ForConditionalGeneration": llama4}  # not on 5.24, see there


def encoder_and_decoder():
    """The configuration of a model of two models, which has no default before transformers 5.20."""
    sizes = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
    return transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.ViTConfig(**sizes), transformers.BertConfig(**sizes)
    )


OWN = {
    "Qwen4ExpForConditionalGeneration": qwen4(layer_types=None),  # kinds have other names before 5.20
    "VisionEncoderDecoderModel": encoder_and_decoder,
}


def default(name):
    """The default configuration of a class, with placeholders."""
    config = getattr(transformers, name).config_class()
    for token, modality in enumerate(("image", "video"), start=7):
        if getattr(config, f"{modality}_token_id", token) is None:
            setattr(config, f"{modality}_token_id", token)
    return config


@contextlib.contextmanager
def quiet():
    """Without the warnings that default configurations bring."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(before)


def outcome_of(name, config, rehearse):
    """What `apply` says of a class with a configuration; `rehearse`: a model by structure gets weights."""
    kind = getattr(transformers, name)
    with torch.device("meta"), no_init_weights():
        model = kind(config())
    try:
        adapter = tokenprune.default_registry().adapter_for(model)
    except tokenprune.UnsupportedModelError as refusal:
        told = str(refusal)
        why = told.partition("). ")[2].partition(". Pass the whole model")[0]  # what `why_not` says
        return Outcome("", why or told)
    try:
        adapter(model).check_model()
        if adapter.name == BY_STRUCTURE and rehearse:
            with torch.random.fork_rng(devices=[]):
                model = kind(config()).eval()
            positions = adapter(model).positions[0]
            tokenprune.apply(model, method="divprune", keep=2, positions=positions).remove()
    except tokenprune.UnsupportedModelError as refusal:
        return Outcome("", str(refusal))
    return Outcome(adapter.name, "")


@functools.cache
def outcome(name):
    """What `apply` says of a class."""
    own = {tiny.model: tiny.config for tiny in REFUSED.values()} | OWN | run()
    config = own.get(name)
    with quiet():
        return outcome_of(name, config or functools.partial(default, name), rehearse=config is not None)


def in_few_words(reason):
    """The gist of an adapter's sentence."""
    for pattern, words in REASONS:
        found = re.search(pattern, reason)
        if found:
            return words.format(*found.groups())
    raise LookupError(f"add to REASONS: {reason}")


def refused_settings():
    """Supported classes that are refused with some settings, by the reason in a few words."""
    groups = {}
    with quiet():
        for tiny in REFUSED.values():
            if tiny.model in run() and hasattr(transformers, tiny.model):
                reason = outcome_of(tiny.model, tiny.config, rehearse=True).reason
                groups.setdefault(in_few_words(reason), []).append(tiny.model)
    return groups


def grouped(key, chosen):
    """Names by what a function of their outcome returns."""
    groups = {}
    for name in chosen:
        groups.setdefault(key(outcome(name)), []).append(name)
    return groups


def table(head, groups):
    """A table of names by what they have in common."""
    lines = [f"| {head} | classes |", "|---|---|"]
    for common in sorted(groups, key=lambda common: common.strip("`")):
        lines.append(f"| {common} | {', '.join(f'`{name}`' for name in groups[common])} |")
    return "\n".join(lines)


def section():
    """The lists, in Markdown."""
    named = [name for name in names() if outcome(name).adapter not in ("", BY_STRUCTURE)]
    structural = [name for name in names() if outcome(name).adapter == BY_STRUCTURE]
    refused = [name for name in names() if outcome(name).reason]
    version = ".".join(stock.installed_version().split(".")[:2])
    listed = ", ".join(f"`{name}`" for name in structural) or "all that fit have been run, and are above"
    parts = [
        f"transformers {version} has {len(names())} classes for images and text: those that "
        "`AutoModelForImageTextToText` loads, and the\nthinkers of Qwen's Omni models. In older versions "
        "some are missing, or refused.",
        f"**Supported by name: {len(named)}.** A tiny model of each is run by tests.",
        table("adapter", grouped(lambda one: f"`{one.adapter}`", named)),
        f"**Supported [by structure](#by-structure), not run: {len(structural) or 'none'}**; {listed}.",
        f"**Refused: {len(refused)}.** `apply` raises an error that gives the reason.",
        table("a model that", grouped(lambda one: in_few_words(one.reason), refused)),
        "**Refused with some settings.** A supported class is refused if its configuration describes",
        table("a model that", refused_settings()),
    ]
    return "\n\n".join(parts)


def written():
    """The page with the lists as they are now."""
    before, after = "<!-- classes: written by tests/model_classes.py -->", "<!-- end of classes -->"
    lists, page = section(), PAGE.read_text()
    start, stop = page.index(before) + len(before), page.index(after)
    return f"{page[:start]}\n\n{lists}\n\n{page[stop:]}"


if __name__ == "__main__":
    PAGE.write_text(written())
