"""Requests over HTTP: API key, retries of a busy service, problems as errors of the library."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from dncbm.errors import (
    ArtifactMismatch,
    DncbmError,
    InvalidInput,
    Unavailable,
    UnknownName,
)

Photo = bytes | str | Path
"""The bytes of an image file, or its path."""

_BUSY = (429, 503)
_LONGEST_WAIT = 30.0
_FIRST_WAIT = 0.5


class Transport:
    """Sends requests to one service.

    Args:
        url: of the service.
        api_key: where it asks for one.
        timeout: seconds to connect, and between two pieces of an answer.
        retries: how often a busy service is asked again, after the time it names.
        transport: of httpx, instead of the network.
        sleep: waits that many seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float = 60.0,
        retries: int = 3,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        key = {} if api_key is None else {b"X-API-Key": api_key.encode()}
        self.url = _checked(url)
        self._http = httpx.Client(
            base_url=self.url,
            headers={b"Accept": b"application/json", **key},
            timeout=timeout,
            transport=transport,
        )
        self._retries = retries
        self._sleep = sleep

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def send(self, method: str, path: str, **options: Any) -> Any:
        """The JSON of the answer, None where there is none; options are those of httpx.

        Raises:
            DncbmError: the service refused, see `error_of`.
            Unavailable: it does not answer, or is still busy after all retries.
        """
        with _reachable(self.url):
            for attempt in range(self._retries + 1):
                answer = self._http.request(method, path, **options)
                if answer.status_code not in _BUSY or attempt == self._retries:
                    break
                self._sleep(_wait(answer.headers.get("retry-after", ""), attempt))
        if not answer.is_success:
            raise error_of(answer.status_code, answer.text)
        try:
            return answer.json() if answer.content else None
        except ValueError as error:
            raise DncbmError(f"{self.url} answered no JSON; is it a dncbm service?") from error

    def events(self, path: str) -> Iterator[tuple[str, Any]]:
        """Server-sent events as (event, data), until the service ends them."""
        patient = httpx.Timeout(self._http.timeout.connect, read=None)
        headers = {"Accept": "text/event-stream"}
        with (
            _reachable(self.url),
            self._http.stream("GET", path, headers=headers, timeout=patient) as answer,
        ):
            if not answer.is_success:
                raise error_of(answer.status_code, answer.read().decode(errors="replace"))
            yield from _events(answer.iter_lines())


@contextmanager
def _reachable(url: str) -> Iterator[None]:
    """Turn failures of the network into `Unavailable`."""
    try:
        yield
    except httpx.HTTPError as error:
        raise Unavailable(
            f"The service at {url} does not answer: {error or type(error).__name__}. "
            "See that it runs (`dncbm serve DIR`) and that the address is right."
        ) from error


def _checked(url: str) -> str:
    """The address without a slash at its end."""
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname)
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL):
        is_good = False
    if not is_good:
        raise InvalidInput(
            f"{url!r} is not the address of a service. Give for example http://127.0.0.1:8000."
        )
    return url.rstrip("/")


def _wait(retry_after: str, attempt: int) -> float:
    """Seconds: what the service says, else doubling."""
    said = retry_after.isascii() and retry_after.isdigit()
    wanted = float(retry_after[:6]) if said else _FIRST_WAIT * 2**attempt
    return min(wanted, _LONGEST_WAIT)


def error_of(status: int, text: str) -> DncbmError:
    """The error of the library that an answer stands for, with its detail."""
    detail = _detail(text) or f"The service answered {status} without a reason."
    if status == 404:
        return UnknownName.saying(detail)
    if status == 409:
        return ArtifactMismatch(detail)
    if status in (408, *_BUSY, 502, 504):
        return Unavailable(detail)
    return InvalidInput(detail) if 400 <= status < 500 else DncbmError(detail)


def _detail(text: str) -> str:
    try:
        found = json.loads(text)["detail"]
    except (ValueError, KeyError, TypeError):
        return ""
    return str(found)


def _events(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """Events of a stream of lines; comments keep the connection alive and say nothing."""
    name, data = "message", []
    for line in lines:
        field, _, value = line.partition(":")
        if field == "event":
            name = value.strip()
        elif field == "data":
            data.append(value.removeprefix(" "))
        elif not line and data:
            yield name, json.loads("\n".join(data))
            name, data = "message", []


def files_of(images: Sequence[Photo]) -> list[tuple[str, tuple[str, bytes]]]:
    """The photos as files of a form.

    Raises:
        InvalidInput: no photo, or a file that cannot be read.
    """
    if not images or isinstance(images, str | bytes):
        raise InvalidInput("Give a list of at least one photo: paths, or bytes of image files.")
    return [("image", _file(image, index)) for index, image in enumerate(images)]


def _file(image: Photo, index: int) -> tuple[str, bytes]:
    if isinstance(image, bytes):
        return f"image{index}", image
    path = Path(image)
    try:
        return path.name, path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from error
