"""Is the service up, is it ready, how is it doing."""

from typing import Any

from fastapi import APIRouter, Request, Response

from api.errors import RETRY_AFTER_SECONDS, problem
from api.schemas import Health, Problem
from api.service import ServiceDep
from dncbm.errors import Unavailable

router = APIRouter(tags=["health"])
metrics_router = APIRouter(tags=["health"])
_PROBLEM: dict[str, Any] = {"model": Problem, "content": {"application/problem+json": {}}}


@router.get("/healthz", summary="The process answers", response_model_exclude_none=True)
@router.head("/healthz", include_in_schema=False)  # for load balancers
async def healthz() -> Health:
    """`ok` as long as the process can answer at all."""
    return Health(status="ok")


@router.get(
    "/readyz",
    summary="The service can do its work now",
    response_model_exclude_none=True,
    responses={503: _PROBLEM | {"description": "It cannot; `checks` tells which part and why."}},
)
@router.head("/readyz", include_in_schema=False)
async def readyz(request: Request, service: ServiceDep) -> Any:
    """`ready` when a prediction would be accepted now; 503 with the reasons otherwise."""
    refused = service.registry.refused
    models = [name for name in service.registry.ids if name not in refused]
    if not models:
        raise Unavailable("No model is loaded. Start the service on a model directory.")
    service.limiter.refuse_when_full()
    service.uploads.refuse_when_full()
    checks = await service.readiness.ask()
    reasons = [f"{name}: {answer}" for name, answer in checks.items() if answer != "ok"]
    if reasons:
        return problem(
            request,
            503,
            kind="unavailable",
            title="Unavailable",
            detail=" ".join(reasons),
            headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
            extra={"checks": checks},
        )
    return Health(status="ready", models=models, checks=checks or None, refused=refused or None)


@metrics_router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}},
)
async def metrics(service: ServiceDep) -> Response:
    """Request counts and latencies by route, in the text exposition format."""
    return Response(service.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")
