# SPDX-License-Identifier: Apache-2.0
"""Models that no adapter names: what is read from their structure, and what is refused."""

import pytest
import tiny_families as families
import torch
from cache_names import CACHE
from family_cases import KEEP, TOLERANCE, generated
from reference.kept_rows import kept_slots, stock_logits
from tiny_families import CLASSES, STRUCTURAL
from tokenprune_adapters.authoring import FAMILIES, StructuralAdapter

import tokenprune
from tokenprune.registry import Registry


@pytest.fixture
def unknown(monkeypatch):
    """Let no adapter name the models of a test."""
    monkeypatch.setattr(Registry, "adapter_for", lambda self, model: StructuralAdapter)


def pruned(model, inputs):
    """Kept slots of each image, and logits of prefill and decoding."""
    with tokenprune.apply(model, method="divprune", keep=KEEP) as handle:
        logits = generated(model, inputs)[1]
        return handle.adapter, [image.kept for image in handle.last.images], logits


@pytest.mark.parametrize("name", [name for name in (*CLASSES, *STRUCTURAL) if name != "molmo2"])
def test_the_same_slots_and_bits_as_with_an_adapter_that_names_the_class(name, monkeypatch):
    model, inputs = families.model(name), families.inputs(name, (3, "I", 5, "I", 2))
    adapter, slots, logits = pruned(model, inputs)
    assert adapter != "by-structure"
    monkeypatch.setattr(Registry, "adapter_for", lambda self, model: StructuralAdapter)
    by_structure, same_slots, same_logits = pruned(model, inputs)
    assert by_structure == "by-structure"
    assert [kept.tolist() for kept in slots] == [kept.tolist() for kept in same_slots]
    assert torch.equal(logits, same_logits)


def test_an_adapter_that_names_a_class_takes_precedence(install_plugin, monkeypatch):
    install_plugin(
        """
        from tokenprune_adapters.authoring import Family, FamilyAdapter

        class Stranger(FamilyAdapter):
            name = "stranger"
            families = {"Strange": Family()}

        @tokenprune.hookimpl
        def tokenprune_adapters():
            return [Stranger]
        """
    )
    monkeypatch.delitem(FAMILIES, "VipLlavaForConditionalGeneration")
    model = families.build("vipllava")
    with tokenprune.apply(model, method="divprune", keep=KEEP) as handle:
        assert handle.adapter == "by-structure"
        assert repr(handle) == f"<PruningHandle divprune keep={KEEP}, adapter by-structure, active>"
    model.__class__ = type("Strange", (type(model),), {})
    with tokenprune.apply(model, method="divprune", keep=KEEP) as handle:
        assert handle.adapter == "stranger"


@pytest.mark.parametrize(
    ("name", "call", "words"),
    [
        ("vipllava", {"method": "fastv"}, "family was not tested, and is cut before the decoder only"),
        ("vipllava", {"method": "zoo-exact"}, "needs the signal pre_features, projector"),
        ("qwen2_vl", {"method": "divprune", "positions": "contiguous"}, "it allows: original"),
        ("gemma3", {"method": "divprune", "positions": "original"}, "it allows: contiguous"),
        ("qwen3_vl", {"method": "pool"}, "a new row has none"),
    ],
)
def test_what_structure_does_not_give_is_refused(name, call, words, unknown):
    with pytest.raises(tokenprune.IncompatibleError, match=words):
        tokenprune.apply(families.model(name), keep=KEEP, **call)
    assert not tokenprune.is_pruned(families.model(name))


def test_rows_that_are_changed_on_their_way_are_refused(unknown):
    model, inputs = families.build("vipllava"), families.inputs("vipllava", (3, "I", 5))

    def scale(module, args, kwargs):
        return args, {**kwargs, "inputs_embeds": 2 * kwargs["inputs_embeds"]}

    model.model.language_model.register_forward_pre_hook(scale, with_kwargs=True)
    with tokenprune.apply(model, method="divprune", keep=KEEP):
        with pytest.raises(tokenprune.UnsupportedCallError, match="not those that it was encoded to"):
            model(**inputs)


@pytest.mark.skipif("molmo2" not in STRUCTURAL, reason="not in this transformers")
def test_rows_that_are_added_to_those_of_placeholders_are_refused(unknown):
    """Molmo 2 adds them; the adapter that names it prunes it."""
    model, inputs = families.model("molmo2"), families.inputs("molmo2", (3, "I", 5))
    with tokenprune.apply(model, method="divprune", keep=KEEP):
        with pytest.raises(tokenprune.UnsupportedCallError, match="not those that it was encoded to"):
            model(**inputs)


