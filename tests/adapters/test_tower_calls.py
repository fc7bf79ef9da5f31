# SPDX-License-Identifier: Apache-2.0
"""The promises of a cut inside the vision tower, in every kind of call."""

import inspect
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import tiny_families as families
import tiny_models
import torch
from cache_names import CACHE, cache_of
from family_cases import VERSION
from model_cases import Case
from packaging.version import Version
from tiny_models import llava_inputs
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import tokenprune

CLOSE = {"atol": 2e-4, "rtol": 1e-3}
TILED = {"scope": "tile", "newlines": "drop"}
MODELS = ("llava", "llava_next", "qwen")
BOTH = [
    tokenprune.method("divprune", stage="vision", layer=1, **TILED),
    tokenprune.method("divprune", **TILED),
]
THREE = [*BOTH, tokenprune.method("fastv", layer=2)]
CALLS = {
    "tower": {"method": "divprune", "stage": "vision", "layer": 1, "keep": 5, **TILED},
    "tower by attention": {"scorer": "attention", "stage": "vision", "layer": 1, "keep": 5, **TILED},
    "tower, projector": {"method": BOTH, "keep": [8, 4]},
    "tower, projector, decoder": {"method": THREE, "keep": [8, 5, 3]},
    "preset": {"method": "tower-diverse", "keep": 5},
}
OPTIONS = {"max_new_tokens": 4, "do_sample": False, "suppress_tokens": [90, 91, 92, 93, 95]}
OPTIONS |= {"output_logits": True, "return_dict_in_generate": True}


RERUNS_HOOKS = Version("5.23") > VERSION  # when a layer is recomputed


def trace(model):
    """Whatever a pruning could leave behind."""
    return [
        (name, len(m._forward_hooks), len(m._forward_pre_hooks), sorted(m.__dict__), m.__dict__.get("config"))
        for name, m in model.named_modules()
    ]


def gradients(model, inputs, checkpointing=False):
    """The loss of a model that trains, and its gradients by name."""
    if checkpointing:
        switch(model, True)
    try:
        model.train().zero_grad()
        loss = model(**inputs, labels=inputs["input_ids"], use_cache=False).loss
        loss.backward()
        weights = {name: weight.grad for name, weight in model.named_parameters()}
        return loss.detach(), {name: grad.clone() for name, grad in weights.items() if grad is not None}
    finally:
        if checkpointing:
            switch(model, False)
        model.eval()


def switch(model, on):
    """Switch checkpointing on or off; transformers 5.24 renamed the methods."""
    what = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    if on:
        getattr(model, f"{what}_checkpointing_enable")({"use_reentrant": False})
    else:
        getattr(model, f"{what}_checkpointing_disable")()


def generated(model, inputs, **more):
    out = model.generate(**inputs, **{**OPTIONS, **more})
    return out, torch.stack(out.logits, 1)


def able(name, call):
    """Whether a model's tower gives what the call reads."""
    return not (call == "tower by attention" and name == "qwen")


PAIRS = [(name, call) for name in MODELS for call in CALLS if able(name, call)]


@pytest.mark.parametrize(("name", "call"), PAIRS)
def test_a_padded_batch_equals_each_row_alone(name, call):
    """In generation, with a dynamic and a static cache; the same tokens are kept."""
    case = Case(name)
    batch = case.batch()
    with tokenprune.apply(case.model, **CALLS[call]) as handle:
        together, logits = generated(case.model, batch[0])
        images, alone_images = handle.last.images, []
        static, _ = generated(case.model, batch[0], cache_implementation="static")
        assert torch.equal(static.sequences, together.sequences)
        for row in range(3):
            _, want = generated(case.model, case.alone(batch, row)[0])
            torch.testing.assert_close(logits[row], want[0], **CLOSE)
            alone_images += handle.last.images if row < 2 else ()
    for image, alone in zip(images, alone_images, strict=True):
        for tokens, others in ((image.survivors, alone.survivors), (image.kept, alone.kept)):
            assert (tokens is None) == (others is None)
            assert tokens is None or tokens.tolist() == others.tolist()
    width = batch[0]["input_ids"].shape[1]
    assert torch.equal(together.sequences[:, :width], batch[0]["input_ids"])


