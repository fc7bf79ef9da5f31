# SPDX-License-Identifier: Apache-2.0
"""The official algorithms restated for the clock: they choose what the official ones choose."""

import pytest
import torch

from benchmarks.official import algorithms as official
from benchmarks.official.sentences import official_lines


def test_the_official_loop_and_ours_pick_the_same():
    result = official.compare_picks(torch.device("cpu"), n=60, keep=20, width=8)
    assert result["same_picks"]
    assert result["what"] == "picking 20 of 60 tokens of width 8"
    assert result["times_faster"] == pytest.approx(
        result["official_seconds"] / result["ours_seconds"], abs=0.006
    )


def test_the_official_loop_is_the_papers():
    from reference import diversity

    generator = torch.Generator().manual_seed(3)
    features, weights = torch.randn(30, 6, generator=generator), torch.rand(30, generator=generator)
    distance = torch.tensor(diversity.cosine_distance(features))
    scaled = (weights - weights.min()) / (weights.max() - weights.min())
    assert official.official_picks(distance, scaled, 12).tolist() == diversity.zoo_prune(
        features, weights, 12
    )


def test_the_official_sensitivity_is_the_papers():
    from reference import sensitivity

    generator = torch.Generator().manual_seed(4)
    projector = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.GELU(), torch.nn.Linear(7, 6)).double()
    rows = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    bank = torch.nn.functional.normalize(torch.randn(11, 5, generator=generator, dtype=torch.float64), dim=-1)
    with torch.no_grad():
        ours = official.official_sensitivity(projector, rows, bank)
        slow = sensitivity.sampled(projector, rows, bank, 0.01)
    torch.testing.assert_close(ours.double(), slow, rtol=1e-5, atol=0)


def test_scores_are_compared_with_the_official_algebra():
    result = official.compare_scores(torch.device("cpu"), n=6, tower=5, width=8, directions=9)
    ratio = result["official_seconds"] / result["zoo_exact_seconds"]
    assert result["zoo_exact_times_faster"] == pytest.approx(ratio, abs=0.006)
    (line,) = official_lines({"official": [result]})
    assert line.startswith("scoring 6 tokens, projector 5-8-8, 9 directions: official algebra")
