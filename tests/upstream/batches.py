# SPDX-License-Identifier: Apache-2.0
"""Padding, rows alone and together, embeddings in the place of ids."""

import torch
from checks import CLOSE, LOGITS, N_NEW, Checks, cache_in, stacked
from families import PIXELS

import tokenprune


class BatchChecks(Checks):
    """What else stands in a batch changes nothing for a row."""

    def test_generate_left_padding(self):
        model, inputs = self.new_model(), self.batch()
        n = inputs["input_ids"].shape[1]
        plain = self.answer(model, inputs, **LOGITS)
        padded = self.answer(model, self.padded(inputs, left=5), **LOGITS)
        torch.testing.assert_close(stacked(plain), stacked(padded), **CLOSE)
        assert torch.equal(plain.sequences[:, n:], padded.sequences[:, n + 5 :])

    def test_generate_left_padding_of_a_plain_call(self):
        model, inputs = self.new_model(), self.batch()
        plain = self.forward(model, inputs, output_hidden_states=True)
        padded = self.forward(model, self.padded(inputs, left=5), output_hidden_states=True)
        torch.testing.assert_close(plain.logits, padded.logits[:, 5:], **CLOSE)
        for one, other in zip(plain.hidden_states, padded.hidden_states, strict=True):
            torch.testing.assert_close(one, other[:, 5:], **CLOSE)

    def test_generate_right_padding_of_a_plain_call(self):
        model, inputs = self.new_model(), self.batch()
        plain = self.forward(model, inputs).logits
        padded = self.forward(model, self.padded(inputs, right=5)).logits
        torch.testing.assert_close(plain, padded[:, : plain.shape[1]], **CLOSE)

    def test_generate_rows_equal_themselves_alone(self):
        """Rows that lack none, one and two of their first tokens."""
        model, inputs = self.new_model(), self.batch(3)
        n, rows = inputs["input_ids"].shape[1], []
        for i in range(3):
            row = self.model_tester.cut_rows(inputs, i, i + 1)
            rows.append({name: value if name in PIXELS else value[:, i:] for name, value in row.items()})
        padded = [self.padded(row, left=i) for i, row in enumerate(rows)]
        out = self.answer(
            model, {name: torch.cat([row[name] for row in padded]) for name in inputs}, **LOGITS
        )
        for i, row in enumerate(rows):
            alone = self.answer(model, row, **LOGITS)
            torch.testing.assert_close(stacked(out)[:, i : i + 1], stacked(alone), **CLOSE)
            assert torch.equal(out.sequences[i, n:], alone.sequences[0, n - i :])

    def embedded(self, model, inputs):
        """Embeddings of the ids, and the inputs without ids."""
        rest = {name: value for name, value in inputs.items() if name != "input_ids"}
        return model.get_input_embeddings()(inputs["input_ids"]).detach(), rest

    def test_generate_from_embeddings(self):
        model, inputs = self.new_model(), self.batch()
        embeds, rest = self.embedded(model, inputs)
        from_ids = self.answer(model, inputs, num_beams=2)
        both = self.answer(model, {**inputs, "inputs_embeds": embeds}, num_beams=2)
        assert torch.equal(both, from_ids)
        if "mm_token_type_ids" not in inputs:  # the Qwens make positions of the ids
            alone = self.answer(model, {**rest, "inputs_embeds": embeds}, num_beams=2)
            assert torch.equal(alone, from_ids[:, inputs["input_ids"].shape[1] :])

    def test_generate_from_embeddings_into_a_static_cache(self):
        model, inputs = self.new_model(), self.batch()
        if "mm_token_type_ids" in inputs:
            self.skipTest("the Qwens make positions of the ids")
        embeds, rest = self.embedded(model, inputs)
        given = {**rest, "inputs_embeds": embeds}
        assert torch.equal(
            self.answer(model, given), self.answer(model, given, cache_implementation="static")
        )

    def test_generate_from_embeddings_without_pixels(self):
        """Placeholders stay what they are and nothing is pruned; other embeddings do something else."""
        model, inputs = self.new_model(), self.batch()
        embeds, _ = self.embedded(model, inputs)
        given = {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"]}
        handle = tokenprune.active_handle(model)
        out = self.answer(model, given, **LOGITS)
        assert out.sequences.shape == (2, N_NEW)
        if self.mode.prunes:
            assert handle.last is None
            n = inputs["input_ids"].shape[1] + N_NEW - 1
            assert [layer.keys.shape[2] for layer in cache_in(out).layers] == [n, n]
        other = self.answer(model, {**given, "inputs_embeds": embeds.flip(-1)}, **LOGITS)
        assert not torch.allclose(out.logits[0], other.logits[0])

    def test_generate_text_only(self):
        model = self.new_model()
        ids = self.model_tester.words(2, 9)
        assert self.answer(model, {"input_ids": ids}).shape == (2, 9 + N_NEW)
