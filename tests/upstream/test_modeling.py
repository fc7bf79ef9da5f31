# SPDX-License-Identifier: Apache-2.0
"""transformers' suite, and our checks of `generate`, over five families."""

import unittest

import families
import pytest
import torch
from arguments import ArgumentChecks
from batches import BatchChecks
from caches import CacheChecks
from candidates import CandidateChecks
from gradients import GradientChecks
from modes import MODES, prune_every_instance
from searches import SearchChecks
from tests.generation.test_utils import GenerationTesterMixin
from tests.test_modeling_common import ModelTesterMixin
from tests.test_training_mixin import TrainingTesterMixin


class Suite(
    SearchChecks,
    CandidateChecks,
    BatchChecks,
    CacheChecks,
    ArgumentChecks,
    GradientChecks,
    ModelTesterMixin,
    GenerationTesterMixin,
    TrainingTesterMixin,
):
    """One family; the suite sees its models as they come out of their constructors: pruned."""

    family: type[families.Family]
    _is_composite = True
    test_all_params_have_gradient = False  # LLaVA takes the tower's features before its last layer
    additional_model_inputs = (*families.PIXELS, "mm_token_type_ids")

    @pytest.fixture(autouse=True)
    def _mode(self, pytestconfig):
        self.mode = MODES[pytestconfig.getoption("--mode")]
        prune_every_instance(self.mode, self.family.model_class, self.family.n_image)

    def setUp(self):
        torch.manual_seed(0)
        self.model_tester = self.family(self)

    @property
    def all_model_classes(self):
        return (self.family.model_class,)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        """Whole images again where the suite has cut a batch: it takes the Qwens' patches for rows."""
        made = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        grid = made.get("image_grid_thw")
        if grid is not None and len(made["pixel_values"]) != int(grid.prod(1).sum()):
            torch.manual_seed(0)
            made["pixel_values"] = self.model_tester.images(len(grid))["pixel_values"].to(
                made["pixel_values"]
            )
        return made

    def _create_text_training_batch(self, batch_size, seq_length, vocab_size):
        """The suite's own has ids that stand for images."""
        ids = torch.arange(20, 40).repeat(seq_length)[:seq_length].repeat(batch_size, 1)
        return {"input_ids": ids, "labels": ids.clone()}

    def test_training_overfit(self):
        config = self.model_tester.get_config()
        config.vocab_size = families.VOCABULARY  # where the suite looks for it
        self.model_tester.get_config = lambda: config
        super().test_training_overfit()


def suite_of(family, **more):
    members = {"family": family, "__module__": __name__, **more}
    return type(f"{family.__name__}Test", (Suite, unittest.TestCase), members)


LlavaTest = suite_of(families.Llava)
LlavaNextTest = suite_of(families.LlavaNext, skip_test_image_features_output_shape=True)  # tiles, not images
InternVLTest = suite_of(families.InternVL)
Qwen25VLTest = suite_of(families.Qwen25VL)
Qwen3VLTest = suite_of(families.Qwen3VL)
