"""What every route needs, and the dependencies that hand it out."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.datastructures import URL

from api.curation import Curation
from api.errors import Forbidden, Unauthorized
from api.keys import KeyRing, given_key, scope_of
from api.lifecycle import Lifecycle
from api.limits import InferenceLimiter, UploadLimiter
from api.metrics import Metrics
from api.rates import RateLimiter
from api.readiness import Readiness
from api.registry import Registry, ServedModel
from api.settings import ServiceOptions
from dncbm.errors import InvalidInput, Unavailable, UnknownName
from dncbm.jobs.client import JobClient
from dncbm.registry.store import RegistryStore


@dataclass(frozen=True, slots=True)
class Service:
    """The parts of a running service, as values."""

    registry: Registry
    options: ServiceOptions
    limiter: InferenceLimiter
    uploads: UploadLimiter
    metrics: Metrics
    keys: KeyRing
    rates: RateLimiter
    lifecycle: Lifecycle
    readiness: Readiness
    store: RegistryStore | None = None
    curation: Curation | None = None
    jobs: JobClient | None = None
    """None where the service keeps no state."""

    async def follow_edits(self) -> None:
        """Serve the edit that is active now; asks the database at most once a second."""
        if self.curation is not None and self.curation.is_due:
            await run_in_threadpool(self.curation.refresh)

    def find(self, name: str, what: str = "model") -> ServedModel:
        """A model by id or alias with its active edit; may ask the database and load the model."""
        if self.curation is not None and self.curation.is_due:
            self.curation.refresh()
        return self.registry.model(name, what=what)


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
    """Who calls: 401 without a right key, 403 without the route's scope, 429 too often.

    The name of the key is left in `request.state.key_name`, for logs and audits.
    """
    _admit(request, service, "ApiKey")


async def require_key_of_browser(request: Request, service: ServiceDep) -> None:
    """Like `require_key`, but a browser opens its dialog; the key goes in as password."""
    _admit(request, service, 'Basic realm="dncbm, API key as password", charset="UTF-8"')


def _admit(request: Request, service: Service, challenge: str) -> None:
    caller = service.keys.caller(given_key(request))
    address = request.client.host if request.client else "unknown"
    if caller is None:  # counted too, so that keys cannot be tried without end
        service.rates.take(f"address {address}")
        raise Unauthorized(challenge)
    if service.keys.is_asked:
        request.state.key_name = caller.name
    service.rates.take(f"key {caller.name}" if service.keys.is_asked else f"address {address}")
    scope = scope_of(request.scope.get("route"), request.method)
    if not caller.may(scope):
        raise Forbidden(caller.name, scope)


def author_of(request: Request, given: str | None) -> str:
    """Who asks: the name of the API key where there is one, else what the body says.

    Raises:
        InvalidInput: neither.
    """
    author = getattr(request.state, "key_name", None) or (given or "").strip()
    if not author:
        raise InvalidInput(
            'author is missing. Say who makes the change, as in {"author": "Ada"}, or use an API '
            "key with a name."
        )
    return str(author)


async def get_model(model: str, service: ServiceDep, request: Request) -> ServedModel:
    """The model named in the path, by id or alias."""
    found = await find_model(service, model, "model")
    request.state.model = found.id  # for the log: known by now, not what a visitor typed
    return found


async def get_dictionary(dictionary: str, service: ServiceDep, request: Request) -> ServedModel:
    """The owner of the dictionary named in the path."""
    found = await find_model(service, dictionary, "dictionary")
    request.state.model = found.id
    return found


async def find_model(service: Service, name: str, what: str) -> ServedModel:
    """A model by id or alias; the database is asked, and a model loaded, beside the event loop."""
    await service.follow_edits()
    found = service.registry.get(name)
    if found is None:
        found = await run_in_threadpool(service.find, name, what)
    return found


async def get_store(service: ServiceDep) -> RegistryStore:
    """The record of artifacts, models and aliases.

    Raises:
        Unavailable: the service runs without one.
    """
    if service.store is None:
        raise Unavailable(
            "This service keeps no registry: its state folder cannot be written. Set "
            "DNCBM_STATE_DIR to a folder that can be."
        )
    return service.store


ModelDep = Annotated[ServedModel, Depends(get_model)]
DictionaryDep = Annotated[ServedModel, Depends(get_dictionary)]
StoreDep = Annotated[RegistryStore, Depends(get_store)]


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
