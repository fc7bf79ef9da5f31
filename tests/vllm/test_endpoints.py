# SPDX-License-Identifier: Apache-2.0
"""Which of vLLM's endpoints pass arguments on to the processor; without a server."""

import importlib
import typing

import pydantic
from tokenprune_vllm import stock

ROUTERS = (
    "anthropic",
    "openai.chat_completion",
    "openai.completion",
    "openai.responses",
    "pooling.classify",
    "pooling.embed",
    "pooling.pooling",
    "pooling.scoring",
    "scale_out.render",
    "scale_out.token_in_token_out",
    "serve.tokenize",
)


def models(annotation):
    """The pydantic models of a type, which may be a union."""
    if isinstance(annotation, typing.TypeAliasType if hasattr(typing, "TypeAliasType") else ()):
        annotation = annotation.__value__
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from models(inner)


def test_the_endpoints_are_those_whose_requests_have_the_field():
    found = set()
    for name in ROUTERS:
        router = importlib.import_module(f"vllm.entrypoints.{name}.api_router").router
        for route in router.routes:
            for annotation in typing.get_type_hints(route.endpoint).values():
                if any(stock.PROCESSOR_ARGUMENTS in one.model_fields for one in models(annotation)):
                    found.add(route.path)
    assert found == set(stock.ENDPOINTS_WITH_ARGUMENTS) - {"/invocations"}  # which takes the others' requests
