"""Answers without boxes: whatever goes wrong becomes JSON with a reason and the request's id."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import orjson
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from detection_assets.serving.answering import SCORING, Desk
from detection_assets.serving.observe import Call
from detection_assets.serving.predictor import ModelError
from detection_assets.serving.refusals import Refused


class Gate:
    """ASGI middleware: the short way for scoring requests that are like most, and for those that find no place.

    What it does would be done further in, too. A refusal here costs a third of the time, which an endpoint that is
    asked far too much has better use for; a request without parameters is half a millisecond sooner with the model,
    since none need to be found, checked and converted.
    """

    def __init__(self, app: ASGIApp, desk: Desk, score: Callable[[Request], Awaitable[Response]]) -> None:
        """Takes what is inside.

        Args:
            app: The app.
            desk: Who knows whether there is a place.
            score: Answers a scoring request that has no parameters; it checks the key.
        """
        self.app, self.desk, self.score = app, desk, score

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it; see https://asgi.readthedocs.io."""
        if _scores(scope) and not any(name == b"x-detection-slot" for name, _ in scope["headers"]):
            if refused := self.desk.crowded():
                call: Call = scope["state"]["call"]
                call.scoring = True
                await _refusal(call, refused)(scope, receive, send)
                return
            if not scope["query_string"]:
                response = await self._answer(Request(scope, receive))
                await response(scope, receive, send)
                return
        await self.app(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        try:
            return await self.score(request)
        except tuple(HANDLERS) as error:
            handler = next(HANDLERS[kind] for kind in type(error).__mro__ if kind in HANDLERS)
            return await handler(request, error)


def _scores(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["path"] in SCORING and scope["method"] == "POST"


def _reply(call: Call, status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    call.fields = call.fields | {"error": message}
    body = orjson.dumps({"error": message, "request_id": call.request_id})
    return Response(body, status, headers, media_type="application/json")


def _refusal(call: Call, error: Refused) -> Response:
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return _reply(call, error.status, str(error), headers)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return _refusal(request.state.call, error)


async def _model_failed(request: Request, error: Exception) -> Response:
    return _reply(request.state.call, 500, str(error))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}; see /docs for what there is"
    return _reply(request.state.call, error.status_code, message, dict(error.headers or {}))


async def _bad_value(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return _reply(request.state.call, 422, f"{' '.join(str(part) for part in first['loc'])}: {first['msg']}; see /docs")


HANDLERS: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    Refused: _refused,
    ModelError: _model_failed,
    HTTPException: _http_error,
    RequestValidationError: _bad_value,
}
"""What FastAPI is to do with each kind of exception."""
