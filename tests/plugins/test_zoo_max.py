# SPDX-License-Identifier: Apache-2.0
"""zoo-max: ZOO-Prune with scores divided by their maximum, at original positions."""

import tiny_models
import torch

import tokenprune
from tokenprune.testing import example_tokens


def test_the_weights_are_the_scores_divided_by_the_largest():
    """Three tokens at distance 1 from each other: after the first, the larger score is next."""
    method, tokens = tokenprune.method("zoo-max"), example_tokens()
    scorer, selector = method.parts
    scores = torch.tensor([4.0, 2.0, 3.0])
    assert selector.weights(scores).tolist() == [1.0, 0.5, 0.75]
    by_hand = selector.select(tokens, scorer.score(tokens), keep=7)
    assert method.select(tokens, keep=7).indices.tolist() == by_hand.indices.tolist()


def test_it_differs_from_zoo_exact_only_in_weights_and_positions():
    own, exact = tokenprune.method("zoo-max"), tokenprune.method("zoo-exact")
    assert own.parts[0] == exact.parts[0]
    assert (own.scope, own.newlines, own.stage) == (exact.scope, exact.newlines, exact.stage)
    assert (own.positions, exact.positions) == ("original", None)


def test_kept_tokens_keep_their_positions():
    model, inputs = tiny_models.llava(), tiny_models.llava_inputs((3, "I", 5))

    def logits(method, **options):
        with tokenprune.apply(model, method=method, keep=5, **options), torch.no_grad():
            return model(**inputs).logits

    same = tokenprune.method("zoo-exact", normalise="max")
    own = logits("zoo-max")
    assert torch.equal(own, logits(same, positions="original"))
    assert not torch.allclose(own, logits(same, positions="contiguous"), atol=1e-3)