@pytest.mark.parametrize(("name", "call"), PAIRS)
def test_keeping_everything_and_removal_are_bit_identical(name, call):
    case = Case(name)
    batch = case.batch()[0]
    everything = {"method": CALLS[call].get("method", "divprune"), "keep": [1000] * 3}
    options = {k: v for k, v in CALLS[call].items() if k != "keep"}
    n = len(everything["method"]) if isinstance(everything["method"], list) else 1
    before = [case.model(**batch).logits, generated(case.model, batch)[1]]
    untouched = trace(case.model)
    with tokenprune.apply(case.model, keep=[1000] * n, **options) as handle:
        during = [case.model(**batch).logits, generated(case.model, batch)[1]]
        assert all(image.n_after == image.n_before and image.note for image in handle.last.images)
    after = [case.model(**batch).logits, generated(case.model, batch)[1]]
    for other in (during, after):
        assert all(torch.equal(a, b) for a, b in zip(before, other, strict=True))
    assert trace(case.model) == untouched


@pytest.mark.skipif(VERSION < Version("5.20"), reason="generate repeats images wrongly")
@pytest.mark.parametrize(("name", "call"), PAIRS)
def test_beams_equal_those_of_the_row_alone(name, call):
    case = Case(name)
    batch = case.batch()
    options = {**OPTIONS, "num_beams": 3, "output_logits": False}
    with tokenprune.apply(case.model, **CALLS[call]):
        together = case.model.generate(**batch[0], **options).sequences[:, -4:]
        for row in range(2):
            alone = case.model.generate(**case.alone(batch, row)[0], **options).sequences
            assert together[row].tolist() == alone[0, -4:].tolist()


