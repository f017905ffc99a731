"""Headers that keep browsers from doing more than our pages need, and a check of the Host."""

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import problem

_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"SAMEORIGIN",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), geolocation=(), microphone=()",
    # for whatever is not a page, which has a policy of its own
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
}
_LOCAL = {"localhost", "127.0.0.1", "[::1]"}
_PROBES = ("/healthz", "/readyz")


class SecurityHeaders:
    """ASGI middleware: adds the headers that an answer does not have already."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", []))
                names = {name.lower() for name, _ in given}
                more = [item for item in _HEADERS.items() if item[0] not in names]
                message["headers"] = [*given, *more]
            await send(message)

        await self.app(scope, receive, guarded)


class CheckHost:
    """ASGI middleware: 400 unless the Host header is one of `hosts`, or local.

    Other pages can make a browser send requests here under a name of theirs (DNS rebinding); this
    ends that. Probes come with the address of the machine, and learn nothing, so they pass.
    """

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...]) -> None:
        self.app = app
        self._hosts = tuple(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on if it was meant for us."""
        if scope["type"] != "http" or scope["path"] in _PROBES or self._is_ours(scope):
            await self.app(scope, receive, send)
            return
        answer = problem(
            Request(scope),
            400,
            kind="bad-request",
            title="Bad request",
            detail="The Host header names another service. Use the address of this one; "
            "DNCBM_ALLOWED_HOSTS lists its names.",
        )
        await answer(scope, receive, send)

    def _is_ours(self, scope: Scope) -> bool:
        header = dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower()
        host = header if header.endswith("]") else header.rpartition(":")[0] or header
        return host in _LOCAL or any(
            host == name or (name.startswith("*.") and host.endswith(name[1:]))
            for name in self._hosts
        )
