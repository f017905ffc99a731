"""The end of a service: requests that run are finished, new ones are turned away."""

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import RETRY_AFTER_SECONDS, problem

_STILL_ANSWERED = ("/healthz", "/metrics")
"""A process that ends is alive, and its last numbers count."""


class Lifecycle:
    """How many requests run, and whether new ones are taken. Belongs to the event loop."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.is_ending = False

    def end(self) -> None:
        """From now on turn new requests away."""
        self.is_ending = True


class Drain:
    """ASGI middleware: counts the requests that run; 503 for new ones once the end has begun."""

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        self.app = app
        self.lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on unless the service ends."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self.lifecycle.is_ending and scope["path"] not in _STILL_ANSWERED:
            answer = problem(
                Request(scope),
                503,
                kind="unavailable",
                title="Unavailable",
                detail="The service is shutting down. Try again shortly.",
                headers={"Retry-After": str(RETRY_AFTER_SECONDS), "Connection": "close"},
            )
            await answer(scope, receive, send)
            return
        self.lifecycle.in_flight += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.lifecycle.in_flight -= 1
