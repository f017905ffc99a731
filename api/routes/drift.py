"""Do live photos look like the training photos."""

import numpy as np
from fastapi import APIRouter, Request

from api.catalogue import finite
from api.drift import DriftWatch
from api.registry import ServedModel
from api.schemas.drift import ConceptDrift, DriftAnswer
from api.service import ModelDep, PagingDep
from dncbm.drift.compare import Comparison, compare
from dncbm.drift.monitor import DriftMonitor
from dncbm.drift.statistics import CodeStatistics
from dncbm.errors import Unavailable

router = APIRouter(prefix="/v1/models", tags=["drift"])


@router.get("/{model}/drift", summary="Compare live photos with the training photos")
def read_drift(model: ModelDep, request: Request, paging: PagingDep) -> DriftAnswer:
    """Concept by concept, the clearest shifts first; empty where nothing is counted."""
    monitor = _monitor(request, model)
    if monitor is None:
        return DriftAnswer(
            model=model.id,
            enabled=False,
            images=0,
            since=None,
            concepts_tested=0,
            concepts_shifted=0,
            share_shifted=None,
            psi=None,
            concepts=[],
            **paging.bounds(0),  # type: ignore[arg-type]
        )
    live, since = monitor.read()
    found = compare(live, monitor.reference)
    order = np.lexsort((-np.abs(found.effect), ~found.is_shifted)).tolist()
    return DriftAnswer(
        model=model.id,
        enabled=True,
        images=live.images,
        since=since,
        concepts_tested=found.tested,
        concepts_shifted=found.shifted,
        share_shifted=found.share_shifted,
        psi=found.psi,
        concepts=[_concept(model, monitor, live, found, c) for c in order[paging.part]],
        **paging.bounds(len(order)),  # type: ignore[arg-type]
    )


@router.delete(
    "/{model}/drift",
    status_code=204,
    summary="Begin counting anew",
    openapi_extra={"x-dncbm-scope": "admin"},
)
def reset_drift(model: ModelDep, request: Request) -> None:
    """Forget what was counted of this model."""
    monitor = _monitor(request, model)
    if monitor is None:
        raise Unavailable("Drift is not counted here. Start the service with DNCBM_DRIFT=1.")
    monitor.reset()


def _monitor(request: Request, model: ServedModel) -> DriftMonitor | None:
    watch: DriftWatch | None = request.app.state.drift
    return watch.monitor(model.path) if watch else None


def _concept(
    model: ServedModel,
    monitor: DriftMonitor,
    live: CodeStatistics,
    found: Comparison,
    concept: int,
) -> ConceptDrift:
    return ConceptDrift(
        concept=concept,
        name=model.catalogue.concept(concept).name,
        density_training=float(monitor.reference.density[concept]),
        density_live=float(live.density[concept]),
        mean_training=float(monitor.reference.mean[concept]),
        mean_live=float(live.mean[concept]),
        shift=finite(found.shift[concept]),
        p_value=finite(found.p_value[concept]),
        shifted=bool(found.is_shifted[concept]),
        examples=f"/v1/dictionaries/{model.id}/concepts/{concept}/examples",
    )
