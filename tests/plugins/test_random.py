# SPDX-License-Identifier: Apache-2.0
import torch
from tokenprune_plugins.random import RandomScorer

import tokenprune


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    tokens = tokenprune.VisualTokens(torch.zeros(50, 3))
    state = torch.get_rng_state()
    scores = RandomScorer(seed=5).score(tokens)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(scores, RandomScorer(seed=5).score(tokens))
    assert not torch.equal(scores, RandomScorer(seed=6).score(tokens))
    assert 0 <= scores.min() and scores.max() < 1


def test_an_image_gets_the_same_scores_alone_and_in_a_stack():
    alone = RandomScorer().score(tokenprune.VisualTokens(torch.zeros(9, 3)))
    stack = RandomScorer().score(tokenprune.VisualTokens(torch.zeros(4, 9, 3)))
    assert torch.equal(stack, alone.expand(4, 9))


def test_the_method_keeps_each_token_about_equally_often():
    tokens = tokenprune.VisualTokens(torch.zeros(20, 3))
    counts = torch.zeros(20)
    for seed in range(400):
        counts[tokenprune.method("random", seed=seed).select(tokens, keep=5).indices] += 1
    assert counts.sum() == 2000
    assert 60 < counts.min() and counts.max() < 140  # 100 expected, standard deviation 8.7
