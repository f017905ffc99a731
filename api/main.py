"""The application, assembled from values."""

from typing import Any

from fastapi import Depends, FastAPI

from api.drift import DriftWatch
from api.encoders import batcher_of
from api.errors import install_error_handlers
from api.lifespan import lifespan
from api.limits import BodyLimit, InferenceLimiter, UploadLimiter
from api.metrics import Metrics, ObserveRequests
from api.registry import Registry
from api.routes import dictionaries, explanations, health, models, pages, predictions
from api.routes import drift as drift_routes
from api.schemas import Problem
from api.service import Service, refuse_unknown_query, require_key, require_key_of_browser
from api.settings import ServiceOptions
from dncbm.artifacts import package_version

_TAGS = [
    {"name": "predictions", "description": "Classify photos and explain each decision."},
    {"name": "models", "description": "What is served, and what each class looks for."},
    {"name": "dictionaries", "description": "Browse and search the discovered concepts."},
    {"name": "drift", "description": "Do live photos look like the training photos."},
    {"name": "health", "description": "Is the service up, and how is it doing."},
]

_PROBLEM: dict[str, Any] = {"model": Problem, "content": {"application/problem+json": {}}}


def create_app(
    registry: Registry,
    options: ServiceOptions | None = None,
    *,
    drift: DriftWatch | None = None,
) -> FastAPI:
    """The service for the models of `registry`; reads no environment and no files."""
    options = options or ServiceOptions()
    limiter = InferenceLimiter(options.concurrency, options.waiting, options.wait_seconds)
    uploads = UploadLimiter(options.concurrency + options.waiting, options.read_seconds)
    metrics = Metrics(limiter)
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
    app.state.service = Service(registry, options, limiter, uploads, metrics)
    for model in registry.models:
        if batcher := batcher_of(model.predictor):
            batcher.on_pass = metrics.count_pass
    app.state.drift = drift
    app.state.on_shutdown = [drift.close] if drift else []
    if drift is not None:
        for model in registry.models:
            if monitor := drift.monitor(model.path):
                metrics.watch_drift(model.id, monitor)
    install_error_handlers(app)
    _add_routes(app)
    app.add_middleware(BodyLimit, limit=options.max_upload_bytes)
    app.add_middleware(ObserveRequests, metrics=metrics)
    return app


def _add_routes(app: FastAPI) -> None:
    keyed = [Depends(require_key)]
    strict = [*keyed, Depends(refuse_unknown_query)]
    refused: dict[int | str, dict[str, Any]] = {
        401: _PROBLEM | {"description": "The API key is missing or wrong."},
        404: _PROBLEM | {"description": "There is no such model, dictionary, class or concept."},
    }
    for room in (predictions, explanations, drift_routes, models, dictionaries):
        app.include_router(room.router, dependencies=strict, responses=refused)
    app.include_router(health.router)
    app.include_router(health.metrics_router, dependencies=keyed)
    app.include_router(pages.router)
    app.include_router(pages.report_router, dependencies=[Depends(require_key_of_browser)])
