# SPDX-License-Identifier: Apache-2.0
"""What our checks have in common: models, batches, and a call that keeps everything beside the stock model's.

transformers' distribution lacks its generation tests. The checks in this folder say what those check, anew:
each holds for a stock model, and for a pruned one with the token counts of its report.
"""

import torch
from families import HEADS, KV_HEADS, LAYERS, PAD, PIXELS, SPECIAL, VOCABULARY, WIDTH

import tokenprune

N_NEW = 4
CLOSE = {"atol": 1e-4, "rtol": 1e-4}
LOGITS = {"output_logits": True, "return_dict_in_generate": True}
EVERYTHING = {**LOGITS, "output_scores": True, "output_hidden_states": True, "output_attentions": True}


def cache_in(out):
    """The cache in a model's output or in what `generate` returned."""
    return out.cache if "cache" in out else out.past_key_values


def stacked(out):
    """Logits of each step, (steps, B, V)."""
    return torch.stack(out.logits)


def equal(one, other, what="output"):
    """Assert that two outputs are the same, bit by bit."""
    if isinstance(one, torch.Tensor):
        assert one.shape == other.shape, f"{what}: {tuple(one.shape)} and {tuple(other.shape)}"
        assert torch.equal(one.isnan(), other.isnan()), f"{what}: NaN in other places"
        assert torch.equal(one.nan_to_num(), other.nan_to_num()), f"{what} differs"
    elif isinstance(one, dict):
        assert set(one) == set(other), f"{what}: {set(one) ^ set(other)} in one of them"
        for name in one:
            equal(one[name], other[name], f"{what}.{name}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), f"{what}: {len(one)} and {len(other)} entries"
        for i in range(len(one)):
            equal(one[i], other[i], f"{what}[{i}]")
    elif hasattr(one, "layers"):
        assert int(one.get_seq_length()) == int(other.get_seq_length()), f"{what}: tokens seen"
        for i, (ours, theirs) in enumerate(zip(one.layers, other.layers, strict=True)):
            assert ours.get_mask_sizes(1) == theirs.get_mask_sizes(1), f"{what}: mask of layer {i}"
            equal((ours.keys, ours.values), (theirs.keys, theirs.values), f"{what}, layer {i}")


class Checks:
    """Mixed into a test class with `family`, `mode` and `model_tester`."""

    def new_model(self, attention="sdpa", seed=0):
        """A model whose weights are large enough that a dropped token shows."""
        torch.manual_seed(seed)
        config = self.model_tester.get_config()
        model = self.family.model_class._from_config(config, attn_implementation=attention).eval()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim == 2 and weight.std() < 0.15:
                    weight.mul_(0.2 / weight.std().clamp(min=1e-3))
        model.generation_config.eos_token_id = None  # answers have the length asked for
        model.generation_config.pad_token_id = PAD
        return model

    def batch(self, rows=2, images=1, seed=1):
        """Rows without padding."""
        torch.manual_seed(seed)
        return self.model_tester.inputs(rows, images)

    def padded(self, inputs, left=0, right=0):
        """The same behind and before so many tokens of padding."""
        return {
            name: value if name in PIXELS else torch.nn.functional.pad(value, (left, right), value=PAD)
            for name, value in inputs.items()
        }

    def compared(self, model, call):
        """What `call(model)` gives; where everything is kept, the stock model must give the same bits."""
        torch.manual_seed(0)
        out = call(model)
        if self.mode.identity:
            tokenprune.active_handle(model).remove()
            torch.manual_seed(0)
            equal(out, call(model))
            self.mode.apply(model, self.family.n_image)
        return out

    def forward(self, model, inputs, **options):
        """A plain call."""
        with torch.no_grad():
            return self.compared(model, lambda m: m(**inputs, **options))

    def answer(self, model, inputs, **options):
        """What `generate` gives; greedy, four tokens, none of them special."""
        given = {"max_new_tokens": N_NEW, "do_sample": False, "suppress_tokens": list(SPECIAL), **options}
        if given["do_sample"] or "num_beams" in given:
            given.setdefault("remove_invalid_values", True)
        return self.compared(model, lambda m: m.generate(**inputs, **given))

    def entering(self, model, layer):
        """Visual tokens of an image that enter a layer."""
        handle = tokenprune.active_handle(model)
        if handle is None or handle.last is None:
            return self.family.n_image
        return handle.last.images[0].rows_entering(LAYERS)[layer]

    def stored(self, model, layer, seen, images=1):
        """Tokens that a layer stores of those seen."""
        return seen - images * (self.family.n_image - self.entering(model, layer))

    def check_pruned(self, model):
        """A run that prunes has pruned, in the layers where it should."""
        n = self.family.n_image
        late = self.mode.late
        assert [self.entering(model, i) for i in range(LAYERS)] == [
            n if late else self.mode.keep(n),
            self.mode.keep(n),
        ]

    def check_everything(self, model, out, inputs, images=1, copies=1, use_cache=True):
        """Shapes of all that a dictionary output holds; attention sums to one over what is stored."""
        rows, n_prompt = inputs["input_ids"].shape
        rows *= copies
        assert out.sequences.shape[1] == n_prompt + N_NEW
        for scores in (out.scores, out.logits):
            assert [tuple(one.shape) for one in scores] == [(rows, VOCABULARY)] * N_NEW
        assert len(out.hidden_states) == len(out.attentions) == N_NEW
        for i in range(N_NEW):
            whole = i == 0 or not use_cache
            n = n_prompt + i if whole else 1
            assert [tuple(one.shape) for one in out.hidden_states[i]] == [(rows, n, WIDTH)] * (LAYERS + 1)
            assert len(out.attentions[i]) == LAYERS
            for layer, attention in enumerate(out.attentions[i]):
                keys = self.stored(model, layer, n_prompt + i, images)
                assert attention.shape == (rows, HEADS, keys if whole else 1, keys), (i, layer)
                torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:-1]))
        if use_cache:
            seen = n_prompt + N_NEW - 1
            assert int(cache_in(out).get_seq_length()) == seen
            for layer, one in enumerate(cache_in(out).layers):
                shape = (rows, KV_HEADS, self.stored(model, layer, seen, images), WIDTH // HEADS)
                assert one.keys.shape == one.values.shape == shape, layer
