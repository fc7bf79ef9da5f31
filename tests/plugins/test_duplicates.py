# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import duplicates as slow
from tokenprune_plugins.duplicates import not_predicted

import tokenprune
from tokenprune import Layout, Method, VisualTokens


def picture(*frames):
    """Tokens of one pixel each, from frames of words: a letter a token."""
    rows = torch.tensor([[[ord(letter) for letter in line] for line in frame.split()] for frame in frames])
    return tokens_of(rows.unsqueeze(-1).float())


def tokens_of(pixels):
    t, h, w, _ = pixels.shape
    features = torch.randn(t * h * w, 3, generator=torch.Generator().manual_seed(0))
    return VisualTokens(features, {"pixels": pixels.flatten(0, 2)}, Layout((t, h, w)))


def slots(tokens, keep=None, scores=None, **options):
    selector = tokenprune.selector("duplicates", **options)
    chosen = selector.select(tokens, scores, len(tokens) if keep is None else keep)
    assert torch.equal(chosen.indices, chosen.order.sort().values)
    return chosen.indices.tolist()


@pytest.mark.parametrize(
    ("frame", "kept"),
    [
        ("a", [0]),
        ("aaa aaa", [0]),
        ("aab aab", [0, 2]),  # a vertical edge: the corner equals the left, so the upper token predicts
        ("aaa bbb", [0, 3]),  # a horizontal one: the left token predicts
        ("aaa aba aaa", [0, 4, 5, 7]),  # a spot costs itself, and the tokens on its right and below it
        ("aa ba", [0, 2, 3]),  # equal to the upper token, but the left one predicts
        ("aab abb", [0, 2, 4]),  # an edge that moves to the left
        ("abc abc abc", [0, 1, 2]),
        ("abab", [0, 1, 2, 3]),  # neighbours only
    ],
)
@pytest.mark.parametrize("tolerance", [0.0, 0.5])
def test_by_hand(frame, kept, tolerance):
    assert slots(picture(frame), tolerance=tolerance) == kept


def test_frames_are_predicted_on_their_own():
    assert slots(picture("aab aab", "aab aab")) == [0, 2, 6, 8]
    assert slots(picture("aab aab", "aab aab"), tolerance=0.5) == [0, 2, 6, 8]


def test_small_differences_do_not_add_up():
    ramp = tokens_of(torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4]).view(1, 1, 5, 1))
    assert slots(ramp, tolerance=0.15) == [0, 2, 4]  # not [0]: each is close to the one before
    assert slots(ramp, tolerance=0.25) == [0, 3]
    assert slots(ramp) == [0, 1, 2, 3, 4]


def test_every_pixel_of_a_token_has_to_be_within_the_tolerance():
    pixels = torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.1, 0.1], [0.0, 0.0, 0.4]]).view(1, 1, 3, 3)
    assert slots(tokens_of(pixels), tolerance=0.2) == [0, 2]


DRAWN = st.tuples(st.integers(0, 2**31), st.integers(1, 2), st.integers(1, 7), st.integers(1, 7))


