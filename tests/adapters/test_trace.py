# SPDX-License-Identifier: Apache-2.0
"""`handle.trace()`: what the last call did at each boundary, in exact numbers."""

import dataclasses
import gc
from concurrent.futures import ThreadPoolExecutor

import open_clip
import pytest
import tiny_families
import tiny_models
import torch
from cache_names import CACHE, cache_of
from tiny_towers import VISION, N, filled, pictures, timm_model
from transformers import CompileConfig

import tokenprune
from tokenprune import BoundaryTrace, CallTrace, RowTrace

GREEDY = {"do_sample": False, "pad_token_id": tiny_models.PAD}
PYRAMID = {"method": "pyramiddrop", "keep": 5, "layer": (1, 2, 3)}


@pytest.fixture
def padded():
    """Row 0: 25 tokens, an image of 16 among them, and 17 of padding; row 1: 42 tokens, two images."""
    return tiny_models.llava_inputs((3, "I", 5), (2, "I", 4, "I", 3))


def boundary(stage, layer, rows, positions, mask, stored, seen):
    """Rows as (in, out, first, last, masked), positions on one axis."""
    records = tuple(RowTrace(n_in, n_out, (a,), (b,), masked) for n_in, n_out, a, b, masked in rows)
    return BoundaryTrace(stage, layer, records, positions, mask, stored, seen)


def step_before(layer, places, masked, positions, stored):
    """A decoding step before a decoder layer: two rows at these positions, the first of them padded."""
    rows = [(1, 1, places[0], places[0], masked), (1, 1, places[1], places[1], 0)]
    return boundary("decoder", layer, rows, positions, (2, 1, 1, stored), stored, 44)


@pytest.mark.parametrize(
    ("positions", "first", "second"), [("contiguous", 30, 19), ("original", 41, 41)], ids=str
)
def test_a_padded_batch_before_the_language_model(llava, padded, positions, first, second):
    rows = [(25, 14, 17, first, 6), (42, 20, 0, second, 0)]
    with tokenprune.apply(llava, method="divprune", keep=5, positions=positions, trace=True) as handle:
        cache = cache_of(llava(**padded, use_cache=True))
        trace = handle.trace()
        report = handle.last
    assert trace == CallTrace(42, (boundary("projector", 0, rows, positions, (2, 20), 20, 42),))
    assert (cache.layers[0].keys.shape[2], cache.get_seq_length()) == (20, 42)
    dropped = [sum(i.n_before - i.n_after for i in report.images if i.row == row) for row in (0, 1)]
    assert [row.n_in - row.n_out for row in trace.boundaries[0].rows] == dropped == [11, 22]


def test_a_cut_inside_the_decoder(llava_sdpa, padded):
    rows = [(25, 14, 17, 41, 6), (42, 20, 0, 41, 0)]
    with tokenprune.apply(llava_sdpa, method="fastv", keep=5, trace=True) as handle:
        cache = cache_of(llava_sdpa(**padded, use_cache=True))
        trace = handle.trace()
    assert trace == CallTrace(42, (boundary("decoder", 1, rows, "original", (2, 1, 20, 20), 20, 42),))
    assert [layer.keys.shape[2] for layer in cache.layers] == [42, 20, 20, 20]


def test_several_boundaries(llava_sdpa, padded):
    with tokenprune.apply(llava_sdpa, **PYRAMID, trace=True) as handle:
        cache = cache_of(llava_sdpa(**padded, use_cache=True))
        trace = handle.trace()
    steps = [
        (1, [(25, 19, 17, 35, 11), (42, 30, 0, 29, 0)], 30),
        (2, [(19, 16, 17, 32, 8), (30, 24, 0, 23, 0)], 24),
        (3, [(16, 14, 17, 30, 6), (24, 20, 0, 19, 0)], 20),
    ]
    assert trace.boundaries == tuple(
        boundary("decoder", layer, rows, "contiguous", (2, 1, n, n), n, 42) for layer, rows, n in steps
    )
    assert [layer.keys.shape[2] for layer in cache.layers] == [42, 30, 24, 20]