@pytest.mark.parametrize("call", ["tower", "tower, projector", "tower, projector, decoder"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_second_turn_with_a_new_image(attention, call):
    model = tiny_models.llava(attention)
    first, second = llava_inputs((3, "I", 5), (5, "I", 3)), llava_inputs((2, "I", 3), (2, "I", 3), seed=5)

    def two_turns(one, two):
        out, _ = generated(model, one)
        ids = torch.cat([out.sequences, two["input_ids"][:, 1:]], 1)
        mask = torch.nn.functional.pad(
            one["attention_mask"], (0, ids.shape[1] - one["input_ids"].shape[1]), value=1
        )
        more = {"pixel_values": two["pixel_values"], CACHE: cache_of(out)}
        return generated(model, {"input_ids": ids, "attention_mask": mask, **more})[1]

    with tokenprune.apply(model, **CALLS[call]):
        together = two_turns(first, second)
        for row in range(2):
            alone = two_turns(tiny_models.cut_row(first, row), tiny_models.cut_row(second, row))
            torch.testing.assert_close(together[row, :1], alone[0, :1], **CLOSE)


@pytest.mark.parametrize("name", ["llava", "qwen"])
def test_an_encoding_can_be_made_before_the_call(name):
    """The survivors travel with what the encoder returned; the rows of one modality are encoded as one."""
    case = Case(name)
    inputs = case.single()[0]
    pixels = {k: inputs[k] for k in ("pixel_values", "image_grid_thw") if k in inputs}
    text = {k: v for k, v in inputs.items() if k != "pixel_values"}
    other = {k: v + 1 if v.is_floating_point() else v for k, v in pixels.items()}
    if "mm_encoder_outputs" not in inspect.signature(case.model.forward).parameters:
        pytest.skip("calls take no encodings before transformers 5.20")
    with tokenprune.apply(case.model, **CALLS["tower, projector"]) as handle:
        want, images = case.model(**inputs).logits, handle.last.images
        encoded = case.model.model.get_image_features(**pixels)
        case.model.model.get_image_features(**other)  # another one in between
        got = case.model(**text, mm_encoder_outputs={"image": encoded}).logits
        assert torch.equal(got, want)
        assert [i.survivors.tolist() for i in handle.last.images] == [i.survivors.tolist() for i in images]
        rows = encoded.pooler_output[0]
        assert len(rows) == images[0].n_before  # filled, so that no caller sees that any are missing


def test_a_dropped_token_is_filled_with_the_survivor_before_it_in_its_image():
    for name in ("llava", "qwen"):
        case = Case(name)
        inputs = case.inputs((3, ("I", 4, 6), 2, ("I", 8, 4), 5) if name == "qwen" else (3, "I", 2, "I", 5))[
            0
        ]
        pixels = {k: inputs[k] for k in ("pixel_values", "image_grid_thw") if k in inputs}
        with tokenprune.apply(case.model, **CALLS["tower"]) as handle:
            case.model(**inputs)
            images = handle.last.images
            features = case.model.model.get_image_features(**pixels).pooler_output
        order = case.model.model.visual.spatial_merge_size if name == "qwen" else None
        for image, rows in zip(images, features, strict=True):
            survivors = rows[image.survivors]
            for row in rows:  # each is some survivor's of this image
                assert (survivors == row).all(-1).any()
            if order is None:
                places = torch.searchsorted(image.survivors, torch.arange(len(rows)), right=True) - 1
                assert torch.equal(rows, survivors[places.clamp(min=0)])


@pytest.mark.parametrize("call", ["tower", "preset"])
@pytest.mark.parametrize("name", ["llava", "qwen"])
def test_gradients_and_labels(name, call):
    """Gradients are those of a run without checkpointing, and reach the tower before and after the cut."""
    case, model = Case(name), tiny_models.llava() if name == "llava" else tiny_models.qwen()
    inputs = case.single()[0]
    with torch.enable_grad(), tokenprune.apply(model, **CALLS[call]) as handle:
        loss, plain = gradients(model, inputs)
        kept = [image.kept.tolist() for image in handle.last.images]
        if RERUNS_HOOKS:
            switch(model, True)
            model.train()
            with pytest.raises(tokenprune.UnsupportedCallError, match="gradient checkpointing"):
                model(**inputs, labels=inputs["input_ids"], use_cache=False)
            model.eval()
            switch(model, False)
            return
        again, checkpointed = gradients(model, inputs, True)
        assert [image.kept.tolist() for image in handle.last.images] == kept
    torch.testing.assert_close(again, loss)
    reached = [n for n in plain if ("vision" in n or "visual" in n) and plain[n].abs().sum() > 0]
    assert len({n.split("layers.")[-1].split("blocks.")[-1].split(".")[0] for n in reached}) > 2
    for weight, gradient in plain.items():
        torch.testing.assert_close(checkpointed[weight], gradient, atol=1e-4, rtol=1e-3, msg=weight)


@pytest.mark.parametrize("layer", [0, 1])
def test_a_seed_decides_what_is_drawn(layer):
    model, inputs = Case("llava").model, llava_inputs((3, "I", 5), seed=1)

    def survivors(seed):
        with tokenprune.apply(
            model, method="random", stage="vision", layer=layer, keep=5, seed=seed
        ) as handle:
            model(**inputs)
            return handle.last.images[0].survivors.tolist()

    assert survivors(1) == survivors(1) != survivors(2)


def flash_stand_in(module, query, key, value, attention_mask, **options):
    """Attention within segments, as the kernels for packed rows take them; the segments must fit the rows."""
    borders, longest = options["cu_seq_lens_q"], int(options["max_length_q"])
    lengths = borders.diff()
    assert borders.dtype == torch.int32 and int(borders[-1]) == query.shape[2]
    assert int(lengths.min()) > 0 and int(lengths.max()) == longest
    parts = [torch.split(t, lengths.tolist(), 2) for t in (query, key, value)]
    out = [
        torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=options["scaling"])
        for q, k, v in zip(*parts, strict=True)
    ]
    return torch.cat(out, 2).transpose(1, 2), None


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_packed_kernels_get_borders_of_the_rows_that_are_left(monkeypatch, name, layer):
    model = Case("qwen").model if name == "qwen2_5_vl" else families.model(name)
    inputs = tiny_models.qwen_inputs((3, ("I", 8, 12), 5), (2, ("I", 6, 10), 4), seed=1)
    call = {"method": "divprune", "stage": "vision", "layer": layer, "keep": 3}
    with tokenprune.apply(model, **call):
        want = model(**inputs).logits
    lengths = []

    def attend(module, query, *args, **options):
        lengths.append(query.shape[2])
        return flash_stand_in(module, query, *args, **options)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "stand_in_flash", attend)
    config = model.model.visual.config
    before = config._attn_implementation
    try:
        config._attn_implementation_internal = "stand_in_flash"
        with tokenprune.apply(model, **call):
            torch.testing.assert_close(model(**inputs).logits, want, **CLOSE)
        whole, left = int(inputs["image_grid_thw"].prod(1).sum()), 2 * 3 * 4  # patches
        assert lengths == [whole] * layer + [left] * (len(model.model.visual.blocks) - layer)
    finally:
        config._attn_implementation_internal = before


