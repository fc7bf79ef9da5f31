# SPDX-License-Identifier: Apache-2.0
import torch
from tokenprune_outlier import OutlierScorer

import tokenprune
from tokenprune.testing import check_scorer


def test_keeps_the_contract():
    check_scorer(OutlierScorer())


def test_the_odd_token_scores_highest():
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    scores = OutlierScorer().score(tokenprune.VisualTokens(features))
    assert scores.argmax() == 2
