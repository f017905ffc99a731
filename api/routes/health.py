"""Is the service up, is it ready, how is it doing."""

from fastapi import APIRouter, Response

from api.schemas import Health
from api.service import ServiceDep
from dncbm.errors import Unavailable

router = APIRouter(tags=["health"])
metrics_router = APIRouter(tags=["health"])


@router.get("/healthz", summary="The process answers", response_model_exclude_none=True)
@router.head("/healthz", include_in_schema=False)  # for load balancers
async def healthz() -> Health:
    """`ok` as long as the process can answer at all."""
    return Health(status="ok")


@router.get("/readyz", summary="Models are loaded and inference has room")
@router.head("/readyz", include_in_schema=False)
async def readyz(service: ServiceDep) -> Health:
    """`ready` when a prediction would be accepted now; 503 otherwise."""
    models = service.registry.ids
    if not models:
        raise Unavailable("No model is loaded. Start the service on a model directory.")
    service.limiter.refuse_when_full()
    service.uploads.refuse_when_full()
    return Health(status="ready", models=models)


@metrics_router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}},
)
async def metrics(service: ServiceDep) -> Response:
    """Request counts and latencies by route, in the text exposition format."""
    return Response(service.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")
