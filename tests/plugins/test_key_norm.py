# SPDX-License-Identifier: Apache-2.0
import torch

import tokenprune


def test_is_the_l1_norm_over_heads_and_coordinates_in_the_layer_just_run():
    asked = []

    def keys(layer):
        asked.append(layer)
        return torch.tensor([[[1.0, -2.0], [0.0, 0.5]], [[3.0, 0.0], [-1.0, 1.0]]])  # (H=2, N=2, d=2)

    tokens = tokenprune.VisualTokens(torch.zeros(2, 4), {"keys": keys}, layer=2)
    assert tokenprune.scorer("key-norm").score(tokens).tolist() == [6.0, 2.5]
    assert asked == [1]
