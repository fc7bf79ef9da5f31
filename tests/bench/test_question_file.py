# SPDX-License-Identifier: Apache-2.0
"""Question files: what is read, and that a bad line is named with what is wrong."""

import json

import pytest
from PIL import Image
from tokenprune_bench.evaluation.question_file import FileQuestion, QuestionFileError, read_questions

GOOD = {"image": "a.png", "question": "what ?", "answer": "red"}


@pytest.fixture
def written(tmp_path):
    """Return a function that writes lines (text, or what becomes JSON) beside a picture."""
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    (tmp_path / "words.png").write_text("no image")

    def write(*lines):
        path = tmp_path / "questions.jsonl"
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        path.write_text(text + "\n", encoding="utf-8")
        return path

    return write


def test_what_is_read(written, tmp_path):
    vqa = {"image": "a.png", "question": "who ?", "answers": ["a", "b"], "metric": "vqa_accuracy"}
    pope = {**GOOD, "answer": "no", "metric": "yes_no_f1", "image": str(tmp_path / "a.png")}
    image = tmp_path / "a.png"
    assert read_questions(written(GOOD, "", vqa, pope)) == [
        FileQuestion(image, "what ?", ("red",), "exact_match"),
        FileQuestion(image, "who ?", ("a", "b"), "vqa_accuracy"),
        FileQuestion(image, "what ?", ("no",), "yes_no_f1"),
    ]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"image": }', "no valid JSON: Expecting value at character 11"),
        ([1], "a question is a JSON object, not list"),
        ({"question": "?", "answer": "a"}, "the field 'image' is missing"),
        ({"image": "a.png", "answer": "a"}, "the field 'question' is missing"),
        ({"image": "a.png", "question": "?"}, "give either 'answer', a text, or 'answers'"),
        ({**GOOD, "answers": ["a"]}, "give either 'answer', a text, or 'answers'"),
        ({**GOOD, "answer": 3}, "'answer' must be a text that is not empty, not 3"),
        ({**GOOD, "question": " "}, "'question' must be a text that is not empty"),
        ({"image": "a.png", "question": "?", "answers": []}, "'answers' must be a list of texts, at least"),
        ({"image": "a.png", "question": "?", "answers": ["a", 1]}, "'answers' must be a list of texts"),
        ({**GOOD, "image": "b.png"}, "there is no image '.*b.png'"),
        ({**GOOD, "image": "words.png"}, "'.*words.png' is not an image that can be read"),
        ({**GOOD, "metric": "bleu"}, "unknown metric 'bleu'; there are exact_match, yes_no_f1, vqa_acc"),
        ({**GOOD, "metric": "yes_no_f1"}, r"yes_no_f1 takes one answer, 'yes' or 'no', not \['red'\]"),
        ({**GOOD, "anwser": "x"}, "unknown field 'anwser'; there are image, question"),
    ],
)
def test_a_bad_line_is_named(written, line, sentence):
    with pytest.raises(QuestionFileError, match=rf"questions\.jsonl, line 3: {sentence}"):
        read_questions(written(GOOD, "", line, GOOD))


def test_a_metric_for_lines_that_name_none(written):
    path = written(GOOD, {**GOOD, "metric": "exact_match"})
    assert [q.metric for q in read_questions(path, "vqa_accuracy")] == ["vqa_accuracy", "exact_match"]
    with pytest.raises(QuestionFileError, match="unknown metric 'bleu'; there are exact_match"):
        read_questions(path, "bleu")


def test_a_byte_order_mark_is_no_part_of_the_first_line(written):
    path = written(GOOD, "", GOOD)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [(q.text, q.line) for q in read_questions(path)] == [("what ?", 1), ("what ?", 3)]


def test_files_without_questions_are_refused(written, tmp_path):
    with pytest.raises(QuestionFileError, match="holds no question"):
        read_questions(written("", " "))
    with pytest.raises(QuestionFileError, match="cannot be read"):
        read_questions(tmp_path / "none.jsonl")
    path = tmp_path / "binary.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(QuestionFileError, match="cannot be read"):
        read_questions(path)
