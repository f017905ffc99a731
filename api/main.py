"""The application, assembled from values."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from fastapi import Depends, FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from api.browse import Browsers
from api.conditional import NotModified, not_modified
from api.curation import Curation
from api.drift import DriftWatch
from api.encoders import batcher_of
from api.errors import AnswerFailures, install_error_handlers
from api.keys import KeyRing
from api.lifecycle import Drain, Lifecycle
from api.lifespan import lifespan
from api.limits import BodyLimit, InferenceLimiter, UploadLimiter
from api.logs import LogRequests
from api.metrics import Metrics, ObserveRequests
from api.openapi import describe
from api.rates import RateLimiter
from api.readiness import Check, Readiness
from api.registry import Registry, ServedModel
from api.routes import browse, dictionaries, explanations, health, models, pages, predictions, v2
from api.routes import curation as curation_routes
from api.routes import drift as drift_routes
from api.routes import jobs as job_routes
from api.routes import registry as registry_routes
from api.routes.predictions import NDJSON
from api.schemas import Problem
from api.security import CheckHost, SecurityHeaders
from api.service import Service, refuse_unknown_query, require_key, require_key_of_browser
from api.settings import ServiceOptions
from api.shedding import ShedLoad
from api.tracing import Tracer, open_tracer
from dncbm.artifacts import package_version
from dncbm.jobs.client import JobClient

_TAGS = [
    {"name": "predictions", "description": "Classify photos and explain each decision."},
    {"name": "models", "description": "What is served, and what each class looks for."},
    {"name": "dictionaries", "description": "Browse and search the discovered concepts."},
    {"name": "registry", "description": "Where models come from, and what their aliases are."},
    {"name": "curation", "description": "Change concepts, measure what it costs, go back."},
    {"name": "jobs", "description": "Run pipelines in the background, and follow them."},
    {
        "name": "protocol",
        "description": "The Open Inference Protocol of KServe and Triton.",
    },
    {"name": "drift", "description": "Do live photos look like the training photos."},
    {"name": "health", "description": "Is the service up, and how is it doing."},
]

_DENSE = (*DEFAULT_EXCLUDED_CONTENT_TYPES, "application/octet-stream", NDJSON)
"""Sent as it is: pictures and tensors are dense already, lines and events must not wait."""

_PROBLEM: dict[str, Any] = {"model": Problem, "content": {"application/problem+json": {}}}


def create_app(
    registry: Registry,
    options: ServiceOptions | None = None,
    *,
    checks: Mapping[str, Check] | None = None,
    tracer: Tracer | None = None,
    curation: Curation | None = None,
    jobs: JobClient | None = None,
    drift: DriftWatch | None = None,
) -> FastAPI:
    """The service for the models of `registry`; reads no environment, and of files the keys file.

    Args:
        registry: what is served.
        options: limits, keys and the like.
        checks: what `/readyz` asks besides, by name.
        tracer: where spans go; by default as `options.otel` says.
        curation: serves the active edits of the models, and makes new ones.
        jobs: takes and shows jobs.
        drift: watches the concepts of live photos.
    """
    options = options or ServiceOptions()
    limiter = InferenceLimiter(options.concurrency, options.waiting, options.wait_seconds)
    uploads = UploadLimiter(options.concurrency + options.waiting, options.read_seconds)
    lifecycle = Lifecycle()
    tracer = tracer or open_tracer(options.otel)
    metrics = Metrics(limiter, uploads, lifecycle, tracer)
    app = FastAPI(
        title="dncbm",
        summary="Classes of photos, explained in named concepts.",
        version=package_version(),
        openapi_tags=_TAGS,
        docs_url=None,  # Swagger's page loads scripts from elsewhere; ours is in pages.py
        redoc_url=None,
        lifespan=lifespan,
        responses={422: _PROBLEM | {"description": "The request breaks a rule."}},
    )
    service = Service(
        registry=registry,
        options=options,
        limiter=limiter,
        uploads=uploads,
        metrics=metrics,
        keys=KeyRing(options.api_key, options.keys_file),
        rates=RateLimiter(options.rate_limit),
        lifecycle=lifecycle,
        readiness=Readiness(checks),
        store=registry.store,
        curation=curation,
        jobs=jobs,
    )
    app.state.service = service
    app.state.browsers = Browsers(options, limiter)
    registry.when_gone(app.state.browsers.retain)
    app.state.drift = drift
    app.state.on_shutdown = [drift.close] if drift else []
    registry.follow(partial(_watch, metrics, drift))
    if curation is not None:
        curation.refresh()
    app.add_exception_handler(NotModified, not_modified)
    install_error_handlers(app)
    _add_routes(app)
    app.openapi = partial(describe, app)  # type: ignore[method-assign]
    _add_middleware(app, service, tracer)
    return app


def _watch(metrics: Metrics, drift: DriftWatch | None, model: ServedModel) -> None:
    """Show the passes and the drift of a model that has come."""
    if batcher := batcher_of(model.predictor):
        batcher.on_pass = metrics.count_pass
    if drift and (monitor := drift.monitor(model.path)):
        metrics.watch_drift(model.id, monitor)


def _add_middleware(app: FastAPI, service: Service, tracer: Tracer) -> None:
    """The last that is added is the first that a request meets."""
    options = service.options
    app.add_middleware(
        GZipMiddleware, minimum_size=1000, compresslevel=6, exclude_content_types=_DENSE
    )
    app.add_middleware(BodyLimit, limit=options.max_upload_bytes, seconds=options.read_seconds)
    app.add_middleware(AnswerFailures)
    app.add_middleware(ShedLoad, limiter=service.limiter, uploads=service.uploads)
    if options.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(options.cors_origins),
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["X-API-Key", "X-Request-ID", "Content-Type"],
            expose_headers=[
                "X-Request-ID",
                "Retry-After",
                "ETag",
                "Inference-Header-Content-Length",
            ],
        )
    if options.allowed_hosts:
        app.add_middleware(CheckHost, hosts=options.allowed_hosts)
    app.add_middleware(Drain, lifecycle=service.lifecycle)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(ObserveRequests, metrics=service.metrics, tracer=tracer)
    app.add_middleware(LogRequests)
    if options.trusted_proxies:
        app.add_middleware(
            ProxyHeadersMiddleware,
            trusted_hosts=list(options.trusted_proxies),
        )


def _add_routes(app: FastAPI) -> None:
    keyed = [Depends(require_key)]
    strict = [*keyed, Depends(refuse_unknown_query)]
    refused: dict[int | str, dict[str, Any]] = {
        400: _PROBLEM | {"description": "The body cannot be read."},
        401: _PROBLEM | {"description": "The API key is missing or wrong."},
        403: _PROBLEM | {"description": "The API key has too small a scope."},
        429: _PROBLEM | {"description": "Too many requests; see Retry-After."},
        404: _PROBLEM | {"description": "No such model, dictionary, class, concept or job."},
        503: _PROBLEM | {"description": "Busy or not available now; see Retry-After."},
    }
    rooms = (
        predictions, explanations, models, dictionaries, browse, curation_routes, job_routes,
        registry_routes, drift_routes,
    )  # fmt: skip
    for room in rooms:
        app.include_router(room.router, dependencies=strict, responses=refused)
    app.include_router(v2.aliases, dependencies=strict, responses=refused)
    app.include_router(v2.router, dependencies=strict, responses=refused)
    app.include_router(v2.health_router)
    app.include_router(health.router)
    app.include_router(health.metrics_router, dependencies=keyed)
    app.include_router(pages.router)
    app.include_router(pages.report_router, dependencies=[Depends(require_key_of_browser)])
