# SPDX-License-Identifier: Apache-2.0
"""Checks of HTTP requests, for the option --middleware of `vllm serve`.

vLLM drops unknown fields of a request before any plugin sees them. `CheckPlaces` answers a "tokenprune"
object in a place where it would be ignored with HTTP 400; `OnlyBudgets` also refuses all other arguments of
processors, which --trust-request-mm-kwargs would admit.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from typing import Any

from . import stock
from .counts import active_counts
from .settings import KEY

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

# fields with names of the client's own: schemas, functions, documents
FREE_FORM = ("tools", "functions", "response_format", "structured_outputs", "metadata", "documents", "schema")


class CheckPlaces:
    """Refuse requests with a "tokenprune" object anywhere but in the arguments of the processor.

    The body is read when the server reads it, so an API key is verified first.
    """

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass a request on to the server, or answer it with HTTP 400."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        refused: list[RefusedError] = []
        read = False

        async def checked_receive() -> Message:
            nonlocal read
            if read:
                return await receive()
            body = await _whole_body(receive)
            read = True
            if body is None:
                return {"type": "http.disconnect"}
            try:
                self.check(_path(scope), _parse(scope, body))
            except RefusedError as error:
                refused.append(error)
                raise
            return {"type": "http.request", "body": body, "more_body": False}

        async def send_unless_refused(message: Message) -> None:
            if not refused:
                await send(message)

        try:
            await self.app(scope, checked_receive, send_unless_refused)
        except Exception:
            if not refused:
                raise
        if refused:
            await _answer(send, refused[0])

    def check(self, path: str, body: Any) -> None:
        """Check the parsed body of a request.

        Raises
        ------
        RefusedError
            If the request has to be refused.
        """
        field = stock.PROCESSOR_ARGUMENTS
        right_place = f'{{"{field}": {{"{KEY}": {{"keep": 32}}}}}} at the top level of the request'
        for place, entry in _objects(body):
            if KEY not in entry:
                continue
            found = ".".join([*place, KEY])
            if place != (field,):
                raise RefusedError("misplaced", f'"{found}" would be ignored; write {right_place}', found)
            if path not in stock.ENDPOINTS_WITH_ARGUMENTS:
                raise RefusedError("misplaced", f'{path} ignores "{found}"; use another endpoint', found)
            if active_counts() is None:
                raise RefusedError("misplaced", "this server was started without pruning", found)


class OnlyBudgets(CheckPlaces):
    """As `CheckPlaces`, and refuse all arguments of processors and of media loaders but "tokenprune".

    With it, --trust-request-mm-kwargs lets clients set a budget of their own and nothing else.
    """

    def check(self, path: str, body: Any) -> None:
        """As in `CheckPlaces`."""
        super().check(path, body)
        for place, entry in _objects(body):
            for field, allowed in ((stock.PROCESSOR_ARGUMENTS, {KEY}), (stock.MEDIA_ARGUMENTS, set())):
                arguments = entry.get(field)
                if arguments and not (isinstance(arguments, Mapping) and set(arguments) <= allowed):
                    found = ".".join([*place, field])
                    takes = f'takes only "{KEY}"' if allowed else "is disabled"
                    raise RefusedError("processor_arguments", f'"{found}" {takes} on this server', found)


class RefusedError(Exception):
    """A request that is refused, and one of the reasons that are counted."""

    def __init__(self, reason: str, message: str, field: str | None = None) -> None:
        super().__init__(f"tokenprune: {message}")
        self.reason, self.field = reason, field


def _objects(body: Any) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Yield the objects of a request with their places, outermost first, except in free-form fields."""
    todo: list[tuple[tuple[str, ...], Any]] = [((), body)]
    for place, value in todo:  # a list that grows, because recursion has a limit
        if isinstance(value, dict):
            yield place, value
            skipped = ("input",) if value.get("type") == "tool_use" else ()
            todo += [
                ((*place, name), inner)
                for name, inner in value.items()
                if isinstance(inner, (dict, list)) and name not in (KEY, *FREE_FORM, *skipped)
            ]
        elif isinstance(value, list):
            todo += [
                ((*place, str(n)), inner) for n, inner in enumerate(value) if isinstance(inner, (dict, list))
            ]


async def _whole_body(receive: Receive) -> bytes | None:
    """Receive the whole body of a request. None if the client disconnects."""
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _parse(scope: Mapping[str, Any], body: bytes) -> Any:
    """Parse a JSON body as the server does. None for other bodies, which have no place for "tokenprune"."""
    kinds = [value.lower() for name, value in scope["headers"] if name.lower() == b"content-type"]
    if not body or not any(b"json" in kind for kind in kinds):
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError("invalid_json", "the body of the request is not valid JSON") from None


def _path(scope: Mapping[str, Any]) -> str:
    """Return the path of a request, without the prefix --root-path."""
    return str(scope["path"]).removeprefix(scope.get("root_path", "").rstrip("/"))


async def _answer(send: Send, refused: RefusedError) -> None:
    """Answer with HTTP 400, in the form of vLLM's errors, and count the request."""
    counts = active_counts()
    if counts is not None:
        counts.refuse(refused.reason)
    error = {"message": str(refused), "type": "BadRequestError", "param": refused.field, "code": 400}
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": body})
