"""What every route needs, and the dependencies that hand it out."""

import base64
import hmac
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Query, Request
from fastapi.datastructures import URL

from api.errors import Unauthorized
from api.limits import InferenceLimiter, UploadLimiter
from api.metrics import Metrics
from api.registry import Registry, ServedModel
from api.settings import ServiceOptions
from dncbm.errors import InvalidInput, UnknownName


@dataclass(frozen=True, slots=True)
class Service:
    """The parts of a running service, as values."""

    registry: Registry
    options: ServiceOptions
    limiter: InferenceLimiter
    uploads: UploadLimiter
    metrics: Metrics


async def get_service(request: Request) -> Service:
    """The service that this request came to."""
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(get_service)]


async def refuse_unknown_query(request: Request) -> None:
    """A mistyped filter must not be answered as if nothing had been asked."""
    if not request.query_params:
        return
    described = request.app.openapi()["paths"][request.scope["route"].path_format]
    parameters = described[request.method.lower()].get("parameters", [])
    known = [item["name"] for item in parameters if item["in"] == "query"]
    for name in request.query_params:
        if name not in known:
            raise InvalidInput(str(UnknownName("query parameter", name[:100], known)))


async def require_key(
    request: Request,
    service: ServiceDep,
    x_api_key: Annotated[
        str | None, Header(description="Needed where the service was started with an API key.")
    ] = None,
) -> None:
    """Answer 401 unless the API key is right or none is asked for."""
    if not _has_key(request, service.options.api_key, x_api_key):
        raise Unauthorized("ApiKey")


async def require_key_of_browser(request: Request, service: ServiceDep) -> None:
    """Like `require_key`, but a browser opens its dialog; the key goes in as password."""
    if not _has_key(request, service.options.api_key, request.headers.get("x-api-key")):
        raise Unauthorized('Basic realm="dncbm, API key as password", charset="UTF-8"')


def _has_key(request: Request, expected: str | None, header: str | None) -> bool:
    if expected is None:
        return True
    # Header values are bytes that Starlette shows as Latin-1; clients send UTF-8.
    given = _basic_password(request) if header is None else header.encode("latin-1")
    return hmac.compare_digest(given, expected.encode())


def _basic_password(request: Request) -> bytes:
    """The password of HTTP Basic authentication, empty where there is none."""
    scheme, _, payload = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(payload, validate=True).partition(b":")[2]
    except ValueError:  # not base64
        return b""


async def get_model(model: str, service: ServiceDep) -> ServedModel:
    """The model named in the path."""
    return service.registry.model(model)


async def get_dictionary(dictionary: str, service: ServiceDep) -> ServedModel:
    """The owner of the dictionary named in the path."""
    return service.registry.model(dictionary, what="dictionary")


ModelDep = Annotated[ServedModel, Depends(get_model)]
DictionaryDep = Annotated[ServedModel, Depends(get_dictionary)]


async def read_nec(
    nec: Annotated[
        int | None,
        Query(
            ge=1,
            description="Use the probe with this many effective concepts per class; "
            "left out: the dense probe.",
        ),
    ] = None,
    effective_concepts: Annotated[
        int | None, Query(ge=1, description="Another name of `nec`.")
    ] = None,
) -> int | None:
    """How many effective concepts per class, by either name.

    Raises:
        InvalidInput: the two names say different numbers.
    """
    if nec is not None and effective_concepts not in (None, nec):
        raise InvalidInput(
            f"nec={nec} and effective_concepts={effective_concepts} are two names of one number; "
            "give one of them."
        )
    return effective_concepts if nec is None else nec


Nec = Annotated[int | None, Depends(read_nec)]


@dataclass(frozen=True, slots=True)
class Paging:
    """Which part of a list is asked for, and the address of the request."""

    limit: int
    offset: int
    url: URL

    def bounds(self, total: int) -> dict[str, int | str | None]:
        """The fields of `schemas.Page` for a list of `total` items."""
        following = self.offset + self.limit
        url = self.url.include_query_params(limit=self.limit, offset=following)
        address = f"{url.path}?{url.query}" if following < total else None
        return {"total": total, "limit": self.limit, "offset": self.offset, "next": address}

    @property
    def part(self) -> slice:
        """The items of this page."""
        return slice(self.offset, self.offset + self.limit)


async def get_paging(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=500, description="Items per page.")] = 50,
    offset: Annotated[int, Query(ge=0, le=2**31, description="Items to skip.")] = 0,
) -> Paging:
    """Paging as asked for in the query."""
    return Paging(limit, offset, request.url)


PagingDep = Annotated[Paging, Depends(get_paging)]
