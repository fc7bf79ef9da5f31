# SPDX-License-Identifier: Apache-2.0
"""Assisted generation: several tokens at once behind the prompt, some of which are taken back."""

import warnings

import torch
from checks import CLOSE, EVERYTHING, LOGITS, Checks, stacked
from families import HEADS, LAYERS, WIDTH

N_LONG = 8


class CandidateChecks(Checks):
    """The same tokens as greedy search gives, from fewer calls."""

    def prompt(self):
        """A row that ends with two tokens that stand there twice, so that looking up finds a candidate."""
        inputs = self.batch(1)
        inputs["input_ids"][:, -2:] = inputs["input_ids"][:, -4:-2]
        return inputs

    def check_assisted(self, model, **options):
        inputs = self.prompt()
        greedy = self.answer(model, inputs, max_new_tokens=N_LONG, **LOGITS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out = self.answer(model, inputs, max_new_tokens=N_LONG, **LOGITS, **options)
        assert torch.equal(out.sequences, greedy.sequences)
        torch.testing.assert_close(stacked(out), stacked(greedy), **CLOSE)

    def test_generate_assisted_by_itself(self):
        model = self.new_model()
        self.check_assisted(model, assistant_model=model)

    def test_generate_assisted_by_another(self):
        model = self.new_model()
        self.check_assisted(model, assistant_model=self.new_model(seed=5))

    def test_generate_assisted_by_looking_up_the_prompt(self):
        self.check_assisted(self.new_model(), prompt_lookup_num_tokens=2)

    def test_generate_assisted_returns_an_entry_for_each_token(self):
        model, inputs = self.new_model("eager"), self.prompt()
        n = inputs["input_ids"].shape[1]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out = self.answer(model, inputs, prompt_lookup_num_tokens=2, max_new_tokens=5, **EVERYTHING)
        assert len(out.scores) == len(out.hidden_states) == len(out.attentions) == 5
        for i in range(5):
            rows = n if i == 0 else 1
            assert [tuple(one.shape) for one in out.hidden_states[i]] == [(1, rows, WIDTH)] * (LAYERS + 1)
            if (
                not self.mode.prunes
            ):  # transformers cuts these out of maps that it takes for as long as the text
                shapes = [tuple(one.shape) for one in out.attentions[i]]
                assert shapes == [(1, HEADS, rows, n + i)] * LAYERS
