# SPDX-License-Identifier: Apache-2.0
import torch

import tokenprune


def test_has_no_opinion():
    tokens = tokenprune.VisualTokens(torch.zeros(4, 3))
    assert tokenprune.scorer("uniform").score(tokens) is None


def test_stride_keeps_an_evenly_spaced_grid():
    tokens = tokenprune.VisualTokens(torch.zeros(8, 3))
    chosen = tokenprune.method("stride").select(tokens, keep=4)
    assert chosen.indices.tolist() == [1, 3, 5, 7]
    assert chosen.scores is None