def extended(model, value):
    """Let the language model be called with one more argument, and record those it gets."""
    seen, language = {}, model.model.language_model

    def extend(module, args, kwargs):
        return args, {**kwargs, "more": value}

    language.register_forward_pre_hook(extend, with_kwargs=True)
    return lambda: language.register_forward_pre_hook(lambda m, a, k: seen.update(k), with_kwargs=True), seen


def test_an_unknown_argument_with_a_row_for_each_token_is_pruned(unknown):
    model, inputs = families.build("vipllava"), families.inputs("vipllava", (3, "I", 5))
    n = inputs["input_ids"].shape[1]
    watch, seen = extended(model, torch.arange(2.0 * n).view(1, n, 2))
    with tokenprune.apply(model, method="divprune", keep=KEEP, verify=False) as handle:
        watch()
        model(**inputs)
    keep = kept_slots(inputs["input_ids"][0], handle.last.images)
    assert torch.equal(seen["more"], torch.arange(2.0 * n).view(1, n, 2)[:, keep])


@pytest.mark.parametrize("value", [torch.ones(3), [torch.ones(1, 2)], {"a": torch.ones(2, 5)}])
def test_unknown_tensors_are_refused(value, unknown):
    model, inputs = families.build("vipllava"), families.inputs("vipllava", (3, "I", 5))
    extended(model, value)
    with tokenprune.apply(model, method="divprune", keep=KEEP, verify=False):
        with pytest.raises(tokenprune.UnsupportedCallError, match="was passed more, and it is not known"):
            model(**inputs)


def test_layers_that_count_by_themselves_are_refused_with_the_difference(unknown):
    """A layer that numbers its rows by the tokens its cache has seen, dropped ones included."""
    model = families.build("vipllava")

    def count(module, args, kwargs):
        rows, kv = args[0], kwargs.get(CACHE)
        start = 0 if kv is None else kv.get_seq_length(0)
        return (rows + 10 * (start + torch.arange(rows.shape[1]))[:, None], *args[1:]), kwargs

    hook = model.model.language_model.layers[0].register_forward_pre_hook(count, with_kwargs=True)
    with pytest.raises(tokenprune.UnsupportedModelError, match=r"gave rows that differ by [\d.]+e[-+]\d+"):
        tokenprune.apply(model, method="divprune", keep=KEEP)
    hook.remove()
    tokenprune.apply(model, method="divprune", keep=KEEP).remove()


def test_renumbering_where_positions_are_no_line_is_refused(monkeypatch):
    """A model with positions of several axes, by an adapter that does not know of them."""

    class Unaware(StructuralAdapter):
        positions = ("contiguous",)

    monkeypatch.setattr(Registry, "adapter_for", lambda self, model: Unaware)
    for name in ("qwen2_vl", "qwen3_vl_moe", "glm4v", "paddleocr_vl"):
        model, inputs = families.model(name), families.inputs(name)
        with tokenprune.apply(model, method="divprune", keep=KEEP):
            with pytest.raises(tokenprune.UnsupportedCallError, match="prune with positions='original'"):
                model(**inputs)


@pytest.mark.skipif("fuyu" not in STRUCTURAL, reason="not in this transformers")
def test_fuyu_one_row():
    """All pictures of a row count as one image, since its pixels do not tell where one ends."""
    model, inputs = families.model("fuyu"), families.inputs("fuyu", (3, "I", 5, "I", 2))
    with tokenprune.apply(model, method="divprune", keep=KEEP) as handle:
        out, logits = generated(model, inputs)
        assert [(image.n_before, image.n_after) for image in handle.last.images] == [(32, KEEP)]
    keep = kept_slots(inputs["input_ids"][0], handle.last.images)
    want = stock_logits(model, inputs, keep, out.sequences[0, len(keep) :])
    torch.testing.assert_close(logits[0], want[int(keep.sum()) - 1 : -1], **TOLERANCE)
    with tokenprune.apply(model, method="divprune", keep=KEEP):
        with pytest.raises(tokenprune.UnsupportedCallError, match="split over rows of the batch"):
            model(**families.inputs("fuyu"))
