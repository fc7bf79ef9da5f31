# SPDX-License-Identifier: Apache-2.0
import torch
from reference import golden

import tokenprune


def test_golden_picks_and_order():
    vectors = golden.load("cdpruner_n64_T24")
    signals = {
        "clip_patch_embeds": vectors["image_embeds"][0],
        "clip_text_embeds": vectors["text_embeds"],
    }
    tokens = tokenprune.VisualTokens(vectors["projected"][0], signals)
    chosen = tokenprune.method("cdpruner").select(tokens, keep=int(vectors["T"]))
    assert chosen.order.tolist() == vectors["order"][0].tolist() == vectors["order_f64"][0].tolist()
    assert chosen.indices.tolist() == vectors["mask"][0].nonzero().squeeze(-1).tolist()


def test_is_relevance_and_dpp():
    method = tokenprune.method("cdpruner").resolved()
    assert (method.scorer.name, method.selector.name, method.reducer) == ("relevance", "dpp", None)
    assert (method.scope, method.newlines) == ("tile", "drop")


def test_the_variant_without_clip_needs_the_text_alone():
    generator = torch.Generator().manual_seed(0)
    tokens = tokenprune.VisualTokens(
        torch.randn(40, 16, generator=generator), {"text_embeds": torch.randn(7, 16, generator=generator)}
    )
    chosen = tokenprune.method("cdpruner", source="language").select(tokens, keep=10)
    assert chosen.order[0] == chosen.scores.argmax()
    assert len(set(chosen.order.tolist())) == 10
