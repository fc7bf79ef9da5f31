# SPDX-License-Identifier: Apache-2.0
"""A decoder-stage cut by hand: the layers called one after the other on each group's rows and positions.

One row, no cache, no hooks; attention rows from an explicit softmax over all keys.
"""

import torch
from tiny_models import EOS
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, repeat_kv

import tokenprune
from reference.kept_rows import entered


def explicit_attention(layer, hidden, cos, sin):
    """Attention probabilities (H, P, P) and keys (H_kv, P, d) of one layer, causal, float32."""
    attention, x = layer.self_attn, layer.input_layernorm(hidden)
    shape = (*x.shape[:-1], -1, attention.head_dim)
    query = attention.q_proj(x).view(shape).transpose(1, 2)
    key = attention.k_proj(x).view(shape).transpose(1, 2)
    query, key = apply_rotary_pos_emb(query, key, cos, sin)
    logits = query @ repeat_kv(key, attention.num_key_value_groups).mT * attention.scaling
    causal = torch.ones(logits.shape[-2:], dtype=torch.bool).tril()
    return logits.masked_fill(~causal, -torch.inf).softmax(-1)[0], key[0]


def slots_of_new_rows(indices, n):
    """Each new row (-1) gets the next free one of n slots after that of the row before it, in a circle."""
    slots = indices.tolist()
    for i, slot in enumerate(slots):
        if slot < 0:
            after = slots[i - 1] + 1 if i else 0
            slots[i] = next(s % n for s in range(after, after + n) if s % n not in slots)
    return slots


