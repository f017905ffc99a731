"""Answers that change only with the model: entity tags, and 304 to who has the current one."""

import hashlib
from typing import Annotated, Any

from fastapi import Depends, Request, Response

from api.browse import Browsers
from api.registry import ServedModel
from api.service import get_dictionary, get_model

CACHE = "private, no-cache"
"""May be kept, but has to be asked for again: an edit may have changed it."""
UNCHANGED: dict[int | str, dict[str, Any]] = {
    304: {"description": "The answer with the entity tag of If-None-Match is still the right one."}
}


class NotModified(Exception):
    """The client has the current answer."""

    def __init__(self, headers: dict[str, str]) -> None:
        super().__init__("not modified")
        self.headers = headers


async def not_modified(_: Request, error: Exception) -> Response:
    """304 without a body."""
    assert isinstance(error, NotModified)
    return Response(status_code=304, headers=error.headers)


async def get_browsers(request: Request) -> Browsers:
    """The browsers of the application."""
    browsers: Browsers = request.app.state.browsers
    return browsers


BrowsersDep = Annotated[Browsers, Depends(get_browsers)]


def tag_of(request: Request, version: str) -> str:
    """A strong entity tag: of the version, the address and the coding that is asked for."""
    coding = "gzip" if "gzip" in request.headers.get("accept-encoding", "") else "identity"
    parts = "\n".join((version, request.url.path, request.url.query, coding))
    return f'"{hashlib.sha256(parts.encode()).hexdigest()[:32]}"'


def has_current(request: Request, tag: str) -> bool:
    """Whether If-None-Match names this tag."""
    given = [item.strip() for item in request.headers.get("if-none-match", "").split(",")]
    return tag in (item.removeprefix("W/") for item in given)


def _mark(request: Request, response: Response, version: str) -> None:
    headers = {"ETag": tag_of(request, version), "Cache-Control": CACHE}
    if has_current(request, headers["ETag"]):
        raise NotModified(headers)
    response.headers.update(headers)


def tag_model(
    request: Request,
    response: Response,
    model: Annotated[ServedModel, Depends(get_model)],
    browsers: BrowsersDep,
) -> None:
    """Give the answer about a model its entity tag."""
    _mark(request, response, browsers.of(model).version)


def tag_dictionary(
    request: Request,
    response: Response,
    dictionary: Annotated[ServedModel, Depends(get_dictionary)],
    browsers: BrowsersDep,
) -> None:
    """Give the answer about a dictionary its entity tag."""
    _mark(request, response, browsers.of(dictionary).version)


def tagged_map(
    request: Request,
    response: Response,
    dictionary: Annotated[ServedModel, Depends(get_dictionary)],
    browsers: BrowsersDep,
) -> tuple[Any, bool]:
    """The map of a dictionary and whether it is final, with an entity tag that tells that too."""
    browser = browsers.of(dictionary)
    found, is_final = browser.map().now
    _mark(request, response, f"{browser.version} {found.method} {is_final}")
    return found, is_final


ModelTag = Depends(tag_model)
DictionaryTag = Depends(tag_dictionary)
MapDep = Annotated[tuple[Any, bool], Depends(tagged_map)]
