# SPDX-License-Identifier: Apache-2.0
"""vLLM's endpoints that pass arguments on to the processor, and our middleware; without an engine."""

import importlib
import typing

import pydantic
from fastapi import FastAPI
from fastapi.testclient import TestClient
from tokenprune_vllm import stock
from tokenprune_vllm.middleware import OnlyBudgets

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


def answer(app, body, **headers):
    """The status and text of the answer of an ASGI application to a chat."""
    with TestClient(app) as client:
        found = client.post("/v1/chat/completions", json=body, headers=headers)
    return found.status_code, found.text


def test_the_middleware_in_vllms_kind_of_server():
    """FastAPI, vLLM's verification of keys, and a middleware that reads the request in a task of its own."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.serve.middleware.authenticate import AuthenticationMiddleware

    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def chat(request: ChatCompletionRequest):
        return request.model

    @app.middleware("http")
    async def another(request, call_next):
        return await call_next(request)

    app.add_middleware(AuthenticationMiddleware, tokens=["key"])
    app.add_middleware(OnlyBudgets)
    plain, key = {"model": "tiny", "messages": []}, {"Authorization": "Bearer key"}
    misplaced = {**plain, "tokenprune": {"keep": 8}}
    assert answer(app, plain, **key) == (200, '"tiny"')
    status, text = answer(app, misplaced, **key)
    assert status == 400 and "would be ignored; write" in text
    for body in (plain, misplaced):
        assert answer(app, body)[0] == 401
