"""Work that would be turned away is turned away first of all, at a fraction of its cost."""

import re
from dataclasses import dataclass

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import RETRY_AFTER_SECONDS, Overloaded, problem
from api.limits import InferenceLimiter, UploadLimiter

_UPLOAD = re.compile(
    r"/(?P<version>v[12])/(?P<kind>models|dictionaries)/[^/:]+(?P<part>/versions/[^/]+)?"
    r"(?P<verb>[/:](?:predict|explain|intervene|search|similar|infer))"
)
"""Addresses that photos are posted to."""


@dataclass(frozen=True, slots=True)
class _Route:
    """Stands for the route in logs and metrics, as it is not looked up."""

    path: str


class ShedLoad:
    """ASGI middleware: 503 for photos that would find no place, before anything else is done.

    Under overload most requests end like this, and who asks whether the service is alive waits for
    them. Without looking up the route, asking for the key and reading the form, such an answer
    takes a third of the time. So a full service answers 503 also to those without a right key.
    """

    def __init__(self, app: ASGIApp, limiter: InferenceLimiter, uploads: UploadLimiter) -> None:
        self.app = app
        self.limiter = limiter
        self.uploads = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on if there is a place for it."""
        is_full = self.limiter.is_full or self.uploads.is_full
        if not is_full or scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        found = _UPLOAD.fullmatch(scope["path"])
        if found is None:
            await self.app(scope, receive, send)
            return
        scope["route"] = _Route(_pattern(found))
        answer = problem(
            Request(scope),
            503,
            kind="unavailable",
            title="Unavailable",
            detail=self._reason(),
            headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
        )
        await answer(scope, receive, send)

    def _reason(self) -> str:
        try:
            self.limiter.refuse_when_full()
            self.uploads.refuse_when_full()
        except Overloaded as error:
            return str(error)
        return "The service was full a moment ago. Try again shortly."


def _pattern(found: re.Match[str]) -> str:
    """The pattern of the route, as the router would find it."""
    name = found["kind"].removesuffix("s").replace("dictionarie", "dictionary")
    part = "/versions/{version}" if found["part"] else ""
    return f"/{found['version']}/{found['kind']}/{{{name}}}{part}{found['verb']}"
