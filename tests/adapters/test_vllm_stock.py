# SPDX-License-Identifier: Apache-2.0
"""vLLM's names are in one file of the plugin, which lists all that it uses; these tests do not need vLLM."""

import ast
import re
from pathlib import Path

import pytest
import tokenprune_vllm
from tokenprune_vllm import stock
from tokenprune_vllm.lookup import parts_of

FOLDER = Path(tokenprune_vllm.__file__).parent
OTHERS = sorted(set(FOLDER.glob("*.py")) - {FOLDER / "stock.py"})

# listed names that other files may use, and what they mean there
ORDINARY = {
    "timestamps": "an output of transformers' processors",
    "tokenizer": "of transformers",
    "video_token_id": "of transformers' configurations",
    "act": "an activation, in the field's words",
    "eps": "of a norm, in the field's words",
    "layers": "of a model or a schedule",
    "norm": "a layer, in the field's words",
    "num_patches": "an output of transformers' processors",
    "replacement": "the tokens that stand for an item in a prompt",
    "Gemma3ForConditionalGeneration": "an architecture, as a checkpoint names it",
    "Qwen3VLForConditionalGeneration": "an architecture, as a checkpoint names it",
    "Qwen3VLMoeForConditionalGeneration": "an architecture, as a checkpoint names it",
    "Qwen3_5ForConditionalGeneration": "an architecture, as a checkpoint names it",
    "Qwen3_5MoeForConditionalGeneration": "an architecture, as a checkpoint names it",
    "bias": "a layer's, in the field's words",
    "data": "the value of --mm-encoder-tp-mode that some methods refuse",
    "blocks": "of a vision tower, in the field's words",
    "dim": "an argument of torch",
    "forward": "of every module of torch",
    "image_size": "of transformers' configurations",
    "info": "a processor's `info`, as vLLM documents it; a level of logging",
    "inputs": "of any model",
    "key": "of an attention",
    "kwargs": "of any Python function",
    "LlavaForConditionalGeneration": "an architecture, as a checkpoint names it",
    "LlavaNextForConditionalGeneration": "an architecture, as a checkpoint names it",
    "modalities": "our attribute",
    "modality": "image or video",
    "ModelRegistry": "documented for plugins",
    "positions": "the word for them",
    "processor": "one of the three kinds of classes of a family",
    "query": "of an attention",
    "Qwen2_5_VLForConditionalGeneration": "an architecture, as a checkpoint names it",
    "register_model": "documented for plugins",
    "scale": "of an attention",
    "type": "Python's",
    "x": "a tensor",
    "weight": "a layer's, in the field's words",
    "width": "of a layer or a head",
}
# what functions of stock.py use besides listed names: values, not places to look them up
BESIDE = {
    "ForConditionalGeneration": "the ending of a listed name",
    "ProcessingInfo": "the ending of a listed name",
    "pixel_values_videos": "the value that tells videos from images",
    "video": "the modality",
    "video_embeds": "the value that tells rows from pictures",
    "_embeds": "the ending of the names of precomputed rows",
    "FLASHINFER": "a value that names an implementation of attention",
    "config": "a model of transformers' configuration",
    "connectors": "the option in which several connectors are listed",
    "image": "the modality",
    "image_embeds": "the value that tells rows from pictures",
    "image_grid_pinpoints": "of transformers' configurations",
    "MultiConnector": "the value that stands for several connectors",
    "pixels": "one of our three kinds of items",
    "prefix": "documented: a model is made with it",
    "registry": "the module of the lists, which are listed",
    "spatial_unpad": "the value of a strategy; with another, vLLM raises an error",
    "vision_config": "of transformers' configurations",
    "vllm_config": "documented: a model is made with it",
    "wrapped": "of our views",
}


def identifiers(text):
    return set(re.findall(r"[A-Za-z_]\w*", text))


def listed():
    """Every name of vLLM's in the tables of stock.py."""
    found = set()
    for family, of in stock.FAMILIES.items():
        for _, name in stock.names(family):
            _, attributes, parameters = parts_of(name)
            found |= {*attributes, *parameters}
        for path, read in of.parts.values():
            found |= identifiers(" ".join([path, *read.values()]))
    return found | identifiers(" ".join(stock.OPTIONS.values()))


def words_of(tree):
    """Yield identifiers, keywords, attributes and strings, except strings with spaces, which are messages."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            if not re.search(r"\s", node.value):
                yield from identifiers(node.value)
        for field in ("id", "attr", "name", "arg"):
            if isinstance(getattr(node, field, None), str):
                yield getattr(node, field)


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.name)
def test_no_other_file_knows_a_name_of_vllms(path):
    tree = ast.parse(path.read_text())
    assert set(words_of(tree)) & listed() - set(ORDINARY) == set()
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)} | {
        alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    assert {module for module in modules if module and module.startswith("vllm.")} == set()


def test_the_exemptions_are_needed():
    said = {word for path in OTHERS for word in words_of(ast.parse(path.read_text()))}
    assert said & listed() >= set(ORDINARY)


def test_the_functions_use_no_name_that_is_not_listed():
    """What stock.py says outside its tables is listed, its own, or Python's."""
    tree = ast.parse((FOLDER / "stock.py").read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    said = {word for node in functions for word in _asked_for(node)}
    own = {"family", *vars(stock), *vars(stock.View), *stock.Family.__dataclass_fields__}
    for table in (stock.COMMON, stock.OPTIONS, stock.ATTENTION, stock.RECORDS):
        own |= set(table)
    own |= {name for _, attributes in stock.RECORDS.values() for name in attributes}
    for family in stock.FAMILIES.values():
        for table in (family.parts, family.functions, family.overrides, family.uses, family.info_uses):
            own |= set(table)
    python = {
        "SimpleNamespace",
        "__init__",
        "__module__",
        "__name__",
        "arguments",
        "bind",
        "format",
        "get",
        "name",
    }
    python |= {"items", "replace", "signature", "startswith", "tensor", "union", "with_kwargs"}
    python |= {"bool", "ones", "register_forward_pre_hook", "strict", "sum", "tolist"}
    assert said - listed() - own - python == set(BESIDE)


def _asked_for(function):
    """Attributes, keywords, keys and imports of a function."""
    prose = {id(node.value) for node in ast.walk(function) if isinstance(node, ast.Expr)}
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            if re.fullmatch(r"\w+", node.value):
                yield node.value
