# SPDX-License-Identifier: Apache-2.0
"""Greedy search, sampling and beams; and what decoding methods outside of transformers do with a model."""

import torch
from checks import CLOSE, EVERYTHING, LOGITS, N_NEW, Checks, stacked
from families import IMAGE, PIXELS, SPECIAL
from tokenprune_cli.cache_name import cache_name
from transformers import DynamicCache

SAMPLED = {"do_sample": True, "top_k": 10, "top_p": 0.9, "temperature": 0.7}


class SearchChecks(Checks):
    """`generate` with each of its ways to pick tokens."""

    def test_generate_greedy(self):
        model, inputs = self.new_model(), self.batch()
        out = self.answer(model, inputs)
        n = inputs["input_ids"].shape[1]
        assert out.shape == (2, n + N_NEW)
        assert torch.equal(out[:, :n], inputs["input_ids"])
        self.check_pruned(model)

    def test_generate_greedy_returns_everything(self):
        model, inputs = self.new_model("eager"), self.batch()
        self.check_everything(model, self.answer(model, inputs, **EVERYTHING), inputs)

    def test_generate_greedy_returns_everything_without_a_cache(self):
        model, inputs = self.new_model("eager"), self.batch()
        out = self.answer(model, inputs, use_cache=False, **EVERYTHING)
        self.check_everything(model, out, inputs, use_cache=False)

    def test_generate_greedy_returns_everything_of_two_images(self):
        model, inputs = self.new_model("eager"), self.batch(images=2)
        self.check_everything(model, self.answer(model, inputs, **EVERYTHING), inputs, images=2)

    def skip_where_each_step_chooses(self):
        if self.mode.late:
            self.skipTest("without a cache the decoder's methods choose anew at each step, as documented")

    def test_generate_cache_changes_nothing(self):
        self.skip_where_each_step_chooses()
        model, inputs = self.new_model(), self.padded(self.batch(images=2), left=2)
        one, other = (self.answer(model, inputs, use_cache=used, **LOGITS) for used in (True, False))
        torch.testing.assert_close(stacked(one), stacked(other), **CLOSE)

    def test_generate_sample(self):
        model, inputs = self.new_model("eager"), self.batch()
        first, second = (self.answer(model, inputs, **SAMPLED) for _ in range(2))
        assert torch.equal(first, second)

    def test_generate_sample_several_of_each_row(self):
        model, inputs = self.new_model("eager"), self.batch()
        out = self.answer(model, inputs, num_return_sequences=2, **SAMPLED, **EVERYTHING)
        self.check_everything(model, out, inputs, copies=2)

    def test_generate_beams(self):
        model, inputs = self.new_model("eager"), self.batch()
        n = inputs["input_ids"].shape[1]
        assert self.answer(model, inputs, num_beams=2).shape == (2, n + N_NEW)
        several = self.answer(model, inputs, num_beams=3, num_return_sequences=2, length_penalty=2.0)
        assert several.shape == (4, n + N_NEW)

    def check_beams_return_everything(self, use_cache):
        model, inputs = self.new_model("eager"), self.batch()
        out = self.answer(
            model, inputs, num_beams=2, num_return_sequences=2, use_cache=use_cache, **EVERYTHING
        )
        self.check_everything(model, out, inputs, copies=2, use_cache=use_cache)
        assert out.sequences_scores.shape == (4,)
        assert bool((out.sequences_scores < 0).all())
        steps = model.compute_transition_scores(out.sequences, out.scores, out.beam_indices)
        torch.testing.assert_close(steps.sum(1) / N_NEW, out.sequences_scores)

    def test_generate_beams_return_everything(self):
        self.check_beams_return_everything(True)

    def test_generate_beams_return_everything_without_a_cache(self):
        self.check_beams_return_everything(False)

    def test_generate_beams_cache_changes_nothing(self):
        self.skip_where_each_step_chooses()
        model, inputs = self.new_model(), self.batch(images=2)
        assert torch.equal(
            *(self.answer(model, inputs, num_beams=3, use_cache=used) for used in (True, False))
        )

    def test_generate_beams_rows_are_independent(self):
        model, inputs = self.new_model(), self.batch(3, images=2)
        together = self.answer(model, inputs, num_beams=3)
        for i in range(3):
            alone = self.answer(model, self.model_tester.cut_rows(inputs, i, i + 1), num_beams=3)
            assert torch.equal(together[i : i + 1], alone), i

    def test_generate_beam_sample(self):
        model, inputs = self.new_model("eager"), self.batch()
        options = {"do_sample": True, "top_k": 10, "num_beams": 2, "num_return_sequences": 2}
        self.check_everything(model, self.answer(model, inputs, **options, **EVERYTHING), inputs, copies=2)

    # transformers 5 keeps these in repositories of their own; what counts is how they treat model and cache

    def test_generate_group_beams_reorder_a_cache_within_groups(self):
        model, inputs = self.new_model(), self.batch(1)
        out = self.compared(model, lambda m: group_beams(m, inputs))
        assert torch.equal(out[:2], out[2:])  # two groups that begin alike
        best = self.answer(model, inputs, num_beams=2, length_penalty=0.0)
        assert torch.equal(out[:1], best)

    def test_generate_contrastive_search_repeats_and_selects_rows_of_a_cache(self):
        model, inputs = self.new_model(), self.batch()
        ids = self.compared(model, lambda m: contrastive(m, inputs))
        assert ids.shape == (2, inputs["input_ids"].shape[1] + N_NEW)
        if not self.mode.late:
            assert torch.equal(ids, contrastive(model, inputs, use_cache=False))

    def test_generate_dola_reads_the_logits_of_every_layer(self):
        model, inputs = self.new_model(), self.batch()
        out = self.answer(model, inputs, custom_generate=dola, suppress_tokens=None)
        assert out.shape == (2, inputs["input_ids"].shape[1] + N_NEW)