def drawn(seed, frames, height, width, noise=0.0):
    """A picture of few kinds of tokens, with noise."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randn(3, 4, generator=generator)
    numbers = torch.randint(0, 3, (frames, height, width), generator=generator)
    return kinds[numbers] + noise * torch.rand(frames, height, width, 4, generator=generator)


@settings(deadline=None)
@given(DRAWN)
def test_equals_the_slow_reference(drawing):
    pixels = drawn(*drawing)
    assert not_predicted(pixels).flatten().nonzero().squeeze(1).tolist() == slow.kept(pixels, 0)
    assert torch.equal(not_predicted(pixels, 1e-9), not_predicted(pixels))


@settings(deadline=None)
@given(DRAWN, st.floats(0.01, 3), st.floats(0, 1))
def test_equals_the_slow_reference_with_a_tolerance(drawing, tolerance, noise):
    pixels = drawn(*drawing, noise)
    kept = not_predicted(pixels, tolerance).flatten().nonzero().squeeze(1).tolist()
    assert kept == slow.kept(pixels, tolerance)


@settings(deadline=None)
@given(DRAWN, st.sampled_from([0.0, 0.1, 0.5, 2.0]), st.floats(0, 1))
def test_the_picture_can_be_restored_within_the_tolerance_from_what_is_kept(drawing, tolerance, noise):
    pixels = drawn(*drawing, noise)
    kept = set(not_predicted(pixels, tolerance).flatten().nonzero().squeeze(1).tolist())
    assert ((slow.restored(pixels, kept, tolerance) - pixels).abs() <= tolerance).all()


def test_half_precision_is_compared_as_it_is():
    pixels = drawn(0, 1, 6, 7)
    assert torch.equal(not_predicted(pixels.bfloat16()), not_predicted(pixels))
    assert torch.equal(not_predicted(pixels.bfloat16(), 0.01), not_predicted(pixels, 0.01))


def test_too_many_are_chosen_from_by_diversity_of_their_pixels():
    tokens = tokens_of(drawn(3, 1, 5, 5, noise=0.2))
    kept = torch.tensor(slots(tokens, tolerance=0.1))
    assert len(kept) > 4
    rows = VisualTokens(tokens.signal("pixels")[kept])
    scores = torch.rand(25, generator=torch.Generator().manual_seed(1))
    for given_scores, their_scores in ((None, None), (scores, scores[kept])):
        order = tokenprune.selector("diverse").select(rows, their_scores, 4).order
        for fill in (False, True):
            selector = tokenprune.selector("duplicates", tolerance=0.1, fill=fill)
            assert selector.select(tokens, given_scores, 4).order.tolist() == kept[order].tolist()


def test_too_few_are_filled_up_with_evenly_spaced_others_or_the_best():
    tokens = picture("aaaa aaaa")
    assert slots(tokens, 4) == [0]
    assert slots(tokens, 4, fill=True) == [0, 2, 4, 6]  # the midpoints of three parts of 1 ... 7
    scores = torch.tensor([0.0, 5, 0, 0, 0, 9, 0, 1])
    assert slots(tokens, 3, scores, fill=True) == [0, 1, 5]
    assert slots(tokens, 8, fill=True) == list(range(8))


@pytest.mark.parametrize("fill", [False, True])
def test_in_a_method_a_budget_of_all_tokens_drops_the_duplicates_only(fill):
    selector = tokenprune.selector("duplicates", fill=fill)
    method = Method("m", scorer="uniform", selector=selector)
    tokens = picture("aab aab")
    kept = method.select(tokens, 100).indices.tolist()
    assert kept == (list(range(6)) if fill else [0, 2])
    assert method.adaptive is not fill
    assert method.n_keep(tokens.layout, 4) == (4 if fill else None)
    assert method.needs == {"pixels"}


def test_each_frame_keeps_a_token():
    method = Method("m", scorer="uniform", selector="duplicates")
    assert method.select(picture("aa", "aa", "ab"), 100).indices.tolist() == [0, 2, 4, 5]
    frames = {slot // 2 for slot in method.select(picture("ab", "cd", "ee"), 3).indices.tolist()}
    assert frames == {0, 1, 2}


@pytest.mark.parametrize("tolerance", [-0.1, math.nan, math.inf])
def test_a_tolerance_that_is_none_is_refused(tolerance):
    with pytest.raises(tokenprune.OptionError, match=f"finite number of at least 0, got {tolerance}"):
        tokenprune.selector("duplicates", tolerance=tolerance)


def test_tokens_without_pixels_are_refused_by_name():
    with pytest.raises(tokenprune.IncompatibleError, match="the signal 'pixels' is required"):
        tokenprune.selector("duplicates").select(VisualTokens(torch.eye(4)), None, 2)
