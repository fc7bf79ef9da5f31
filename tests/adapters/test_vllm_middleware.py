# SPDX-License-Identifier: Apache-2.0
"""Checks of HTTP requests before a vLLM server reads them; these tests need neither vLLM nor a server."""

import asyncio
import json
import types

import pytest
from tokenprune_vllm import middleware
from tokenprune_vllm.middleware import CheckPlaces, OnlyBudgets

CHAT = "/v1/chat/completions"
OWN = {"mm_processor_kwargs": {"tokenprune": {"keep": 32}}}
ENTRY = {"tokenprune": {"keep": 32}}
JSON = b"application/json"


@pytest.fixture(autouse=True)
def refused(monkeypatch):
    """Reasons that were counted."""
    reasons = []
    counts = types.SimpleNamespace(refuse=reasons.append)
    monkeypatch.setattr(middleware, "active_counts", lambda: counts)
    return reasons


async def echo(scope, receive, send):
    """A server that answers with the body of the request, after all of it."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def post(check, body, path=CHAT, app=echo, content_type=JSON, **scope):
    """The status and body of the answer to a request, whose body arrives in two parts."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    parts = [
        {"type": "http.request", "body": data[:7], "more_body": True},
        {"type": "http.request", "body": data[7:], "more_body": False},
    ]
    sent = []

    async def receive():
        return parts.pop(0) if parts else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    headers = [(b"content-type", content_type)]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, **scope}
    asyncio.run(check(app)(scope, receive, send))
    start, end = sent
    return start["status"], end["body"]


@pytest.mark.parametrize("check", [CheckPlaces, OnlyBudgets])
@pytest.mark.parametrize(
    "body",
    [
        OWN,
        {"model": "tiny", "messages": [{"role": "user", "content": "tokenprune"}]},
        {"tools": [{"function": {"parameters": {"properties": ENTRY}}}], **OWN},
        {"response_format": {"json_schema": {"schema": {"properties": ENTRY}}}},
        {"messages": [{"content": [{"type": "tool_use", "input": ENTRY}]}]},
        {"mm_processor_kwargs": None, "media_io_kwargs": {}},
        [1, {"a": [2]}],
        b"",
    ],
)
def test_other_requests_pass_unchanged(check, body, refused):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert post(check, body) == (200, data)
    assert refused == []


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (ENTRY, "tokenprune"),
        ({"extra_body": ENTRY}, "extra_body.tokenprune"),
        ({"extra_body": OWN}, "extra_body.mm_processor_kwargs.tokenprune"),
        ({"vllm_xargs": {"tokenprune": 32}}, "vllm_xargs.tokenprune"),
        ({"chat_template_kwargs": ENTRY}, "chat_template_kwargs.tokenprune"),
        ({"media_io_kwargs": {"image": ENTRY}}, "media_io_kwargs.image.tokenprune"),
        ({"mm_processor_kwargs": {"images_kwargs": ENTRY}}, "mm_processor_kwargs.images_kwargs.tokenprune"),
        ({"messages": [{"content": [{"type": "text"}, ENTRY]}]}, "messages.0.content.1.tokenprune"),
        ({"messages": [{"content": [{"image_url": ENTRY}]}]}, "messages.0.content.0.image_url.tokenprune"),
        ({"input": [{"content": [ENTRY]}]}, "input.0.content.0.tokenprune"),
        ({**OWN, **ENTRY}, "tokenprune"),
    ],
)
def test_a_budget_in_another_place_is_refused_with_both_places(body, place, refused):
    status, answer = post(CheckPlaces, body)
    assert status == 400
    assert json.loads(answer) == {
        "error": {
            "message": f'tokenprune: "{place}" would be ignored; write {{"mm_processor_kwargs": '
            '{"tokenprune": {"keep": 32}}} at the top level of the request',
            "type": "BadRequestError",
            "param": place,
            "code": 400,
        }
    }
    assert refused == ["misplaced"]


def test_an_escaped_name_is_seen():
    assert post(CheckPlaces, b'{"\\u0074okenprune": {"keep": 1}}')[0] == 400
    assert post(CheckPlaces, json.dumps(ENTRY).encode("utf-16"))[0] == 400