class Decoder:
    """The layers of a tiny language model, with cuts; `places` (A, P) are positions on one axis or three.

    With `trims`, tokens of the answer see in no layer what was dropped of the prompt.
    """

    def __init__(self, model, method, keep, positions, places, layout=None, trims=False):
        self.trims = trims
        self.method, self.keep, self.positions, self.places = method.resolved(), keep, positions, places
        self.layout = layout  # of the whole image
        self.language = model.model.language_model
        self.decisions = {}

    def rotary(self, hidden, places):
        """Cosines and sines (1, P, d)."""
        return self.language.rotary_emb(hidden, places if len(places) == 1 else places[:, None])

    def run(self, embeds, visual, n_prompt):
        """Hidden rows after the last layer; `visual` are the image's slots among the first `n_prompt` rows.

        The first run decides what is dropped; later runs, on longer sequences, keep to it.
        """
        language, hidden = self.language, embeds
        later = self.places.max() + 1 + torch.arange(embeds.shape[1] - n_prompt)
        places = torch.cat([self.places, later.expand(len(self.places), -1)], 1)
        cuts = self.method.schedule.cuts(self.keep, len(visual), len(language.layers), self.method.budget)
        image = visual  # where the image's rows stand now
        text = torch.arange(int(visual.max()) + 1, n_prompt)
        prompt = n_prompt
        attended, origin = None, torch.arange(embeds.shape[1])
        gone = self.dropped(visual) if self.trims else visual[:0]
        for i, layer in enumerate(language.layers):
            if i in cuts and cuts[i] < len(image):
                if i not in self.decisions:
                    self.decisions[i] = self.decide(
                        i, hidden, places, image, text, attended, embeds, visual, cuts[i]
                    )
                origin = self.origin_after(i, origin, image)
                hidden, places, image, text, prompt = self.drop(i, hidden, places, image, text, prompt)
            cos, sin = self.rotary(hidden, places)
            attended = explicit_attention(layer, hidden, cos, sin)
            mask = torch.ones(1, 1, hidden.shape[1], hidden.shape[1], dtype=torch.bool).tril()
            mask[:, :, prompt:, torch.isin(origin, gone)] = False
            if layer.self_attn.config._attn_implementation == "eager":
                mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
            hidden = layer(hidden, attention_mask=mask, position_embeddings=(cos, sin))
        return language.norm(hidden)

    def dropped(self, visual):
        """The image's slots that no cut left, of all cuts that were decided."""
        left = visual
        for i in sorted(self.decisions):
            left = left[self.decisions[i].indices]
        return visual[~torch.isin(visual, left)]

    def origin_after(self, i, origin, image):
        """Which of all tokens each row is, (P,), after the cut before layer `i`."""
        kept = origin[image][self.decisions[i].indices]
        return torch.cat([origin[: int(image.min())], kept, origin[int(image.max()) + 1 :]])

    def decide(self, i, hidden, places, image, text, attended, embeds, visual, keep):
        """What the method picks before layer `i`, from signals made by hand."""
        language = self.language
        began = torch.arange(int(visual.max()) + 1, int(visual.max()) + 1 + len(text))

        def attention_rows(layer, rows):
            if layer == i:  # the layer about to run
                cos, sin = self.rotary(hidden, places)
                table = explicit_attention(language.layers[i], hidden, cos, sin)[0]
            else:
                assert layer == i - 1
                table = attended[0]
            return table[:, text[torch.as_tensor(rows).reshape(-1)]][:, :, image]

        def rotary(positions):
            cos, sin = self.rotary(hidden, positions if positions.ndim == 2 else positions[None])
            return cos[0], sin[0]

        signals = {
            "attention_rows": attention_rows,
            "keys": lambda layer: attended[1][:, image],
            "text_keys": lambda layer: attended[1][:, text],
            "hidden": lambda layer: hidden[0, image],
            "text_hidden": lambda layer: hidden[0, text],
            "final_norm": language.norm,
            "input_features": embeds[0, visual],
            "text_embeds": embeds[0, began],
            "position_ids": places[:, image].squeeze(0),
            "text_position_ids": places[:, text].squeeze(0),
            "rotary": rotary,
        }
        layout = self.layout if len(image) == len(visual) else None
        tokens = tokenprune.VisualTokens(hidden[0, image], signals, layout)
        return self.method.select(tokens, keep, layer=i)

    def drop(self, i, hidden, places, image, text, prompt):
        """Apply a decision: the image's rows become the chosen ones, in their order."""
        chosen = self.decisions[i]
        rows = hidden[0, image][chosen.indices.clamp(min=0)]
        if chosen.features is not None:
            new = chosen.indices < 0
            rows[new] = chosen.features[new]
        first, last = int(image.min()), int(image.max())
        assert last - first + 1 == len(image)
        kept_places = places[:, image][:, slots_of_new_rows(chosen.indices, len(image))]
        hidden = torch.cat([hidden[:, :first], rows[None], hidden[:, last + 1 :]], 1)
        places = torch.cat([places[:, :first], kept_places, places[:, last + 1 :]], 1)
        if self.positions == "contiguous":
            places = torch.arange(places.shape[1])[None]
        gone = len(image) - len(rows)
        return hidden, places, first + torch.arange(len(rows)), text - gone, prompt - gone


def generate(model, inputs, method, keep, positions, n_new, layout=None, trims=False):
    """Greedy decoding of one row with one image of a layout: tokens, logits, the decisions by layer."""
    ids = inputs["input_ids"]
    visual = (ids[0] == model.config.image_token_id).nonzero().squeeze(1)
    given = entered(model, inputs)
    embeds, places = given["inputs_embeds"], given.get("position_ids")
    if places is None or places.ndim == 2:
        places = torch.arange(ids.shape[1])[None]
    else:  # Qwen: rows for three axes, in some versions behind one for text
        places = places[-3:, 0]
    decoder = Decoder(model, method, keep, positions, places, layout, trims)
    tokens, seen = [], []
    for _ in range(n_new):
        out = decoder.run(embeds, visual, ids.shape[1])
        seen.append(model.lm_head(out)[0, -1])
        tokens.append(int(seen[-1].argmax()))
        if tokens[-1] == EOS:
            break
        embeds = torch.cat([embeds, model.get_input_embeddings()(torch.tensor([[tokens[-1]]]))], 1)
    return tokens, torch.stack(seen), decoder.decisions
