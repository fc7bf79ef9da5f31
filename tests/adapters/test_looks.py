# SPDX-License-Identifier: Apache-2.0
"""From where a method looks at an image: the prompt's last token whatever it is, and text of the prompt."""

from types import SimpleNamespace

import pytest
import tiny_families
import tiny_models
import torch
from family_cases import REPEATS_WRONGLY
from model_cases import Case
from tokenprune_adapters.transformers.text import last_token, text_after

import tokenprune


def ranked(looks, is_image, n_images, row, keep=5):
    """The tokens of each image that a row of attention (L, L) looks at most."""
    slots = is_image.nonzero().squeeze(1).chunk(n_images)
    return [sorted(looks[row, at].topk(keep).indices.tolist()) for at in slots]


def kept(handle):
    return [sorted(image.kept.tolist()) for image in handle.last.images]


ENDS = [(2, "I", 4, "I"), (2, "I", "I"), (2, "I", 4, "I", 3), (4, "I")]


@pytest.mark.parametrize("parts", ENDS, ids=str)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_fastv_looks_from_the_last_token_of_the_prompt(parts, attention):
    inputs, stock = tiny_models.llava_inputs(parts, seed=3), tiny_models.llava("eager")
    looks = stock(**inputs, output_attentions=True).attentions[1][0].mean(0)  # layer 1, mean over heads
    model = tiny_models.llava(attention)
    with tokenprune.apply(model, method="fastv", layer=2, keep=5) as handle:
        model(**inputs)
        is_image = inputs["input_ids"][0] == tiny_models.IMAGE
        assert kept(handle) == ranked(looks, is_image, parts.count("I"), -1)


@pytest.mark.parametrize("parts", ENDS, ids=str)
def test_pyramiddrop_too(parts):
    """Its first cut, before layer 2, ranks by what layer 2 makes of the rows that enter it."""
    inputs, model = tiny_models.llava_inputs(parts, seed=3), tiny_models.llava("eager")
    looks = model(**inputs, output_attentions=True).attentions[2][0].mean(0)
    with tokenprune.apply(model, method="pyramiddrop", layer=2, keep=5) as handle:
        model(**inputs)
        is_image = inputs["input_ids"][0] == tiny_models.IMAGE
        assert kept(handle) == ranked(looks, is_image, parts.count("I"), -1)


@pytest.mark.parametrize("name", ["internvl", "llava_onevision"])
def test_on_other_families(name):
    inputs, model = tiny_families.inputs(name, (2, "I", 4, "I")), tiny_families.build(name, "eager")
    looks = model(**inputs, output_attentions=True).attentions[1][0].mean(0)
    with tokenprune.apply(model, method="fastv", layer=2, keep=5) as handle:
        model(**inputs)
        assert kept(handle) == ranked(looks, inputs["input_ids"][0] == tiny_models.IMAGE, 2, -1)


def test_on_qwen_whose_pictures_end_with_a_token_of_their_own():
    case = Case("qwen", "eager")
    inputs = case.inputs((2, ("I", 4, 4), 4, ("I", 4, 4)))[0]
    looks = case.model(**inputs, output_attentions=True).attentions[1][0].mean(0)
    with tokenprune.apply(case.model, method="fastv", layer=2, keep=5) as handle:
        case.model(**inputs)
        assert kept(handle) == ranked(looks, inputs["input_ids"][0] == tiny_models.IMAGE, 2, -1)


@pytest.mark.parametrize("method", ["fastv", "pyramiddrop"])
def test_in_a_padded_batch_and_by_generate(llava, method):
    batch = tiny_models.llava_inputs((2, "I", 4, "I"), (5, "I", 9, "I", 2), seed=3)
    options = {"max_new_tokens": 2, "do_sample": False}
    with tokenprune.apply(llava, method=method, keep=5) as handle:
        llava.generate(**batch, **options)
        together = kept(handle)
        llava.generate(**tiny_models.cut_row(batch, 0), **options, cache_implementation="static")
        assert kept(handle) == together[:2]
        if not REPEATS_WRONGLY:
            llava.generate(**tiny_models.cut_row(batch, 1), **options, num_beams=2)
            assert kept(handle)[:2] == together[2:]


class Looks(tokenprune.Scorer):
    """Scores by the rows of attention that are named."""

    name, needs, rows = "looks", frozenset({"attention_rows", "text_embeds"}), -1

    def score(self, tokens):
        n = type(self).n_text = len(tokens.signal("text_embeds"))
        rows = torch.as_tensor(self.rows if n > 1 else -1)  # after the last image there is no text
        asked = tokens.signal("attention_rows")(tokens.cut_layer - 1, rows)
        return asked.float().mean((0, 1))


