# SPDX-License-Identifier: Apache-2.0
"""What a protocol means for a method on a model, and what of it has to be run."""

import pytest
import tiny_models
from tokenprune_cli.compare.plan import ALWAYS, default_keeps, make_plan
from tokenprune_cli.compare.protocols import is_of_the_question, saw_the_question, setting
from tokenprune_evaluation.settings import UNPRUNED, Setting, key

import tokenprune


@pytest.fixture(scope="module")
def llava(untrained_model):
    return untrained_model[0]


CLOSED_UP = {"positions": "contiguous"}


@pytest.mark.parametrize(
    ("method", "paper", "matched"),
    [
        ("fastv", {"budget": "paper", "positions": "original"}, {"budget": "average", **CLOSED_UP}),
        ("sparsevlm", {"budget": "paper", **CLOSED_UP}, {"budget": "average", **CLOSED_UP}),
        ("zoo-exact", CLOSED_UP, CLOSED_UP),
        ("downsample", {}, {}),
    ],
)
def test_what_a_protocol_means(llava, method, paper, matched):
    for protocol, options in (("paper", paper), ("matched", matched)):
        assert setting(protocol, method, 36, llava) == Setting(method, 36, tuple(sorted(options.items())))


def test_scope_and_newlines_matter_where_pictures_are_tiled():
    model = tiny_models.llava_next()
    paper = dict(setting("paper", "zoo-exact", 36, model).options)
    matched = dict(setting("matched", "zoo-exact", 36, model).options)
    own = tokenprune.method("zoo-exact")
    assert (paper["scope"], paper["newlines"]) == (own.scope, own.newlines) == ("tile", "drop")
    assert (matched["scope"], matched["newlines"]) == ("image", "compete")


def test_multimodal_rotary_keeps_positions_under_both_protocols():
    model = tiny_models.qwen()
    for protocol in ("paper", "matched"):
        assert dict(setting(protocol, "zoo-exact", 9, model).options)["positions"] == "original"


def test_what_both_protocols_share_is_run_once(llava):
    plan = make_plan(llava, ["zoo-exact", "fastv"], [9, 36, 9], ["paper", "matched"])
    assert [(ln.protocol, ln.setting.method, ln.setting.keep) for ln in plan.lines[:7]] == [
        ("paper", None, None),
        *(("paper", m, 36) for m in ("zoo-exact", "fastv", *ALWAYS)),
        ("paper", "zoo-exact", 9),
    ]
    assert len(plan.lines) == 2 * (1 + 2 * 5)
    methods = [s.method for s in plan.settings]
    assert {m: methods.count(m) for m in set(methods)} == {
        None: 1, "zoo-exact": 2, "fastv": 4, "stride": 2, "random": 2, "downsample": 2,
    }  # fmt: skip
    assert methods[-2:] == ["downsample", "downsample"]
    assert not plan.unavailable and not plan.refused


def test_a_method_the_model_cannot_use_has_a_reason_and_no_line(llava):
    plan = make_plan(llava, [], [9], ["paper"])
    assert "clip_text_embeds" in plan.unavailable["cdpruner"]
    methods = {line.setting.method for line in plan.lines}
    assert methods == {None, "downsample", *tokenprune.list_methods()} - {"cdpruner"}


def test_keys_tell_settings_apart(llava):
    plan = make_plan(llava, [], [9, 36], ["paper", "matched"])
    assert len({key(s) for s in plan.settings}) == len(plan.settings)
    assert key(UNPRUNED) == "unpruned"
    fastv = setting("matched", "fastv", 9, llava)
    assert key(fastv) == "fastv 9 budget=average positions=contiguous"


def test_budgets_when_none_are_asked_for():
    assert default_keeps(144) == [72, 36, 18, 9]
    assert default_keeps(5) == [2, 1, 1, 1]


def test_who_saw_the_question_follows_from_the_signals():
    seen = {name for name in tokenprune.list_methods() if saw_the_question(name)}
    decoder = {"clse", "dart", "fastv", "priortr", "pyramiddrop", "sparsevlm", "sparsevlm-plus"}
    assert seen == {"cdpruner"} | decoder
    assert not saw_the_question(None) and not saw_the_question("downsample")


def test_the_signals_of_the_question():
    from tokenprune.signals import SIGNALS

    found = {name for name in SIGNALS if is_of_the_question(name)}
    assert found >= {"text_embeds", "attention_rows", "text_keys", "text_hidden", "clip_text_embeds"}
    assert not found & {
        "cls_attention",
        "received_attention",
        "keys",
        "hidden",
        "projector",
        "clip_patch_embeds",
    }
