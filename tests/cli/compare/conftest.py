# SPDX-License-Identifier: Apache-2.0
"""Questions about two scenes, and a comparison on an untrained model."""

import dataclasses

import pytest
from tokenprune_cli.compare.answers import AnswerOptions, Run
from tokenprune_cli.compare.comparison import Request, compare
from tokenprune_cli.compare.workers import Source
from tokenprune_cli.console.models import Device, Precision
from tokenprune_evaluation.question_set import embedded_scenes


@pytest.fixture(scope="session")
def questions():
    """The first four questions of each of two scenes."""
    whole = embedded_scenes(2)
    items = [[i for i in whole.items if i.image == image][:4] for image in (0, 1)]
    return dataclasses.replace(whole, items=(*items[0], *items[1]))


@pytest.fixture(scope="session")
def options(tmp_path_factory):
    return AnswerOptions(batch=4, max_new_tokens=2, seed=0, pictures=tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def run(untrained_model, questions, options):
    return Run(*untrained_model, questions, options)


@pytest.fixture(scope="session")
def source(untrained):
    return Source(str(untrained), Device.cpu, Precision.auto, False, scenes=2)


@pytest.fixture(scope="session")
def comparison_request():
    return Request(("zoo-exact", "fastv"), (36, 9), ("paper", "matched"), conversation=True, repeats=1)


@pytest.fixture(scope="session")
def compared(source, questions, options, comparison_request, tmp_path_factory):
    """A complete comparison: (result, folder)."""
    folder = tmp_path_factory.mktemp("compared")
    return compare(source, questions, options, comparison_request, folder, lambda *_: None), folder
