# SPDX-License-Identifier: Apache-2.0
"""Looking up names of vLLM and overriding its methods, on stand-ins."""

import sys
import types

import pytest
from tokenprune_vllm.errors import EngineRefusedError
from tokenprune_vllm.lookup import View, derive, find


class Stock:
    field: int

    def rows(self, of, *, wide=False, **more):
        return "stock", of, wide, more

    def most(self):
        return 7


class Ours:
    pruning = None
    asked = 0

    def our_rows(self, vllm, wide, of):
        self.asked += 1
        return vllm(not wide, of + 1)

    def our_name_for_what_is_gone(self, vllm):
        raise AssertionError


@pytest.fixture(autouse=True)
def vllm(monkeypatch):
    module = types.ModuleType("vllm")
    module.__version__, module.Stock, module.nothing = "0.32.7", Stock, None
    monkeypatch.setitem(sys.modules, "vllm", module)


OVERRIDES = {"our_rows": "rows(wide, of)", "our_name_for_what_is_gone": "gone()"}


@pytest.fixture
def made():
    return derive("Both", Ours, Stock, OVERRIDES, {"our_most": "most()"})()


def test_without_pruning_vllms_method_runs_as_it_was_called(made):
    assert made.rows(1, wide=True, other=3) == ("stock", 1, True, {"other": 3})
    assert made.asked == 0


def test_while_pruning_ours_gets_what_it_lists_and_changes_only_that(made):
    made.pruning = object()
    assert made.rows(1, other=3) == ("stock", 2, True, {"other": 3})
    assert made.rows(of=1, wide=True) == ("stock", 2, False, {})
    assert made.asked == 2


def test_methods_of_vllms_go_by_our_names(made):
    assert made.our_most() == 7


def test_what_vllm_does_not_have_is_not_made(made):
    assert not hasattr(made, "gone") and type(made).__name__ == "Both"


@pytest.mark.parametrize("name", ["vllm:Stock", "vllm:Stock.field", "vllm:Stock.rows(of, wide, more)"])
def test_names_that_are_there(name):
    assert find(name, "") is not None


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("vllm.other:Stock", "vllm.other"),
        ("vllm:Stick", "vllm:Stick"),
        ("vllm:nothing", "vllm:nothing"),
        ("vllm:Stock.gone.further", "vllm:Stock.gone"),
        ("vllm:Stock.rows(of, long)", "parameter long of vllm:Stock.rows"),
    ],
)
def test_a_name_that_is_not_there_is_refused_with_the_versions_tested(name, missing):
    with pytest.raises(EngineRefusedError) as caught:
        find(name, "counting_rows")
    assert str(caught.value) == (
        f"tokenprune: vLLM 0.32.7 has no {missing}, which is needed for: counting rows. "
        "This release was tested with vLLM 0.32 to 0.33; install a tested version or a newer tokenprune, or "
        'start without "tokenprune" in --hf-overrides'
    )


def test_a_view_reads_by_our_names():
    thing = types.SimpleNamespace(a=[types.SimpleNamespace(b=5)], c={"d": 6}, e=None)
    names = {"last": "a.-1.b", "entry": "c.d", "unset": "e?.f", "gone": "a.0.g", "beyond": "a.3"}
    view = View(thing, names, "the thing")
    assert (view.last, view.entry, view.unset) == (5, 6, None)
    thing.a[0].b = 8
    assert view.last == 8  # of this moment
    for name, missing in (("gone", "a.0.g"), ("beyond", "a.3")):
        with pytest.raises(EngineRefusedError, match=f"has no {missing} in the thing, which is needed"):
            getattr(view, name)
    with pytest.raises(EngineRefusedError):
        view.check()
    with pytest.raises(AttributeError, match="the thing has no 'other' among our names"):
        _ = view.other