def plain_cache(model):
    return DynamicCache(config=model.config.get_text_config())


@torch.no_grad()
def group_beams(model, inputs):
    """Two groups of two beams of one row, (4, L)."""
    inputs = {name: torch.cat([value] * 4) for name, value in inputs.items()}
    ids, cache = inputs.pop("input_ids"), {cache_name(model): plain_cache(model), "use_cache": True}
    total = torch.tensor([0.0, -torch.inf] * 2)  # the beams of a group differ from the second step on
    first = 2 * torch.arange(2)[:, None]
    for step in range(N_NEW):
        out = model(input_ids=ids if step == 0 else ids[:, -1:], **(inputs if step == 0 else {}), **cache)
        logits = out.logits[:, -1].log_softmax(-1)
        logits[:, SPECIAL] = -torch.inf
        width = logits.shape[1]
        total, at = (total[:, None] + logits).view(2, -1).topk(2, 1)
        total, beams = total.flatten(), (first + at // width).flatten()
        cache[cache_name(model)].reorder_cache(beams)
        ids = torch.cat([ids[beams], (at % width).view(-1, 1)], 1)
    return ids


@torch.no_grad()
def contrastive(model, inputs, use_cache=True, n_candidates=3):
    """Try a few likely tokens, and take the one whose hidden state is least like those before."""
    name, rest = cache_name(model), dict(inputs)
    ids = rest.pop("input_ids")
    rows = torch.arange(len(ids))
    cache = plain_cache(model)
    out = model(input_ids=ids, **{name: cache}, use_cache=True, output_hidden_states=True, **rest)
    seen, logits = out.hidden_states[-1], out.logits[:, -1]
    for _ in range(N_NEW):
        logits[:, SPECIAL] = -torch.inf
        weight, candidates = logits.softmax(-1).topk(n_candidates, -1)
        tried = candidates.view(-1, 1)
        if use_cache:
            cache.batch_repeat_interleave(n_candidates)
            given = {"input_ids": tried, name: cache, "use_cache": True}
        else:
            whole = torch.cat([ids.repeat_interleave(n_candidates, 0), tried], 1)
            given = {"input_ids": whole, "use_cache": False, **repeated(rest, len(ids), n_candidates)}
            if "mm_token_type_ids" in rest:
                given["mm_token_type_ids"] = (whole == IMAGE).int()
        out = model(**given, output_hidden_states=True)
        new, before = out.hidden_states[-1][:, -1:], seen.repeat_interleave(n_candidates, 0)
        alike = torch.nn.functional.cosine_similarity(before, new, dim=-1).amax(1).view(len(ids), -1)
        chosen = n_candidates * rows + (0.4 * weight - 0.6 * alike).argmax(1)
        if use_cache:
            cache.batch_select_indices(chosen)
        seen = torch.cat([seen, new[chosen]], 1)
        logits, ids = out.logits[chosen, -1], torch.cat([ids, tried[chosen]], 1)
    return ids


def repeated(inputs, rows, times):
    """The images of each row, repeated as its candidates are."""
    return {
        name: value.view(rows, -1, *value.shape[1:]).repeat_interleave(times, 0).flatten(0, 1)
        for name, value in inputs.items()
        if name in PIXELS
    }


def dola(model, input_ids, generation_config=None, logits_processor=None, stopping_criteria=None, **kwargs):
    """Contrast the last layer's logits with an earlier one's; `generate` calls this in its place."""
    n = input_ids.shape[1]
    while input_ids.shape[1] < n + N_NEW:
        is_first = input_ids.shape[1] == n
        given = model.prepare_inputs_for_generation(
            input_ids, next_sequence_length=None if is_first else 1, is_first_iteration=is_first, **kwargs
        )
        out = model(**given, output_hidden_states=True, return_dict=True)
        early, last = (model.lm_head(out.hidden_states[i][:, -1]).log_softmax(-1) for i in (1, -1))
        torch.testing.assert_close(last, out.logits[:, -1].log_softmax(-1), **CLOSE)
        contrast = last - early
        contrast[:, SPECIAL] = -torch.inf
        kwargs = model._update_model_kwargs_for_generation(out, kwargs)
        input_ids = torch.cat([input_ids, contrast.argmax(-1, keepdim=True)], 1)
    return input_ids
