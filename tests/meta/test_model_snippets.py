# SPDX-License-Identifier: Apache-2.0
"""The snippets of docs/models.md run, on a tiny model of the family in place of each checkpoint."""

import types
from pathlib import Path

import pytest
import torch
from tokenprune_adapters.tiny import tiny_model

import tokenprune

PAGE = Path(__file__).parents[2] / "docs/models.md"
TINY = {
    "Qwen/Qwen3.5-27B": "qwen3.5",
    "Qwen/Qwen3-VL-8B-Instruct": "qwen3-vl",
    "Qwen/Qwen2.5-VL-7B-Instruct": "qwen2.5-vl",
    "google/gemma-4-E2B-it": "gemma-4-e",
    "OpenGVLab/InternVL3-1B-hf": "internvl",
    "llava-hf/llava-1.5-7b-hf": "llava",
}


class TinyProcessor:
    """Random inputs for a tiny model, in place of those of a picture and a question."""

    def __init__(self, checkpoint):
        model = tiny_model(TINY[checkpoint])
        self.inputs = tokenprune.default_registry().adapter_for(model)(model).example_inputs()
        self.question = ""

    def apply_chat_template(self, messages, **options):
        picture, text = messages[0]["content"]
        assert picture["type"] == "image" and Path(picture["path"]).suffix and text["text"].endswith("?")
        assert options["tokenize"] and options["return_tensors"] == "pt"
        return self.inputs

    def decode(self, tokens, skip_special_tokens):
        return f"{len(tokens)} tokens"


def snippets():
    """Source of the Python blocks of the section with snippets: the function, then its calls."""
    section = PAGE.read_text().split("## The six most used families")[1].split("## Which methods run")[0]
    function, *calls = [block.split("```")[0] for block in section.split("```python\n")[1:]]
    return function, calls


def test_there_is_a_snippet_for_each_of_the_six():
    calls = snippets()[1]
    assert len(calls) == 6
    assert all(sum(checkpoint in call for call in calls) == 1 for checkpoint in TINY)


@pytest.mark.parametrize("number", range(6))
def test_a_snippet_prunes_and_answers(number, monkeypatch, capsys):
    function, calls = snippets()
    page = types.ModuleType("page")
    exec(compile(function, str(PAGE), "exec"), vars(page))
    page.AutoModelForImageTextToText = types.SimpleNamespace(
        from_pretrained=lambda checkpoint, dtype: tiny_model(TINY[checkpoint])
    )
    page.AutoProcessor = types.SimpleNamespace(from_pretrained=TinyProcessor)
    reports, answer = [], page.answer

    def watched(*args, **kwargs):
        reports.append(answer(*args, **kwargs))

    page.answer = watched
    with torch.no_grad():
        exec(compile(calls[number], str(PAGE), "exec"), vars(page))
    assert reports and all(report.endswith(" tokens") for report in reports)
    assert "visual tokens kept in 1 image" in capsys.readouterr().out