@pytest.mark.parametrize(
    ("rows", "from_end"), [(-1, [-1]), ([-2], [-2]), ([0, 2], [-3, -1]), ([-1, -3], [-1, -3])]
)
def test_rows_of_attention_by_their_numbers(rows, from_end):
    """In a prompt that ends with text -1 is also the last row of the text."""
    inputs, model = tiny_models.llava_inputs((2, "I", 3), seed=3), tiny_models.llava("eager")
    looks = model(**inputs, output_attentions=True).attentions[1][0].mean(0)
    scorer = Looks()
    scorer.rows = rows
    with tokenprune.apply(model, scorer=scorer, stage="decoder", layer=2, keep=5) as handle:
        model(**inputs)
        slots = inputs["input_ids"][0] == tiny_models.IMAGE
        want = looks[from_end][:, slots].mean(0)
        assert sorted(handle.last.images[0].kept.tolist()) == sorted(want.topk(5).indices.tolist())
    assert Looks.n_text == 3


def test_minus_one_is_the_last_token_and_other_numbers_count_text():
    """A prompt that ends with an image: -1 is a row of that, 3 the last row of the text between."""
    inputs, model = tiny_models.llava_inputs((2, "I", 4, "I"), seed=3), tiny_models.llava("eager")
    looks = model(**inputs, output_attentions=True).attentions[1][0].mean(0)
    is_image = inputs["input_ids"][0] == tiny_models.IMAGE
    last_text = int((~is_image).nonzero().max())
    for rows, row in ((-1, -1), (3, last_text), (-2, last_text - 1)):
        scorer = Looks()
        scorer.rows = rows
        with tokenprune.apply(model, scorer=scorer, stage="decoder", layer=2, keep=5) as handle:
            model(**inputs)
            assert kept(handle)[0] == ranked(looks, is_image, 2, row)[0]


# -- text.py by hand


def image(row, *slots):
    return SimpleNamespace(span=SimpleNamespace(row=row, slots=torch.tensor(slots)))


def call(n, real=None, sequences=None, answers=None):
    return SimpleNamespace(n_new=n, real=real, sequences=sequences, answers=answers)


def test_text_is_what_follows_an_image_and_is_of_none():
    first, second, other = image(0, 1, 2), image(0, 5, 6), image(1, 3, 4)
    images = [first, second, other]
    assert text_after(images, first, call(9)).tolist() == [3, 4, 7, 8]
    assert text_after(images, second, call(9)).tolist() == [7, 8]
    assert last_token(first, call(9)).tolist() == [8]


def test_padding_on_either_side_is_no_text():
    real = torch.tensor([[0, 1, 1, 1, 1, 1, 0, 0]]).bool()
    assert text_after([image(0, 2, 3)], image(0, 2, 3), call(8, real)).tolist() == [4, 5]
    assert last_token(image(0, 2, 3), call(8, real)).tolist() == [5]


def test_without_text_after_it_the_last_token_is_looked_from():
    first, second = image(0, 1, 2), image(0, 3, 4)
    assert text_after([first, second], second, call(5)).tolist() == [4]
    assert text_after([first, second], first, call(5)).tolist() == [4]


def test_an_answer_ends_the_prompt_of_the_images_before_it():
    """Image, question 3 4, answer 5, image 6 7, question 8, answer 9."""
    answers = torch.zeros(1, 10).bool()
    answers[0, [5, 9]] = True
    first, second = image(0, 1, 2), image(0, 6, 7)
    seen = call(10, answers=answers)
    assert text_after([first, second], first, seen).tolist() == [3, 4]
    assert last_token(first, seen).tolist() == [4]
    assert text_after([first, second], second, seen).tolist() == [8]
    assert last_token(second, seen).tolist() == [8]


def test_where_everything_is_to_be_predicted_an_image_ends_its_prompt():
    everything = call(6, answers=torch.ones(1, 6).bool())
    assert text_after([image(0, 1, 2)], image(0, 1, 2), everything).tolist() == [2]
    assert last_token(image(0, 1, 2), everything).tolist() == [2]


def test_other_packed_samples_are_not_looked_at_or_from():
    sequences = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]])
    first, second = image(0, 1, 2), image(0, 5, 6)
    seen = call(8, sequences=sequences)
    assert text_after([first, second], first, seen).tolist() == [3]
    assert last_token(first, seen).tolist() == [3]
    assert last_token(second, seen).tolist() == [7]
