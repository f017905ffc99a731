"""What is served, and what each class looks for."""

from typing import Any

import numpy as np
from fastapi import APIRouter

from api.conditional import UNCHANGED, ModelTag
from api.encoders import serving_details
from api.registry import ServedModel
from api.schemas import (
    ClassList,
    ClassOut,
    ClassWeights,
    ModelDetail,
    ModelList,
    ModelOut,
    WeightOut,
)
from api.service import ModelDep, Nec, PagingDep, ServiceDep

router = APIRouter(prefix="/v1/models", tags=["models"])


def _fields(model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.id,
        "dictionary": model.id,
        "classes": list(model.predictor.classes),
        "num_concepts": len(model.catalogue),
        "effective_concepts": model.effective_concepts,
    }


@router.get("", summary="List the models")
def list_models(service: ServiceDep, paging: PagingDep) -> ModelList:
    """Every model that this service offers."""
    models = service.registry.models
    return ModelList(
        models=[ModelOut(**_fields(model)) for model in models[paging.part]],
        **paging.bounds(len(models)),  # type: ignore[arg-type]
    )


@router.get("/{model}", summary="Describe a model")
def describe_model(model: ModelDep) -> ModelDetail:
    """Classes, recipe, fingerprints and measurements of a model."""
    details = model.predictor.describe() | {
        "edit": model.edit, "serving": serving_details(model.predictor),
    }  # fmt: skip
    return ModelDetail(**_fields(model), details=details)


@router.get(
    "/{model}/classes",
    summary="List the classes of a model",
    dependencies=[ModelTag],
    responses=UNCHANGED,
)
def list_classes(model: ModelDep, paging: PagingDep, nec: Nec = None) -> ClassList:
    """Bias and number of effective concepts of each class."""
    weights, bias = _arrays(model, nec)
    classes = [
        ClassOut(
            index=index,
            class_name=name,
            bias=bias[index],
            effective_concepts=int(np.count_nonzero(weights[index])),
        )
        for index, name in enumerate(model.predictor.classes)
    ]
    return ClassList(
        classes=classes[paging.part],
        **paging.bounds(len(classes)),  # type: ignore[arg-type]
    )


@router.get(
    "/{model}/classes/{k:path}",
    summary="Explain a class",
    dependencies=[ModelTag],
    responses=UNCHANGED,
)
def explain_class(model: ModelDep, k: str, paging: PagingDep, nec: Nec = None) -> ClassWeights:
    """The weights of a class (by name or index), largest by absolute value first."""
    index = model.class_index(k)
    weights, bias = _arrays(model, nec)
    row = weights[index]
    order = np.argsort(-np.abs(row), kind="stable")[: np.count_nonzero(row)]
    listed = [
        WeightOut(concept=c, name=model.catalogue.concept(c).name, weight=float(row[c]))
        for c in order[paging.part].tolist()
    ]
    return ClassWeights(
        index=index,
        class_name=model.predictor.classes[index],
        bias=bias[index],
        weights=listed,
        **paging.bounds(len(order)),  # type: ignore[arg-type]
    )


def _arrays(model: ServedModel, nec: int | None) -> tuple[np.ndarray[Any, Any], list[float]]:
    probe = model.probe(nec)
    weights = np.asarray(probe.weights.detach().cpu())
    return weights, [float(value) for value in probe.bias]
