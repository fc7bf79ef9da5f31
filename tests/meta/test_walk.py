# SPDX-License-Identifier: Apache-2.0
"""The walk in CONTRIBUTING.md names functions that really run, in that order, and stays short."""

import re
import sys
from pathlib import Path

import pytest
import tiny_models
import torch

import tokenprune

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"\| `([\w.]+)` \| `([\w/]+\.py)` \| .+ \|")
ZOO = {"scorer": "zoo", "selector": "diverse", "keep": 5}
FASTV = {"method": "fastv", "keep": 5}


def tables():
    """The rows (function, file) of each table of the walk, in order."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    walk = text.split("## A walk through the code\n")[1].split("\n## ")[0]
    return [ROW.findall(part) for part in walk.split("\n### ")[1:]]


def called(function):
    """Name and file of every function that is called, in order."""
    calls = []

    def note(frame, event, argument):
        if event == "call":
            calls.append((frame.f_code.co_name, frame.f_code.co_filename))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(before)
    return calls


def check(table, calls):
    assert 20 <= len(table) <= 25
    remaining = iter(calls)
    for function, file in table:
        name = function.rpartition(".")[2]
        here = any(name == other and path.endswith("/" + file) for other, path in remaining)
        assert here, f"{function} of {file} is not called, or not after the hop before it"


@pytest.fixture
def model():
    return tiny_models.llava()


def test_the_hops_of_apply(model):
    handles = []
    check(tables()[0], called(lambda: handles.append(tokenprune.apply(model, **ZOO))))
    handles[0].remove()


@pytest.mark.parametrize(("number", "options"), [(1, ZOO), (2, FASTV)], ids=["zoo", "fastv"])
@torch.no_grad()
def test_the_hops_of_a_prefill(model, number, options):
    inputs = tiny_models.llava_inputs((3, "I", 5))
    with tokenprune.apply(model, **options):
        check(tables()[number], called(lambda: model(**inputs)))