def test_cuts_at_both_stages(llava_sdpa, padded):
    methods = {"method": ["divprune", "fastv"], "keep": [8, 4]}
    with tokenprune.apply(llava_sdpa, **methods, trace=True) as handle:
        llava_sdpa(**padded)
        trace = handle.trace()
    front = boundary("projector", 0, [(25, 17, 17, 33, 9), (42, 26, 0, 25, 0)], "contiguous", (2, 26), 26, 42)
    rows = [(17, 13, 17, 33, 5), (26, 18, 0, 25, 0)]
    inside = boundary("decoder", 1, rows, "original", (2, 1, 18, 18), 18, 42)
    assert trace == CallTrace(42, (front, inside))


@pytest.mark.parametrize(
    ("options", "want"),
    [
        (
            {"method": "divprune", "keep": 5},
            [boundary("projector", 0, [(1, 1, 15, 15, 6), (1, 1, 21, 21, 0)], "contiguous", (2, 44), 22, 44)],
        ),
        (
            {"method": "fastv", "keep": 5},
            [step_before(1, [26, 43], 6, "original", 22)],
        ),
        (
            PYRAMID,
            [
                step_before(1, [20, 31], 11, "contiguous", 32),
                step_before(2, [17, 25], 8, "contiguous", 26),
                step_before(3, [15, 21], 6, "contiguous", 22),
            ],
        ),
    ],
    ids=["divprune", "fastv", "pyramiddrop"],
)
def test_a_decoding_step_is_a_call(llava_sdpa, padded, options, want):
    with tokenprune.apply(llava_sdpa, **options, trace=True) as handle:
        llava_sdpa.generate(**padded, max_new_tokens=3, **GREEDY)
    assert handle.trace() == CallTrace(1, tuple(want))


def test_one_row_needs_no_mask(llava_sdpa):
    inputs = tiny_models.llava_inputs((3, "I", 5))
    with tokenprune.apply(llava_sdpa, method="divprune", keep=5, trace=True) as handle:
        llava_sdpa(**inputs, use_cache=False)
        bare = handle.trace().boundaries[0]
        llava_sdpa.generate(**inputs, max_new_tokens=2, **GREEDY)
        step = handle.trace().boundaries[0]
    assert bare == boundary("projector", 0, [(25, 14, 0, 13, 0)], "contiguous", None, None, None)
    assert step.mask in (None, (1, 26))  # older versions of `generate` always pass one
    want = boundary("projector", 0, [(1, 1, 14, 14, 0)], "contiguous", step.mask, 15, 26)
    assert step == want


@pytest.mark.parametrize("options", [{"method": "divprune"}, {"method": "fastv"}], ids=lambda o: o["method"])
def test_keeping_all_passes_everything_on(llava_sdpa, padded, options):
    with tokenprune.apply(llava_sdpa, **options, keep=16, trace=True) as handle:
        llava_sdpa(**padded)
    (only,) = handle.trace().boundaries
    assert only.rows == (RowTrace(25, 25, (17,), (41,), 17), RowTrace(42, 42, (0,), (41,), 0))
    assert (only.stored, only.seen) == (42, 42)


def test_text_alone_is_a_call(llava_sdpa):
    with tokenprune.apply(llava_sdpa, method="divprune", keep=5, trace=True) as handle:
        llava_sdpa(**tiny_models.llava_inputs((6,)))
    (only,) = handle.trace().boundaries
    assert only == boundary("projector", 0, [(7, 7, 0, 6, 0)], "contiguous", (1, 7), 7, 7)


