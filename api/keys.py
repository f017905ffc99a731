"""Who calls, and what they may do: API keys, and the scope that each route asks for."""

import base64
import hmac
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import Request

from dncbm.errors import InvalidInput
from dncbm.keys import SCOPES, Key, hash_of, read_keys

logger = logging.getLogger(__name__)

SCOPE_FIELD = "x-dncbm-scope"
"""Of `openapi_extra`: the scope that a route asks for, where its method does not tell."""

_ONLY_LOOKS = ("predict", "explain", "intervene", "search", "similar", "infer")
"""Last words of the routes that take a POST and change nothing."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a request is from; `anonymous` where no key is asked for."""

    name: str
    scopes: tuple[str, ...]

    def may(self, scope: str) -> bool:
        """Whether it has this scope or a larger one."""
        return any(SCOPES.index(own) >= SCOPES.index(scope) for own in self.scopes)


ANYBODY = Caller("anonymous", ("admin",))
_OWNER = Caller("api-key", ("admin",))


class KeyRing:
    """The keys of a service: one that may do everything, and those of a file.

    The file is read again when it changes. A change that cannot be read keeps the keys that were
    read before and is logged, so a slip of an editor locks nobody out; what is not in force then
    is the change itself, such as a key that was to be revoked. Safe to share between threads.
    """

    def __init__(
        self,
        api_key: str | None = None,
        path: Path | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._own = None if api_key is None else hash_of(api_key.encode())
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._stamp: tuple[int, ...] | None = None
        self._keys: list[Key] = []
        if path is not None:
            self._stamp = _stamp(path)
            self._keys = read_keys(path)

    @property
    def is_asked(self) -> bool:
        """Whether callers need a key."""
        return self._own is not None or self._path is not None

    def caller(self, given: bytes) -> Caller | None:
        """Whose key this is; None if nobody's. Takes the same time whichever key is right."""
        if not self.is_asked:
            return ANYBODY
        digest = hash_of(given)
        found: Caller | None = None
        if self._own is not None and hmac.compare_digest(digest, self._own):
            found = _OWNER
        moment = self._clock()
        for key in self._current():
            if hmac.compare_digest(digest, key.hash) and not key.is_expired(moment):
                found = found or Caller(key.name, key.scopes)
        return found

    def _current(self) -> list[Key]:
        if self._path is None:
            return []
        with self._lock:
            stamp = _stamp(self._path)
            if stamp != self._stamp:
                self._stamp = stamp
                self._reload(self._path)
            return self._keys

    def _reload(self, path: Path) -> None:
        try:
            self._keys = read_keys(path)
        except InvalidInput as error:
            logger.error("The keys that were read before stay in force. %s", error)
        else:
            logger.warning("Read %d keys from %s, which changed.", len(self._keys), path)


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode)


def given_key(request: Request) -> bytes:
    """The key in X-API-Key, else the password of HTTP Basic; empty where there is none."""
    header = request.headers.get("x-api-key")
    # Header values are bytes that Starlette shows as Latin-1; clients send UTF-8.
    return _basic_password(request) if header is None else header.encode("latin-1")


def _basic_password(request: Request) -> bytes:
    scheme, _, payload = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(payload, validate=True).partition(b":")[2]
    except ValueError:  # not base64
        return b""


def scope_of(route: Any, method: str) -> str:
    """The scope that a route asks for: as it says itself, else by method and last word.

    A route that changes something and does not say so asks for `edit`.
    """
    said = (getattr(route, "openapi_extra", None) or {}).get(SCOPE_FIELD)
    if said is not None:
        return str(said)
    if method in ("GET", "HEAD", "OPTIONS"):
        return "read"
    last = str(getattr(route, "path", "")).rstrip("/").replace(":", "/").rpartition("/")[2]
    return "predict" if method == "POST" and last in _ONLY_LOOKS else "edit"
