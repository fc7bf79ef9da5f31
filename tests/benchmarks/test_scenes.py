# SPDX-License-Identifier: Apache-2.0
"""The scenes: reproducible, answerable, balanced, and split so that training never sees what is held out."""

import re
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from benchmarks.scenes import FAMILIES, ask, draw_scene, held_out_scenes
from benchmarks.scenes.palette import COLORS, DISTRACTOR_COLORS, PLURALS, shape_mask
from benchmarks.scenes.patch_labels import GRID_SIDE, label_patches
from benchmarks.scenes.scene import IMAGE_SIDE, MAX_COUNT, PATCH_SIDE
from benchmarks.scenes.splits import (
    HELD_OUT_SEEDS,
    PHASES,
    TRAINING_SEEDS,
    VALIDATION_SEEDS,
    scene_from_seed,
    training_scene_seed,
    validation_scenes,
)
from benchmarks.scenes.vocabulary import VOCABULARY, encode_words

SINGULAR = {plural: shape for shape, plural in PLURALS.items()}


@pytest.fixture(scope="module")
def scenes():
    return list(validation_scenes(400, start=1000))


def matching(scene, color=None, shape=None):
    return [o for o in scene.objects if color in (None, o.color) and shape in (None, o.shape)]


def hue_likeness(one, other):
    """Cosine of the angle between two colours: brightness varies from object to object."""
    return np.dot(one, other) / np.linalg.norm(one) / np.linalg.norm(other)


def answer_by_hand(scene, text):
    """Read the question with patterns and answer it from the list of objects, not with the product's code."""
    if m := re.fullmatch(r"what color is the (\w+) \?", text):
        (thing,) = matching(scene, shape=m[1])
        return thing.color
    if m := re.fullmatch(r"what shape is the (\w+) object \?", text):
        (thing,) = matching(scene, color=m[1])
        return thing.shape
    if m := re.fullmatch(r"is there a (\w+) (\w+) \?", text):
        return "yes" if matching(scene, m[1], m[2]) else "no"
    if m := re.fullmatch(r"how many (\w+) objects \?", text):
        return str(len(matching(scene, color=m[1])))
    if m := re.fullmatch(r"how many (\w+) \?", text):
        return str(len(matching(scene, shape=SINGULAR[m[1]])))
    if m := re.fullmatch(r"where is the (\w+) (\w+) \?", text):
        (thing,) = matching(scene, m[1], m[2])
        row, column = (int(v * 3 / 96) for v in thing.center)
        return f"{('top', 'middle', 'bottom')[row]} {('left', 'center', 'right')[column]}"
    if m := re.fullmatch(r"what number is on the (light|dark) sign \?", text):
        (sign,) = [s for s in scene.signs if s.is_light == (m[1] == "light")]
        return str(sign.number)
    (sign,) = scene.signs  # all other questions speak of the only sign
    if text == "what number is written ?":
        return str(sign.number)
    place = {"what is the first digit ?": 0, "what is the last digit ?": 1}[text]
    return f"{sign.number:02d}"[place]


def test_a_seed_decides_the_scene_and_its_questions():
    first, first_questions = scene_from_seed(5)
    again, again_questions = scene_from_seed(5)
    other, _ = scene_from_seed(6)
    assert np.array_equal(first.image, again.image)
    assert first.objects == again.objects and first.signs == again.signs
    assert first_questions == again_questions
    assert not np.array_equal(first.image, other.image)


def test_drawing_other_scenes_in_between_changes_nothing():
    (alone,) = (scene for scene, _ in held_out_scenes(1, start=7))
    in_a_row = [scene for scene, _ in held_out_scenes(8)][7]
    assert np.array_equal(alone.image, in_a_row.image)


def test_the_public_functions_draw_from_the_generator_they_are_given():
    one, two = np.random.default_rng(1), np.random.default_rng(1)
    scene = draw_scene(one)
    assert np.array_equal(scene.image, draw_scene(two).image)
    assert ask(one, scene) == ask(two, scene)
    assert not np.array_equal(draw_scene(one).image, scene.image)


def test_a_scene_is_a_square_picture(scenes):
    scene, _ = scenes[0]
    assert scene.image.shape == (IMAGE_SIDE, IMAGE_SIDE, 3) and scene.image.dtype == np.uint8


def test_every_answer_is_right_by_hand_count(scenes):
    for scene, questions in scenes:
        for question in questions:
            assert question.answer == answer_by_hand(scene, question.text), question


def test_no_question_is_asked_twice_about_a_scene(scenes):
    for _, questions in scenes:
        texts = [question.text for question in questions]
        assert len(set(texts)) == len(texts)


def test_no_answer_stands_in_its_question(scenes):
    for _, questions in scenes:
        for question in questions:
            assert not set(question.answer.split()) & set(question.text.split()), question


def test_all_families_are_asked_and_only_those(scenes):
    seen = Counter(question.family for _, questions in scenes for question in questions)
    assert set(seen) == set(FAMILIES)
    assert min(seen.values()) > 0.1 * seen.total()


def test_counts_run_from_0_to_4_in_about_equal_parts(scenes):
    seen = Counter(q.answer for _, questions in scenes for q in questions if q.family == "counting")
    assert set(seen) == {"0", "1", "2", "3", "4"}
    assert all(0.14 < n / seen.total() < 0.26 for n in seen.values()), seen


