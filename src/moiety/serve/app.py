"""The routes of the server: three addresses. Every other one is refused in OpenAI's form."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from moiety.serve.answering import FAILED, STOPPING, ChatHandler, Generation
from moiety.serve.arriving import Arriving, busy
from moiety.serve.pictures import decode_pictures
from moiety.serve.refusal import Refusal
from moiety.serve.request import read_request

logger = logging.getLogger(__name__)

BREAKS = {
    f'data: {{"error": "{message}"}}\n\n': f"data: {json.dumps(refusal.body())}\n\n"
    for message, refusal in {
        FAILED: Refusal(500, FAILED, kind="server_error"),
        STOPPING: Refusal(503, STOPPING, code="stopping", kind="server_error"),
    }.items()
}
"""A stream that breaks: as transformers tells it -> in OpenAI's form. Inside an answer the quotes would be escaped."""
_Endpoint = Callable[[Request], Awaitable[Response]]


class Counter:
    """Takes requests: checks them, gives them a seat, and lets the handler answer.

    Args:
        handler: Answers the requests that pass every check.
        key: Key that clients must send; None: no key is needed.
    """

    def __init__(self, handler: ChatHandler, key: str | None = None) -> None:
        self.handler, self.key = handler, key
        self.limits = handler.limits
        self.created = int(time.time())
        self.num_waiting = 0
        self.arriving = Arriving(self.limits)

    async def chat(self, request: Request) -> Response:
        """``POST /v1/chat/completions``. A request gets a seat once it has arrived whole: a slow client holds none."""
        self._check_room()
        content = await self.arriving.body(request)
        self._check_room()
        self.num_waiting += 1
        try:
            response, generation = await self._answered(request, content)
        except BaseException:
            self._leave()
            raise
        if isinstance(response, StreamingResponse):
            return Stream(response, lambda: self._leave(generation))
        self._leave()
        return response

    async def models(self, request: Request) -> Response:
        """``GET /v1/models``: a list of one."""
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def model(self, request: Request) -> Response:
        """``GET /v1/models/NAME``."""
        if request.path_params["name"] != self.handler.name:
            raise Refusal(404, f"no such model here; known: {self.handler.name}", "model", "model_not_found")
        return JSONResponse(self._card())

    async def health(self, request: Request) -> Response:
        """``GET /health``: the server is alive, and how many requests it is working on. It needs no key."""
        return JSONResponse({"status": "ok", "waiting": self.num_waiting})

    def check_key(self, request: Request) -> None:
        """Compare the key of a request with ours, in constant time.

        Raises:
            Refusal: the key is missing or wrong.
        """
        shown = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.key is not None and not hmac.compare_digest(shown.encode("latin-1"), self.key.encode()):
            raise Refusal(401, "this server expects its key as `Authorization: Bearer KEY`", code="invalid_api_key")

    def _card(self) -> dict[str, Any]:
        return {"id": self.handler.name, "object": "model", "created": self.created, "owned_by": "moiety"}

    def _check_room(self) -> None:
        if self.num_waiting >= self.limits.max_waiting:
            raise busy(f"{self.num_waiting} requests wait already")

    def _leave(self, generation: Generation | None = None) -> None:
        """One request less; its answer is stopped, because nobody listens any more."""
        self.num_waiting -= 1
        if generation is not None:
            generation.stop()

    async def _answered(self, request: Request, content: bytes) -> tuple[Response, Generation]:
        asked = await run_in_threadpool(read_request, content, self.handler.name, self.limits, self.handler.control)
        pictures = await run_in_threadpool(decode_pictures, asked, self.limits)
        working = asyncio.ensure_future(self.handler.answer(asked, pictures, f"chatcmpl-{uuid.uuid4().hex}"))
        try:
            while not (await asyncio.wait({working}, timeout=1.0))[0]:
                if await request.is_disconnected():
                    raise ClientDisconnect
            return working.result()
        finally:
            working.cancel()  # of a finished one this does nothing


class Stream(Response):
    """A streamed answer, followed by the last line that OpenAI's streams have.

    Args:
        told: The stream that transformers makes.
        leave: Called once when the stream ends for any reason, also when nobody began to read it.
    """

    def __init__(self, told: StreamingResponse, leave: Callable[[], object]) -> None:
        super().__init__()
        self.told, self.leave = told, leave
        told.body_iterator = self._pieces(told.body_iterator)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As in Starlette."""
        try:
            await self.told(scope, receive, send)
        finally:
            self.leave()

    async def _pieces(self, pieces: Any) -> AsyncIterator[Any]:
        async for piece in pieces:
            for stock, ours in BREAKS.items():
                piece = piece.replace(stock, ours)
            yield piece
        yield "data: [DONE]\n\n"


def build_app(handler: ChatHandler, key: str | None = None) -> Starlette:
    """The web application around one handler.

    Args:
        handler: Model, processor, name and limits.
        key: Bearer token that clients must send; None: no key is needed.
    """
    counter = Counter(handler, key)
    routes = [
        Route("/v1/chat/completions", _guarded(counter.chat, counter), methods=["POST"]),
        Route("/v1/models", _guarded(counter.models, counter), methods=["GET"]),
        Route("/v1/models/{name:path}", _guarded(counter.model, counter), methods=["GET"]),
        Route("/health", counter.health, methods=["GET"]),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _no_such_place})


def _guarded(endpoint: _Endpoint, counter: Counter) -> _Endpoint:
    """Check the key, then call the endpoint. Whatever it raises becomes an answer in OpenAI's form."""

    async def guarded(request: Request) -> Response:
        try:
            counter.check_key(request)
            return await endpoint(request)
        except Refusal as refusal:
            logger.info("refused (%d): %s", refusal.status, refusal.message)
            return JSONResponse(refusal.body(), refusal.status)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody hears it
        except Exception:
            logger.exception("a request failed")
            return JSONResponse(Refusal(500, FAILED, kind="server_error").body(), 500)

    return guarded


async def _no_such_place(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    message = (
        f"{request.method} {request.url.path[:80]} is not served; this server has POST /v1/chat/completions, "
        "GET /v1/models and GET /health, and one model that requests neither load nor unload"
    )
    return JSONResponse(Refusal(status, message, code="unknown_url").body(), status)