# -- threads, interrupts, removal in the middle of a call


@pytest.mark.parametrize("call", ["tower", "tower, projector"])
def test_threads_get_their_own_answers(call):
    model = tiny_models.llava()
    inputs = [llava_inputs((3, "I", 5), seed=seed) for seed in range(3)]

    def call_model(given):
        with torch.no_grad():
            return model(**given).logits

    with tokenprune.apply(model, **CALLS[call]):
        want = [call_model(given) for given in inputs]
        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(call_model, inputs * 3))
    for answer, own in zip(answers, want * 3, strict=True):
        torch.testing.assert_close(answer, own, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("part", ["vision_tower", "multi_modal_projector", "language_model"])
def test_an_interrupted_call_leaves_nothing_for_the_next(part):
    model, inputs = tiny_models.llava(), llava_inputs((3, "I", 5), seed=1)
    with tokenprune.apply(model, **CALLS["tower"]):
        want = model(**inputs).logits

        def stop(*_):
            hook.remove()
            raise KeyboardInterrupt

        hook = model.model.get_submodule(part).register_forward_pre_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            model(**inputs)
        with ThreadPoolExecutor(1) as threads:
            answer = threads.submit(lambda: model(**inputs).logits.detach()).result(20)
        torch.testing.assert_close(answer, want)
        torch.testing.assert_close(model(**inputs).logits, want)


def test_removal_waits_for_a_call_in_another_thread():
    model, inputs = tiny_models.llava(), llava_inputs((3, "I", 5), seed=1)
    plain = model(**inputs).logits
    handle = tokenprune.apply(model, **CALLS["tower"])
    want, inside, go_on = model(**inputs).logits, threading.Event(), threading.Event()

    def stop(*_):
        inside.set()
        assert go_on.wait(20)

    hook = model.model.multi_modal_projector.register_forward_pre_hook(stop)
    answers = []
    with torch.no_grad():
        caller = threading.Thread(target=lambda: answers.append(model(**inputs).logits.detach()))
        caller.start()
        assert inside.wait(20)
        remover = threading.Thread(target=handle.remove)
        remover.start()
        remover.join(0.2)
        assert remover.is_alive()
        go_on.set()
        caller.join(20)
        remover.join(20)
    hook.remove()
    torch.testing.assert_close(answers[0], want)
    assert torch.equal(model(**inputs).logits, plain)


def test_a_tower_that_is_called_on_its_own_is_whole():
    model = Case("llava").model
    pixels = llava_inputs((3, "I", 5), seed=1)["pixel_values"]
    want = model.model.vision_tower(pixels).last_hidden_state
    with tokenprune.apply(model, **CALLS["tower"]):
        assert torch.equal(model.model.vision_tower(pixels).last_hidden_state, want)


def test_a_compiled_model_answers_as_the_eager_one():
    model, inputs = tiny_models.llava(), llava_inputs((3, "I", 5), (2, "I", 3), seed=1)
    with torch.no_grad(), tokenprune.apply(model, **CALLS["tower"]):
        want = model(**inputs).logits
        got = torch.compile(model, backend="eager")(**inputs).logits
    torch.testing.assert_close(got, want, **CLOSE)


# -- what is refused, in `apply`

REFUSED = [
    ("llava", {"method": "divprune", "stage": "vision", "layer": 2}, "taken after block 1 of 3"),
    ("qwen", {"method": "divprune", "stage": "vision", "layer": 9}, "the rows that reach the projector"),
    ("llava", {"method": "zoo-exact", "stage": "vision"}, "needs the signal"),
    ("llava", {"method": "cdpruner", "stage": "vision"}, "needs the signal"),
    ("llava", {"method": "visionzip", "stage": "vision"}, "makes new rows"),
    ("llava", {"scorer": "attention", "stage": "vision", "layer": 0}, "there is none before block 0"),
    ("llava_next", {"method": "divprune", "stage": "vision"}, "scope='tile'"),
    (
        "llava_next",
        {"method": "divprune", "stage": "vision", **TILED, "min_tokens": 9},
        "leave min_tokens out",
    ),
    ("llava", {"method": "tower-diverse", "stage": "projector"}, "leave stage= out"),
]


@pytest.mark.parametrize(("name", "call", "message"), REFUSED)
def test_refused_before_any_change(name, call, message):
    model = Case(name).model
    before = trace(model)
    with pytest.raises(tokenprune.TokenPruneError, match=message):
        tokenprune.apply(model, keep=5, **call)
    assert trace(model) == before and not tokenprune.is_pruned(model)


def test_budgets_must_fall_and_stages_be_in_order():
    model = Case("llava").model
    tower, projector = BOTH
    with pytest.raises(tokenprune.BudgetError, match="must not increase"):
        tokenprune.apply(model, method=[tower, projector], keep=[4, 8])
    with pytest.raises(tokenprune.IncompatibleError, match="in this order: vision, projector, decoder"):
        tokenprune.apply(model, method=[projector, tower], keep=[8, 4])
    with pytest.raises(tokenprune.IncompatibleError, match="at most one method at each stage"):
        tokenprune.apply(model, method=[tower, tower], keep=[8, 4])


def test_a_layer_without_a_decoder_stage_asks_for_the_tower():
    """Not taken as a block of the tower, nor ignored."""
    model = families.model("gemma3")
    with pytest.raises(tokenprune.IncompatibleError, match="name decoder layers"):
        tokenprune.apply(model, method="divprune", layer=1, keep=3)


def test_a_ratio_at_the_projector_is_one_of_all_tokens():
    model, inputs = Case("llava").model, llava_inputs((3, "I", 5), seed=1)
    with tokenprune.apply(model, method=BOTH, keep_ratio=[0.5, 0.25]) as handle:
        model(**inputs)
    image = handle.last.images[0]
    assert (image.tower_cuts, image.n_after) == ({1: 8}, 4)


def test_the_preset_leaves_at_least_a_quarter_in_the_tower():
    model, inputs = Case("llava").model, llava_inputs((3, "I", 5), seed=1)
    for keep, cuts, n_after in ((2, {1: 4}, 2), (4, {1: 4}, 4), (9, {1: 9}, 9), (16, {}, 16)):
        with tokenprune.apply(model, method="tower-diverse", keep=keep) as handle:
            model(**inputs)
        image = handle.last.images[0]
        assert (dict(image.tower_cuts), image.n_after) == (cuts, n_after)