def test_a_preallocated_cache_is_counted_by_the_slots_in_use(llava_sdpa, padded):
    with tokenprune.apply(llava_sdpa, method="divprune", keep=5, trace=True) as handle:
        llava_sdpa.generate(**padded, max_new_tokens=3, cache_implementation="static", **GREEDY)
    (step,) = handle.trace().boundaries
    assert (step.stored, step.seen, [row.masked for row in step.rows]) == (22, 44, [6, 0])


def test_a_layer_with_a_window_stores_no_more_than_that():
    model, inputs = tiny_families.build("gemma3"), tiny_families.inputs("gemma3", (3, "I", 5))
    with torch.no_grad(), tokenprune.apply(model, method="divprune", keep=14, trace=True) as handle:
        cache = cache_of(model(**inputs, use_cache=True))
    (only,) = handle.trace().boundaries
    assert only.stored == cache.layers[0].keys.shape[2] == tiny_families.WINDOW - 1
    assert only.seen == inputs["input_ids"].shape[1]


def test_positions_on_three_axes():
    model, inputs = tiny_models.qwen(), tiny_models.qwen_inputs((3, ("I", 4, 6), 5))
    with tokenprune.apply(model, method="divprune", keep=5, trace=True) as handle:
        model(**inputs)
        prefill = handle.trace()
        model.generate(**inputs, max_new_tokens=3, **GREEDY)
        step = handle.trace()
    # 6 tokens, then a picture 6 wide from position 5 on, then the 6 after it from 11 on
    row = RowTrace(35, 16, (0, 0, 0), (16, 16, 16))
    assert prefill == CallTrace(35, (BoundaryTrace("projector", 0, (row,), "original", None, 16, 35),))
    row = RowTrace(1, 1, (18, 18, 18), (18, 18, 18))
    (only,) = step.boundaries
    assert only.mask in (None, (1, 37))  # older versions of `generate` always pass one
    assert only == BoundaryTrace("projector", 0, (row,), "original", only.mask, 18, 37)


