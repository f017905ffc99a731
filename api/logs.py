"""Log lines, plain or JSON, with the id of the request they belong to; the access log.

No line holds image bytes, keys, queries or addresses as visitors typed them: of a request only the
pattern of its route is told.
"""

import json
import logging
import re
import secrets
import sys
import time
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger("api.access")

_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_HEADER = b"x-request-id"
_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
_FIELD = "request"
"""Attribute of an access log record: its numbers."""


def configure_logging(log_format: str, *, verbose: bool = False) -> None:
    """Send all log records to stderr in this format; uvicorn's access log makes way for ours."""
    root = logging.getLogger()
    root.setLevel(logging.INFO if verbose else logging.WARNING)
    for old in [handler for handler in root.handlers if isinstance(handler, _Handler)]:
        root.removeHandler(old)
    handler = _Handler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else PlainFormatter())
    root.addHandler(handler)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = name != "uvicorn.access"
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    logger.setLevel(logging.INFO)


class _Handler(logging.Handler):
    """Writes to what `sys.stderr` is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line per record, more where there is a traceback and the format is plain."""
        sys.stderr.write(self.format(record) + "\n")


class PlainFormatter(logging.Formatter):
    """`time level logger: message`, the request's id at the end."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - of the base class
        """The line without traceback."""
        text = super().formatMessage(record).replace("\n", " ").replace("\r", " ")
        found = _id_of(record)
        return f"{text} [{found}]" if found else text


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Time (UTC), level, logger, message, request id, and what the record brings besides."""
        content: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": _id_of(record),
        }
        content |= getattr(record, _FIELD, {})
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps({name: value for name, value in content.items() if value is not None})


def _id_of(record: logging.LogRecord) -> str | None:
    return getattr(record, _FIELD, {}).get("request_id") or _request_id.get()


def route_of(scope: Scope) -> str:
    """The route's pattern: labels and lines must not grow with what visitors type."""
    return str(getattr(scope.get("route"), "path", "unmatched"))


class LogRequests:
    """ASGI middleware: gives each request an id, and writes a line when it is answered.

    A sane `X-Request-ID` of the client is kept, so a trail can be followed through several
    services. The id stands in the answer's header, in problem documents and in all log lines.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _id_from(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        token = _request_id.set(request_id)
        started = time.perf_counter()
        status = 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = [item for item in message.get("headers", []) if item[0] != _HEADER]
                message["headers"] = [*given, (_HEADER, request_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            _write(scope, status, time.perf_counter() - started)
            _request_id.reset(token)


def _id_from(scope: Scope) -> str:
    given = dict(scope["headers"]).get(_HEADER, b"")
    return given.decode() if _SANE_ID.fullmatch(given) else secrets.token_hex(8)


def _write(scope: Scope, status: int, seconds: float) -> None:
    state = scope["state"]
    numbers = {
        "request_id": state["request_id"],
        "method": scope["method"],
        "path": route_of(scope),
        "status": status,
        "milliseconds": round(1000 * seconds, 1),
        "model": state.get("model"),
        "key": state.get("key_name"),
    }
    words = [f"{name}={numbers[name]}" for name in ("model", "key") if numbers[name] is not None]
    logger.info(
        "%s %s %d %.1f ms%s",
        numbers["method"],
        numbers["path"],
        status,
        1000 * seconds,
        "".join(f" {word}" for word in words),
        extra={_FIELD: numbers},
    )
