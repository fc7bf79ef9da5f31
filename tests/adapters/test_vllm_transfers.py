# SPDX-License-Identifier: Apache-2.0
"""Requests for items whose rows come from another engine; stand-ins for what vLLM passes."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from tokenprune_vllm import identifiers, stock, transfers
from tokenprune_vllm.settings import Settings

from tokenprune import Budget, BudgetError, IncompatibleError

SETTINGS = Settings.parse({"method": "stride", "keep": 40})
ENDING = f"-tokenprune-{SETTINGS.digest}"


class Fields:
    """Items of which a request contains sizes, and perhaps rows."""

    def __init__(self, n=1, **fields):
        self.n, self.fields = n, fields

    def __len__(self):
        return self.n

    def get_passthrough_data(self):
        return self.fields


class Rows:
    pass


@pytest.fixture(autouse=True)
def kinds_of_items(monkeypatch):
    kinds = {"detection_of_embeddings": Rows, "detection_of_named_embeddings": Fields}
    monkeypatch.setattr(stock, "function", kinds.__getitem__)


@dataclass
class Request:
    mm_data_items: dict
    mm_uuid_items: dict | None = None
    hf_processor_mm_kwargs: dict = field(default_factory=dict)


class Info:
    settings = SETTINGS
    modalities = ("image", "video")
    request_budget = settings.request_budget

    def own_budget(self, arguments):
        return self.request_budget(arguments) if "tokenprune" in arguments else None

    def check_fields(self, modality: str, fields: Any):
        self.checked = modality, fields


def with_budget(*names, own=None, n=None, **more):
    arguments = {"max_pixels": 9} | ({} if own is None else {"tokenprune": own})
    items = {"image": Fields(len(names) if n is None else n, grid=1), **more}
    request = Request(items, {"image": list(names)} if names else None, arguments)
    return request, transfers.with_budget(Info(), request)


@pytest.mark.parametrize(
    ("budget", "ending"),
    [(None, ""), (Budget(32), "-keep-32"), (Budget(None, 0.125), "-keep_ratio-0.125")],
)
def test_an_identifier_tells_the_budget(budget, ending):
    name = identifiers.pruned("key", SETTINGS.digest, budget)
    assert name == "key" + ENDING + ending
    assert identifiers.budget_of(name, SETTINGS.digest) == budget
    assert identifiers.pruned(name, SETTINGS.digest, budget) == name


def test_small_ratios_are_read_as_they_were_written():
    name = identifiers.pruned("key", SETTINGS.digest, Budget(None, 1e-05))
    assert identifiers.budget_of(name, SETTINGS.digest) == Budget(None, 1e-05)


def test_an_identifier_of_another_budget_is_a_name_like_any_other():
    name = identifiers.pruned("key", SETTINGS.digest, Budget(32))
    assert identifiers.pruned(name, SETTINGS.digest, None) == name + ENDING
    assert (
        identifiers.pruned("key" + ENDING + "-whole", SETTINGS.digest, None) == f"key{ENDING}-whole{ENDING}"
    )


@pytest.mark.parametrize(
    "name",
    [
        None,
        "",
        "key",
        "key-tokenprune-0123456789abcdef",
        identifiers.whole("key", SETTINGS.digest),
        *(
            "key" + ENDING + ending
            for ending in ("-keep-", "-keep-x", "-keep-0", "-keep_ratio-2.0", "-share-1")
        ),
    ],
)
def test_other_identifiers_are_refused(name):
    with pytest.raises(IncompatibleError, match='with the same "tokenprune" configuration'):
        with_budget(name, n=1)


def test_items_without_any_identifiers_are_refused():
    with pytest.raises(IncompatibleError, match="neither pixels nor rows for the item None"):
        with_budget(n=2)


def test_a_request_gets_the_budget_of_its_items():
    request, changed = with_budget("a" + ENDING + "-keep-32", "b" + ENDING + "-keep-32")
    assert changed.hf_processor_mm_kwargs == {"max_pixels": 9, "tokenprune": {"keep": 32}}
    assert request.hf_processor_mm_kwargs == {"max_pixels": 9}
    assert changed.mm_data_items is request.mm_data_items
    _, changed = with_budget("a" + ENDING + "-keep_ratio-0.25")
    assert changed.hf_processor_mm_kwargs["tokenprune"] == {"keep_ratio": 0.25}


@pytest.mark.parametrize("own", [None, {"keep": 40}])
def test_items_with_the_engines_budget_leave_a_request_alone(own):
    request, same = with_budget("a" + ENDING, "b" + ENDING + "-keep-40", own=own)
    assert same is request


def test_a_request_may_say_the_same_budget():
    request, same = with_budget("a" + ENDING + "-keep-32", own={"keep": 32})
    assert same is request


@pytest.mark.parametrize(
    ("names", "own", "more"),
    [
        (["a" + ENDING, "b" + ENDING + "-keep-32"], None, {}),
        (["a" + ENDING + "-keep-32"], {"keep": 40}, {}),
        (["a" + ENDING + "-keep-32"], None, {"video": object()}),
        (["a" + ENDING], {"keep": 32}, {"video": object()}),
    ],
)
def test_items_of_different_budgets_are_refused(names, own, more):
    with pytest.raises(BudgetError, match="these have keep=32 and keep=40: send them in separate requests"):
        with_budget(*names, own=own, **more)


def test_an_invalid_budget_is_refused_first():
    with pytest.raises(BudgetError, match="a request can only set"):
        with_budget("nonsense", own={"method": "stride"})


@pytest.mark.parametrize("items", [object(), Rows(), Fields(image_embeds=1), None])
def test_requests_with_pixels_or_rows_are_left_alone(items):
    request = Request({} if items is None else {"image": items})
    assert transfers.with_budget(Info(), request) is request


def test_what_a_request_contains_of_its_items():
    found = [
        stock.kind_of({"image": it}, "image") for it in (object(), Rows(), Fields(image_embeds=1), Fields())
    ]
    assert found == ["pixels", "rows", "rows", "fields"]
    assert stock.kind_of({"image": object()}, "video") is None