def test_positions_on_three_axes_of_a_row_that_ends_in_its_image():
    model, inputs = tiny_models.qwen(), tiny_models.qwen_inputs((3, ("I", 4, 6), 5))
    end = int((inputs["input_ids"][0] == tiny_models.IMAGE).nonzero()[-1]) + 1
    per_token = ("input_ids", "attention_mask", "mm_token_type_ids")
    inputs |= {name: inputs[name][:, :end] for name in per_token}
    with tokenprune.apply(model, method="divprune", keep=5, trace=True) as handle:
        model(**inputs)
    last = int(handle.last.images[0].kept[-1])
    assert handle.trace().boundaries[0].rows == (
        RowTrace(29, 10, (0, 0, 0), (5, 5 + last // 6, 5 + last % 6)),
    )


@pytest.mark.parametrize("layers", [(2,), (1, 3)], ids=str)
def test_a_tower_of_timm(layers):
    model = timm_model("vit")
    options = {"scorer": "uniform", "selector": "diverse", "keep": 9, "layer": layers}
    with tokenprune.apply(model, **options, trace=True) as handle:
        model(pictures())
        kept = [image.kept.tolist() for image in handle.last.images]
        cuts = handle.last.images[0].cuts
    trace = handle.trace()
    assert (trace.n_new, [b.layer for b in trace.boundaries]) == (N + 1, list(layers))
    assert [b.stage for b in trace.boundaries] == ["vision"] * len(layers)
    n_in = N + 1
    for record in trace.boundaries:
        n_out = cuts[record.layer] + 1  # the class token is a row too
        assert [(row.n_in, row.n_out) for row in record.rows] == [(n_in, n_out)] * 3
        assert (record.positions, record.mask, record.stored, record.seen) == ("original", None, None, None)
        n_in = n_out
    assert n_in == 10
    assert [(row.first, row.last) for row in trace.boundaries[-1].rows] == [
        ((slots[0],), (slots[-1],)) for slots in kept
    ]


def test_a_run_that_fails_between_two_cuts_leaves_the_trace_of_the_one_before():
    model = timm_model("vit")
    with tokenprune.apply(model, scorer="uniform", keep=9, layer=(1, 3), trace=True) as handle:
        model(pictures())
        before = handle.trace()

        def fail(*_):
            raise RuntimeError("between the cuts")

        with (
            model.blocks[2].register_forward_hook(fail),
            pytest.raises(RuntimeError, match="between the cuts"),
        ):
            model(pictures(1))
        assert handle.trace() is before


def test_a_tower_that_keeps_all():
    model = timm_model("vit")
    with tokenprune.apply(model, scorer="uniform", keep=N, layer=2, trace=True) as handle:
        model(pictures())
    (only,) = handle.trace().boundaries
    assert only.rows == (RowTrace(N + 1, N + 1, (0,), (N - 1,)),) * 3


def test_a_tower_of_open_clip():
    with torch.random.fork_rng(devices=[]):
        model = filled(open_clip.transformer.VisionTransformer(**_vision(), output_dim=8))
    with tokenprune.apply(model, scorer="uniform", keep=9, layer=1, trace=True) as handle:
        model(pictures(1))
    kept = handle.last.images[0].kept
    (only,) = handle.trace().boundaries
    assert (only.name, only.rows) == ("block 1", (RowTrace(N + 1, 10, (int(kept[0]),), (int(kept[-1]),)),))


def _vision():
    return {
        "image_size": VISION["image_size"],
        "patch_size": VISION["patch_size"],
        "width": VISION["width"],
        "heads": 4,
        "layers": VISION["layers"],
        "mlp_ratio": 2.0,
    }


# -- when there is a trace


@pytest.mark.parametrize("build", [tiny_models.llava, lambda: timm_model("vit")], ids=["llava", "timm"])
def test_a_trace_has_to_be_asked_for(build):
    model = build()
    layer = None if hasattr(model, "generate") else 2
    with tokenprune.apply(model, scorer="uniform", keep=5, layer=layer) as handle:
        with pytest.raises(tokenprune.OptionError, match=r"tokenprune\.apply\(\.\.\., trace=True\)"):
            handle.trace()
    with tokenprune.apply(model, scorer="uniform", keep=5, layer=layer, trace=True) as handle:
        with pytest.raises(tokenprune.UnsupportedCallError, match="call the pruned model first"):
            handle.trace()


def test_trace_is_true_or_false(llava_sdpa):
    with pytest.raises(tokenprune.OptionError, match="trace must be True or False, got 'yes'"):
        tokenprune.apply(llava_sdpa, keep=5, trace="yes")
    assert not tokenprune.is_pruned(llava_sdpa)


def test_the_last_trace_stays_after_removal(llava_sdpa, padded):
    with tokenprune.apply(llava_sdpa, method="divprune", keep=5, trace=True) as handle:
        llava_sdpa(**padded)
        trace = handle.trace()
    llava_sdpa(**tiny_models.llava_inputs((6,)))
    assert handle.trace() is trace


def test_a_call_that_is_refused_leaves_the_trace_of_the_one_before(llava_sdpa, padded):
    with tokenprune.apply(llava_sdpa, method="divprune", keep=5, trace=True) as handle:
        llava_sdpa(**padded)
        trace = handle.trace()
        with pytest.raises(tokenprune.UnsupportedCallError):
            llava_sdpa(**padded | {"attention_mask": torch.ones(2, 1, 42, 42)})
        assert handle.trace() is trace
        llava_sdpa(**padded, use_cache=False)
        assert handle.trace().boundaries[0].stored is None


@pytest.mark.parametrize("options", [{"method": "divprune", "keep": 5}, PYRAMID], ids=lambda o: o["method"])
def test_recording_changes_no_answer(llava_sdpa, padded, options):
    answers = []
    for trace in (False, True):
        with tokenprune.apply(llava_sdpa, **options, trace=trace):
            made = llava_sdpa.generate(
                **padded, max_new_tokens=3, output_logits=True, return_dict_in_generate=True, **GREEDY
            )
            answers.append(torch.stack(made.logits))
    assert torch.equal(*answers)


def test_nothing_but_integers_and_words_is_kept(llava_sdpa, padded):
    def n_tensors():
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    with tokenprune.apply(llava_sdpa, **PYRAMID, trace=True) as handle:
        llava_sdpa(**padded)
        first = handle.trace()
        before = n_tensors()
        llava_sdpa(**padded)
        assert n_tensors() <= before
        assert handle.trace() == first
    kinds = set()

    def walk(value):
        if isinstance(value, (tuple, list)):
            for part in value:
                walk(part)
        else:
            kinds.add(type(value))

    walk(dataclasses.astuple(first))
    assert kinds == {int, str}


def test_threads_get_whole_traces(padded):
    model = tiny_models.llava()
    calls = [padded, tiny_models.llava_inputs((3, "I", 5)), tiny_models.llava_inputs((6,))]
    with tokenprune.apply(model, **PYRAMID, trace=True) as handle:

        def call(inputs):
            with torch.no_grad():
                model(**inputs)
            return handle.trace()

        alone = {call(inputs) for inputs in calls}
        assert len(alone) == 3
        with ThreadPoolExecutor(4) as threads:
            assert set(threads.map(call, 4 * calls)) <= alone


# -- compiled and exported


@pytest.mark.parametrize("options", [{"method": "divprune", "keep": 5}, PYRAMID], ids=lambda o: o["method"])
def test_a_compiled_call_is_recorded_between_its_graphs(dynamo, padded, options):
    model = tiny_models.llava()
    with tokenprune.apply(model, **options, trace=True) as handle:
        want = model(**padded).logits
        eager = handle.trace()
        model(**tiny_models.llava_inputs((6,)))
        got = torch.compile(model, backend="eager")(**padded).logits
        assert handle.trace() == eager
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_graphs_break_for_a_trace_only_where_one_was_asked_for(dynamo, padded):
    model, breaks = tiny_models.llava(), {}
    compiled = CompileConfig(backend="eager", mode=None, fullgraph=False)
    compiled._compile_all_devices = True
    for trace in (False, True):
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        options = {"cache_implementation": "static", "compile_config": compiled, **GREEDY}
        with tokenprune.apply(model, **PYRAMID, trace=trace):
            model.generate(**padded, max_new_tokens=3, **options)
        breaks[trace] = "\n".join(torch._dynamo.utils.counters["graph_break"])
    assert "CallTracer" not in breaks[False]
    assert "CallTracer" in breaks[True]


def test_an_exported_graph_records_nothing(llava_sdpa):
    inputs = tiny_models.llava_inputs((3, "I", 5))
    want = llava_sdpa(**inputs, use_cache=False).logits
    with tokenprune.apply(llava_sdpa, method="divprune", keep=16, trace=True) as handle:
        program = torch.export.export(llava_sdpa, (), {**inputs, "use_cache": False}, strict=False)
        assert torch.equal(program.module()(**inputs, use_cache=False).logits, want)
        with pytest.raises(tokenprune.UnsupportedCallError, match="there is no trace yet"):
            handle.trace()


def test_a_conversation_goes_on(llava_sdpa):
    inputs = tiny_models.llava_inputs((3, "I", 5))
    with tokenprune.apply(llava_sdpa, method="divprune", keep=5, trace=True) as handle:
        cache = cache_of(llava_sdpa(**inputs, use_cache=True))
        llava_sdpa(input_ids=torch.tensor([[5, 6, 7]]), **{CACHE: cache})
    (turn,) = handle.trace().boundaries
    assert handle.trace().n_new == 3
    assert (turn.rows, turn.stored, turn.seen) == ((RowTrace(3, 3, (14,), (16,)),), 17, 28)
