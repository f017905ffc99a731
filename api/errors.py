"""Every error of the service as an RFC 9457 problem document; never a traceback."""

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dncbm.errors import (
    ArtifactError,
    ArtifactMismatch,
    Conflict,
    DncbmError,
    InvalidInput,
    Unavailable,
    UnknownName,
)

logger = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 2

# Most specific first: the first class that fits decides.
_KINDS: tuple[tuple[type[DncbmError], int, str, str], ...] = (
    (UnknownName, 404, "unknown-name", "Unknown name"),
    (InvalidInput, 422, "invalid-input", "Invalid input"),
    (ArtifactMismatch, 409, "artifact-mismatch", "Artifacts do not belong together"),
    (ArtifactError, 500, "artifact-error", "Damaged artifact"),
    (Conflict, 409, "conflict", "Conflict"),
    (Unavailable, 503, "unavailable", "Unavailable"),
    (DncbmError, 500, "error", "Error"),
)

# Fixed words: those of `http.HTTPStatus` differ between versions of Python.
_TITLES = {
    400: "Bad request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    408: "Request timeout",
    413: "Content too large",
    415: "Unsupported media type",
    429: "Too many requests",
}

_UNPREFIXED = {"body", "query", "path", "header"}


class Overloaded(Unavailable):
    """All inference slots are busy and the queue is full, or the wait took too long."""


class PayloadTooLarge(HTTPException):
    """The request body is larger than the service accepts."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            413,
            f"The request body is larger than the limit of {limit:,} bytes. "
            "Send fewer or smaller images.",
        )


class UploadTooSlow(HTTPException):
    """The request body did not arrive in the time that the service gives it."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            408,
            f"The upload was not complete after {seconds:g} s, the limit. Send fewer or smaller "
            "images, or use a faster connection.",
            headers={"Connection": "close"},  # what is still on its way is not read
        )


class UploadAborted(HTTPException):
    """The client went away while its request body was read; the answer reaches nobody."""

    def __init__(self) -> None:
        super().__init__(400, "The connection was closed before the upload was complete.")


class UnsupportedMedia(HTTPException):
    """The request body has a content type that the endpoint does not read."""

    def __init__(self, content_type: str) -> None:
        super().__init__(
            415,
            f"Content type {content_type[:100]!r} is not supported. Send multipart/form-data with "
            'a file field `image`, or application/json with {"images": ["<base64>"]}.',
        )


class Unauthorized(HTTPException):
    """The API key is missing or wrong."""

    def __init__(self, challenge: str) -> None:
        super().__init__(
            401,
            "This service asks for an API key. Send it in the header X-API-Key, or as the "
            "password of HTTP Basic authentication.",
            headers={"WWW-Authenticate": challenge},
        )


class Forbidden(HTTPException):
    """The API key is right, but not for this."""

    def __init__(self, name: str, scope: str) -> None:
        super().__init__(
            403,
            f"The API key {name!r} may not do this; it needs the scope {scope!r}. Ask the operator "
            f"for a key with it (`dncbm keys add NAME --scope {scope}`).",
        )


class NotFound(HTTPException):
    """The address is well formed, but there is nothing there."""

    def __init__(self, detail: str) -> None:
        super().__init__(404, detail)


def problem(
    request: Request,
    status: int,
    *,
    kind: str,
    title: str,
    detail: str,
    headers: Mapping[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> JSONResponse:
    """A problem document (RFC 9457) for this request; below `/v2` as its protocol says errors."""
    if request.url.path == "/v2" or request.url.path.startswith("/v2/"):
        code = 400 if status == 422 else status
        return JSONResponse({"error": detail}, status_code=code, headers=dict(headers or {}))
    content = {
        "type": f"urn:dncbm:problem:{kind}",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": request.url.path,
    }
    if request_id := getattr(request.state, "request_id", None):
        content["request_id"] = request_id
    _count(request, kind)
    return JSONResponse(
        content | dict(extra or {}),
        status_code=status,
        headers=dict(headers or {}),
        media_type="application/problem+json",
    )


def _count(request: Request, kind: str) -> None:
    app = request.scope.get("app")
    service = getattr(app.state, "service", None) if app is not None else None
    if service is not None:
        service.metrics.count_error(kind)


def install_error_handlers(app: FastAPI) -> None:
    """Make every failure of `app` answer with a problem document."""
    app.add_exception_handler(DncbmError, _library_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected_error)


async def _library_error(request: Request, error: Exception) -> JSONResponse:
    status, kind, title = next(
        (status, kind, title) for cls, status, kind, title in _KINDS if isinstance(error, cls)
    )
    if status >= 500:
        logger.warning("%s %s: %s", request.method, request.url.path, error)
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == 503 else None
    return problem(request, status, kind=kind, title=title, detail=str(error), headers=headers)


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = [
        {"field": _field(item["loc"]), "message": str(item["msg"]) + _given(item)}
        for item in error.errors()
    ]
    detail = "; ".join(f"{item['field']}: {item['message']}" for item in errors[:5])
    return problem(
        request,
        422,
        kind="invalid-input",
        title="Invalid input",
        detail=detail,
        extra={"errors": errors},
    )


def _field(location: tuple[int | str, ...]) -> str:
    parts = [str(part) for part in location]
    if len(parts) > 1 and parts[0] in _UNPREFIXED:
        parts = parts[1:]
    return ".".join(parts)[:200] or "body"


def _given(item: Mapping[str, Any]) -> str:
    """The value, where it is short and not the whole body."""
    value = item.get("input")
    if not isinstance(value, str | int | float) or item["loc"] == ("body",) or not item["loc"]:
        return ""
    text = repr(value)
    return f", got {text if len(text) <= 60 else text[:60] + '…'}"


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    title = _TITLES.get(error.status_code, "Error")
    detail = str(error.detail)
    if detail == "Not Found":
        detail = f"There is nothing at {request.url.path}. The routes are listed at /docs."
    if detail == "Method Not Allowed":
        allowed = (error.headers or {}).get("Allow", "other methods")
        detail = f"{request.method} is not possible here; use {allowed}."
    kind = title.lower().replace(" ", "-")
    return problem(
        request, error.status_code, kind=kind, title=title, detail=detail, headers=error.headers
    )


class AnswerFailures:
    """ASGI middleware, the innermost: an unexpected error becomes an answer.

    Starlette's own handler of such errors stands outside of all middleware, so its answers would
    have neither request id nor security headers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; once an answer has begun, errors go on their way."""
        has_begun = False

        async def noted(message: Message) -> None:
            nonlocal has_begun
            has_begun = has_begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except Exception as error:
            if scope["type"] != "http" or has_begun:
                raise
            answer = await _unexpected_error(Request(scope), error)
            await answer(scope, receive, send)


async def _unexpected_error(request: Request, error: Exception) -> JSONResponse:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(
        request,
        500,
        kind="internal-error",
        title="Internal error",
        detail="The service failed to answer this request. Its log has the details.",
    )
