# SPDX-License-Identifier: Apache-2.0
"""An untrained model of the embedded model's kind, as files and loaded; and some scenes."""

import pytest
from tokenprune_embedded import held_out_scenes
from transformers import AutoModelForImageTextToText, AutoProcessor

from benchmarks.training.architecture import new_model
from benchmarks.training.export import export


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """Folder of an untrained model: everything works but the answers."""
    folder = tmp_path_factory.mktemp("untrained")
    export(new_model(0), folder)
    return folder


@pytest.fixture(scope="session")
def untrained_model(untrained):
    """The same loaded: (model, processor)."""
    model = AutoModelForImageTextToText.from_pretrained(untrained).eval()
    return model, AutoProcessor.from_pretrained(untrained)


@pytest.fixture(scope="session")
def scenes():
    """Three scenes with their questions."""
    return list(held_out_scenes(3))