def test_no_color_or_shape_occurs_more_often_than_can_be_answered(scenes):
    for scene, _ in scenes:
        for values in (Counter(o.color for o in scene.objects), Counter(o.shape for o in scene.objects)):
            assert max(values.values()) <= MAX_COUNT


def test_yes_and_no_are_balanced_and_most_negatives_are_hard(scenes):
    asked = [(scene, q) for scene, questions in scenes for q in questions if q.family == "existence"]
    negatives = [(scene, q) for scene, q in asked if q.answer == "no"]
    assert 0.4 < len(negatives) / len(asked) < 0.6
    hard = 0
    for scene, question in negatives:
        color, shape = question.text.split()[3:5]
        hard += bool(matching(scene, color=color)) and bool(matching(scene, shape=shape))
    assert hard / len(negatives) > 0.5


def test_where_is_never_near_a_border_between_two_answers(scenes):
    for scene, questions in scenes:
        for question in questions:
            if question.family == "spatial":
                (thing,) = matching(scene, *question.text.split()[3:5])
                assert all(abs(v - border) >= PATCH_SIDE / 2 for v in thing.center for border in (32, 64))


def test_two_signs_are_told_apart_by_tone(scenes):
    pairs = [scene.signs for scene, _ in scenes if len(scene.signs) == 2]
    assert pairs
    assert all(one.is_light != other.is_light for one, other in pairs)


def test_the_number_of_signs_can_be_asked_for():
    for n in (0, 1, 2):
        assert {len(draw_scene(np.random.default_rng(seed), n).signs) for seed in range(20)} == {n}
    with pytest.raises(ValueError, match="n_signs must be 0, 1, 2 or None, got 3"):
        draw_scene(np.random.default_rng(0), 3)


def test_things_do_not_overlap(scenes):
    for scene, _ in scenes:
        taken = np.zeros((IMAGE_SIDE, IMAGE_SIDE), int)
        for thing in scene.objects + scene.distractors:
            taken[thing.top : thing.top + thing.size, thing.left : thing.left + thing.size] += 1
        for sign in scene.signs:
            taken[sign.top : sign.top + 18, sign.left : sign.left + 24] += 1
        assert taken.max() <= 1


def test_objects_are_painted_where_they_are_listed(scenes):
    for scene, _ in scenes[:100]:
        for thing in scene.objects:
            solid = shape_mask(thing.shape, thing.size) == 1
            spot = scene.image[thing.top : thing.top + thing.size, thing.left : thing.left + thing.size]
            painted = spot[solid].mean(0)
            nearest = max(COLORS, key=lambda name: hue_likeness(painted, COLORS[name]))
            assert nearest == thing.color


def test_distractors_are_never_asked_about(scenes):
    assert any(scene.distractors for scene, _ in scenes)
    assert not {*DISTRACTOR_COLORS, "ring", "diamond"} & set(VOCABULARY)
    for scene, _ in scenes:
        assert {thing.color for thing in scene.distractors} <= set(DISTRACTOR_COLORS)


def test_some_objects_are_a_single_token_and_some_are_many(scenes):
    sizes = Counter(o.size for scene, _ in scenes for o in scene.objects)
    assert sizes[PATCH_SIDE] > 0.2 * sizes.total()
    assert sizes[32] and sizes[40]


def test_patch_labels_show_each_object_where_it_is(scenes):
    for scene, _ in scenes[:50]:
        labels = label_patches(scene)
        assert labels.center.sum() == len(scene.objects)
        color = labels.color.reshape(GRID_SIDE, GRID_SIDE)
        for thing in scene.objects:
            row, column = (int(v // PATCH_SIDE) for v in thing.center)
            assert list(COLORS)[color[row, column] - 1] == thing.color
        if not scene.signs:
            assert not labels.tens.any() and not labels.units.any() and not labels.sign.any()


def test_seed_ranges_are_disjoint_and_training_stays_in_its_own():
    for one, other in ((TRAINING_SEEDS, VALIDATION_SEEDS), (VALIDATION_SEEDS, HELD_OUT_SEEDS)):
        assert one.stop <= other.start
    last = training_scene_seed(127, "language", 2**22 - 1)
    assert last in TRAINING_SEEDS
    blocks = [
        (training_scene_seed(s, phase, 0), training_scene_seed(s, phase, 2**22 - 1))
        for s in range(128)
        for phase in PHASES
    ]
    assert all(before[1] < after[0] for before, after in zip(blocks, blocks[1:], strict=False))
    for seed, index in ((128, 0), (0, 2**22), (-1, 0)):
        with pytest.raises(ValueError, match="expected a seed below 128"):
            training_scene_seed(seed, "tower", index)


def test_held_out_scenes_come_from_the_held_out_range():
    scene, questions = next(held_out_scenes(1, start=3))
    expected, expected_questions = scene_from_seed(2**31 + 3)
    assert np.array_equal(scene.image, expected.image) and questions == expected_questions
    with pytest.raises(ValueError, match="scenes -1 to 0"):
        held_out_scenes(1, start=-1)


def test_held_out_scenes_are_drawn_as_they_are_needed():
    assert len(list(islice(held_out_scenes(10**6), 2))) == 2


def test_every_word_of_questions_and_answers_is_in_the_vocabulary(scenes):
    assert len(set(VOCABULARY)) == len(VOCABULARY)
    for _, questions in scenes:
        for question in questions:
            encode_words(question.text)
            encode_words(question.answer)


def test_an_unknown_shape_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown shape 'blob'.*circle"):
        shape_mask("blob", 8)