@pytest.mark.parametrize(
    ("path", "scope", "status"),
    [
        (CHAT, {}, 200),
        ("/tokenize", {}, 200),
        ("/v1/messages", {}, 400),
        ("/v1/completions", {}, 400),
        ("/prefix/v1/chat/completions", {"root_path": "/prefix"}, 200),
        ("/prefix/v1/chat/completions", {"root_path": "/prefix/"}, 200),
        ("/v1/chat/completions", {"root_path": "/prefix"}, 200),
        ("/prefix/v1/chat/completions", {}, 400),
    ],
)
def test_endpoints_that_ignore_arguments_of_the_processor_are_named(path, scope, status):
    found, answer = post(CheckPlaces, OWN, path, **scope)
    assert found == status
    if status == 400:
        assert f'{path} ignores \\"mm_processor_kwargs.tokenprune\\"' in answer.decode()


def test_a_server_that_does_not_prune_refuses_budgets(monkeypatch):
    monkeypatch.setattr(middleware, "active_counts", lambda: None)
    status, answer = post(CheckPlaces, OWN)
    assert status == 400 and b"this server was started without pruning" in answer
    assert post(CheckPlaces, {"model": "tiny"})[0] == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"mm_processor_kwargs": {"size": 9, **ENTRY}}, '"mm_processor_kwargs" takes only "tokenprune"'),
        ({"mm_processor_kwargs": {"size": 9}}, '"mm_processor_kwargs" takes only "tokenprune"'),
        ({"mm_processor_kwargs": [9]}, '"mm_processor_kwargs" takes only "tokenprune"'),
        ({"media_io_kwargs": {"video": {"num_frames": 9}}}, '"media_io_kwargs" is disabled'),
        ({"batch": [{"media_io_kwargs": {"a": {}}}]}, '"batch.0.media_io_kwargs" is disabled'),
    ],
)
def test_only_budgets_admits_no_other_argument(body, message, refused):
    assert post(CheckPlaces, body)[0] == 200
    status, answer = post(OnlyBudgets, body)
    assert status == 400
    assert json.loads(answer)["error"]["message"] == f"tokenprune: {message} on this server"
    assert refused == ["processor_arguments"]


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 200_000])
def test_a_body_that_cannot_be_read_is_refused(body, refused):
    status, answer = post(OnlyBudgets, body)
    assert status == 400 and b"is not valid JSON" in answer
    assert refused == ["invalid_json"]


def test_other_kinds_of_bodies_pass():
    body = b"--x\r\n" + json.dumps(ENTRY).encode()
    assert post(OnlyBudgets, body, content_type=b"multipart/form-data; boundary=x") == (200, body)


def test_a_server_that_turns_errors_into_answers_of_its_own_does_not_get_through():
    async def careful(scope, receive, send):
        try:
            await receive()
        except Exception:
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b"mine"})

    status, answer = post(CheckPlaces, ENTRY, app=careful)
    assert status == 400 and b"would be ignored" in answer


def test_a_server_that_refuses_before_it_reads_the_body_is_left_alone(refused):
    async def locked(scope, receive, send):
        await send({"type": "http.response.start", "status": 401, "headers": []})
        await send({"type": "http.response.body", "body": b"no key"})

    assert post(CheckPlaces, ENTRY, app=locked) == (401, b"no key") and refused == []


def test_errors_of_the_server_are_its_own():
    async def broken(scope, receive, send):
        await receive()
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        post(CheckPlaces, OWN, app=broken)


def test_a_client_that_leaves_while_it_sends_is_passed_on():
    seen = []

    async def app(scope, receive, send):
        seen.append(await receive())

    async def receive():
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": []}
    asyncio.run(CheckPlaces(app)(scope, receive, None))
    assert seen == [{"type": "http.disconnect"}]


def test_what_is_no_post_is_passed_on_as_it_is():
    seen = []

    async def app(*arguments):
        seen.append(arguments)

    for scope in ({"type": "websocket"}, {"type": "lifespan"}, {"type": "http", "method": "GET"}):
        asyncio.run(CheckPlaces(app)(scope, "receive", "send"))
        assert seen.pop() == (scope, "receive", "send")
