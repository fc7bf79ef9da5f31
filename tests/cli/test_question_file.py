# SPDX-License-Identifier: Apache-2.0
"""Question files: what is read, and that a bad line is named with what is wrong."""

import json
import sys

import pytest
from PIL import Image
from tokenprune_evaluation.question_file import FileQuestion, QuestionFileError, read_questions

GOOD = {"image": "a.png", "question": "what ?", "answer": "red"}


@pytest.fixture
def written(tmp_path):
    """Return a function that writes lines (text, or what becomes JSON) beside a picture."""
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    (tmp_path / "words.png").write_text("no image")
    (tmp_path / "folder").mkdir()

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
        ('{"image": }', "invalid JSON: Expecting value at character 11"),
        ([1], "a question is a JSON object, not list"),
        ({"question": "?", "answer": "a"}, "the field 'image' is missing"),
        ({"image": "a.png", "answer": "a"}, "the field 'question' is missing"),
        ({"image": "a.png", "question": "?"}, "give either 'answer', a string, or 'answers'"),
        ({**GOOD, "answers": ["a"]}, "give either 'answer', a string, or 'answers'"),
        ({**GOOD, "answer": 3}, "'answer' must be a non-empty string, not 3"),
        ({**GOOD, "question": " "}, "'question' must be a non-empty string"),
        (
            {"image": "a.png", "question": "?", "answers": []},
            "'answers' must be a non-empty list of",
        ),
        (
            {"image": "a.png", "question": "?", "answers": ["a", 1]},
            "'answers' must be a non-empty list of",
        ),
        ({**GOOD, "image": "b.png"}, "there is no image '.*b.png'"),
        ({**GOOD, "image": "words.png"}, "'.*words.png' is not an image that can be read"),
        ({**GOOD, "metric": "bleu"}, "unknown metric 'bleu'; metrics: exact_match, yes_no_f1, vqa_acc"),
        ({**GOOD, "metric": "yes_no_f1"}, r"yes_no_f1 takes one answer, 'yes' or 'no', not \['red'\]"),
        ({**GOOD, "anwser": "x"}, "unknown field 'anwser'; fields: image, question"),
        (
            {**GOOD, "question": "q \ud800"},
            r"'question' contains '\\ud800', which is not allowed; remove it",
        ),
        ({**GOOD, "answer": "\udfff"}, r"'answer' contains '\\udfff', which is not allowed"),
        (
            {"image": "a.png", "question": "?", "answers": ["a", "\udc00"]},
            r"'answers' contains '\\udc00', which",
        ),
        ({**GOOD, "image": "\ud800.png"}, r"'image' contains '\\ud800', which is not allowed"),
        ({**GOOD, "\ud800": 1}, r"unknown field '\\ud800'; fields:"),
        ({**GOOD, "metric": "\ud800"}, r"unknown metric '\\ud800'; metrics:"),
        ({**GOOD, "image": "a\0.png"}, r"'image' contains '\\x00', which is not allowed"),
        ({**GOOD, "question": "a\0b"}, r"'question' contains '\\x00', which is not allowed"),
        ({**GOOD, "answer": "a\0b"}, r"'answer' contains '\\x00', which is not allowed"),
        ("\0", "invalid JSON: Expecting value at character 1"),
        ('{"image": "a\0.png"}', "invalid JSON: Invalid control character at.* at character 13"),
        ('{"image": "a\f.png"}', "invalid JSON: Invalid control character at.* at character 13"),
        ({**GOOD, "image": "a" * 5000}, r"there is no image '.{100}\.\.\.a{100}'"),
        ({**GOOD, "image": "folder"}, "'.*folder' is a directory; 'image' is the path of an image"),
        ({**GOOD, "image": "."}, "'.*' is a directory; 'image' is the path of an image"),
        ({**GOOD, "image": "a.png/b.png"}, "there is no image '.*b.png'"),
        ({**GOOD, "metric": "b" * 5000}, r"unknown metric 'b{99}\.\.\.b{99}'; metrics: exact_match"),
        ({**GOOD, "metric": ["exact_match"]}, r"unknown metric \['exact_match'\]; metrics:"),
        ({**GOOD, "answer": ["a"] * 5000}, r"'answer' must be a non-empty string, not .{203}$"),
        ("[" * 200_000 + "]" * 200_000, "lists or objects are nested too deeply"),
        ('{"answer": ' * 100_000 + "1" + "}" * 100_000, "lists or objects are nested too deeply"),
        ("[" * 200_000, "lists or objects are nested too deeply"),
        ('{"metric": ' + "1" * 6000 + "}", "a number has too many digits|unknown metric 1{100}"),
        ('{"metric": -1e999999}', "unknown metric -inf; metrics:"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_bad_line_is_named(written, line, sentence):
    with pytest.raises(QuestionFileError, match=rf"questions\.jsonl, line 3: {sentence}"):
        read_questions(written(GOOD, "", line, GOOD))


def test_a_metric_for_lines_that_name_none(written):
    path = written(GOOD, {**GOOD, "metric": "exact_match"})
    assert [q.metric for q in read_questions(path, "vqa_accuracy")] == ["vqa_accuracy", "exact_match"]
    with pytest.raises(QuestionFileError, match="unknown metric 'bleu'; metrics: exact_match"):
        read_questions(path, "bleu")


def test_a_byte_order_mark_is_no_part_of_the_first_line(written):
    path = written(GOOD, "", GOOD)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [(q.text, q.line) for q in read_questions(path)] == [("what ?", 1), ("what ?", 3)]


@pytest.mark.parametrize(
    "text",
    [f"a{mark}b" for mark in "\u2028\u2029\u0085\x1c\x1d\x1e\x0b\f\n\r"] + ["\U0001f600", "\ufeffq", "  q\t"],
    ids=ascii,
)
@pytest.mark.parametrize("escaped", [False, True])
def test_no_character_of_a_text_ends_a_line(written, text, escaped):
    line = json.dumps({**GOOD, "question": text, "answer": text}, ensure_ascii=escaped)
    found = read_questions(written(line, GOOD, line))
    assert [(q.line, q.text, q.answers) for q in found] == [
        (1, text, (text,)),
        (2, "what ?", ("red",)),
        (3, text, (text,)),
    ]


@pytest.mark.parametrize("mark", ["\u2028", "\u0085", "\f", "\x1e"], ids=ascii)
def test_a_line_that_holds_no_question_counts_as_a_line(written, mark):
    assert [q.line for q in read_questions(written(mark, GOOD, " \t", GOOD))] == [2, 4]
    with pytest.raises(QuestionFileError, match=r"questions\.jsonl, line 4: give either 'answer'"):
        read_questions(written(mark, GOOD, " \t", {"image": "a.png"}))


@pytest.mark.parametrize("begin", [b"", b"\xef\xbb\xbf"], ids=["plain", "mark"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=ascii)
@pytest.mark.parametrize("last", [True, False])
def test_line_ends_of_either_kind_and_none_after_the_last_line(written, begin, end, last):
    path = written()
    lines = [json.dumps(GOOD).encode(), b"", json.dumps({**GOOD, "question": "why\u2028?"}).encode()]
    path.write_bytes(begin + end.join(lines) + end * last)
    assert [(q.line, q.text, q.answers) for q in read_questions(path)] == [
        (1, "what ?", ("red",)),
        (3, "why\u2028?", ("red",)),
    ]


def test_a_line_that_is_no_utf_8_is_named(written):
    path = written(GOOD, "", GOOD)
    path.write_bytes(path.read_bytes() + '{"question": "où"}\n'.encode("latin-1"))
    said = r"questions\.jsonl, line 4: cannot be read as UTF-8: invalid start byte at byte 16$"
    with pytest.raises(QuestionFileError, match=said):
        read_questions(path)


def test_a_value_nested_about_as_deep_as_can_be_read_is_named_too(written):
    for depth in range(sys.getrecursionlimit() - 200, sys.getrecursionlimit(), 2):
        line = '{"image": "a.png", "question": "?", "answer": ' + "[" * depth + "]" * depth + "}"
        with pytest.raises(QuestionFileError, match=r"line 1: ('answer' must be|lists or objects)"):
            read_questions(written(line))


def test_question_files_that_are_no_files(tmp_path):
    for path in (tmp_path, tmp_path / ("a" * 5000), tmp_path / "a\0b"):
        with pytest.raises(QuestionFileError, match="^the question file '.*' cannot be read: "):
            read_questions(path)


def test_files_without_questions_are_refused(written, tmp_path):
    with pytest.raises(QuestionFileError, match="contains no questions"):
        read_questions(written("", " "))
    with pytest.raises(QuestionFileError, match="cannot be read"):
        read_questions(tmp_path / "none.jsonl")
    path = tmp_path / "binary.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(QuestionFileError, match="cannot be read"):
        read_questions(path)
