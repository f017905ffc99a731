"""Where models come from, what their aliases are, and what changed between two of them."""

from typing import Annotated, Any

import numpy as np
import torch
from fastapi import APIRouter, Query, Request

from api.registry import ServedModel
from api.schemas.registry import (
    AliasBody,
    AliasChangeOut,
    AliasDetail,
    AliasList,
    AliasOut,
    ArtifactDetail,
    ArtifactList,
    ArtifactOut,
    Change,
    ConceptChange,
    DictionaryDiffOut,
    LineageOut,
    ModelDiffOut,
    ModelLineage,
    counts,
)
from api.service import Nec, PagingDep, Service, ServiceDep, StoreDep, author_of
from dncbm.artifacts import Kind
from dncbm.encoders.artifact import load_embeddings
from dncbm.errors import ArtifactError, InvalidInput
from dncbm.registry.diff import ModelParts, diff_dictionaries, diff_models
from dncbm.registry.matching import MIN_COSINE

router = APIRouter(prefix="/v1", tags=["registry"])

_EDIT = {"x-dncbm-scope": "edit"}
MinCosine = Annotated[
    float, Query(gt=0, le=1, description="Directions less alike than this are other concepts.")
]


@router.get("/artifacts", summary="List the artifacts")
def list_artifacts(store: StoreDep, paging: PagingDep, kind: Kind | None = None) -> ArtifactList:
    """Everything that was ever registered, of one kind or of all, the newest first."""
    found, total = store.artifacts(kind, limit=paging.limit, offset=paging.offset)
    return ArtifactList(
        artifacts=[ArtifactOut.of(item) for item in found],
        **paging.bounds(total),  # type: ignore[arg-type]
    )


@router.get("/artifacts/{fingerprint}", summary="Describe an artifact")
def describe_artifact(fingerprint: str, store: StoreDep) -> ArtifactDetail:
    """Its recipe, its measurements, and all that it was made from."""
    return ArtifactDetail.of(store.artifact(fingerprint), store.lineage(fingerprint))


@router.get("/models/{model}/lineage", summary="What a model was made from")
def model_lineage(model: str, store: StoreDep) -> ModelLineage:
    """The tree from its bottleneck down to the data and the encoder."""
    record = store.model(model)
    return ModelLineage(model=record.id, lineage=LineageOut.of(store.lineage(record.cbm)))


@router.get("/aliases", summary="List the aliases")
def list_aliases(store: StoreDep, paging: PagingDep) -> AliasList:
    """An alias stands for a model wherever the id of a model or a dictionary is asked for."""
    found = store.aliases()
    return AliasList(
        aliases=[AliasOut.of(item) for item in found[paging.part]],
        **paging.bounds(len(found)),  # type: ignore[arg-type]
    )


@router.get("/aliases/{alias}", summary="The history of an alias")
def describe_alias(alias: str, store: StoreDep, paging: PagingDep) -> AliasDetail:
    """Every change of an alias, the latest first; also of one that was removed."""
    history = store.alias_history(alias)
    return AliasDetail(
        alias=alias,
        model=history[0].model,
        history=[AliasChangeOut.of(item) for item in history[paging.part]],
        **paging.bounds(len(history)),  # type: ignore[arg-type]
    )


@router.put("/aliases/{alias}", summary="Set an alias", openapi_extra=_EDIT)
def put_alias(alias: str, body: AliasBody, store: StoreDep, request: Request) -> AliasOut:
    """Let an alias stand for a model from now on; given another alias, for what that stands for."""
    author = author_of(request, body.author)
    return AliasOut.of(store.set_alias(alias, body.model, author=author, reason=body.reason))


@router.delete("/aliases/{alias}", summary="Remove an alias", openapi_extra=_EDIT)
def delete_alias(
    alias: str,
    store: StoreDep,
    request: Request,
    reason: Annotated[str, Query(min_length=1, max_length=2000)],
    author: Annotated[
        str | None, Query(max_length=200, description="Left out where the key has a name.")
    ] = None,
) -> AliasChangeOut:
    """The last entry of its history, which stays."""
    by = author_of(request, author)
    return AliasChangeOut.of(store.delete_alias(alias, author=by, reason=reason))


@router.get("/dictionaries/{dictionary}/diff/{other}", summary="Compare two dictionaries")
def compare_dictionaries(
    dictionary: str,
    other: str,
    service: ServiceDep,
    paging: PagingDep,
    change: Annotated[
        Change | None, Query(description="Only concepts that changed in this way.")
    ] = None,
    min_cosine: MinCosine = MIN_COSINE,
) -> DictionaryDiffOut:
    """Concepts gained, lost, renamed and kept, matched by the cosine of their directions."""
    a, b = _both(service, dictionary, other, "dictionary")
    with service.limiter.slot():
        found = diff_dictionaries(
            a.predictor.dictionary, b.predictor.dictionary, min_cosine=min_cosine
        )
    concepts = [item for item in ConceptChange.all_of(found) if change in (None, item.change)]
    return DictionaryDiffOut(
        a=a.id,
        b=b.id,
        method=found.method,
        min_cosine=min_cosine,
        counts=counts(found),
        concepts=concepts[paging.part],
        **paging.bounds(len(concepts)),  # type: ignore[arg-type]
    )


@router.get("/models/{model}/diff/{other}", summary="Compare two models")
def compare_models(
    model: str,
    other: str,
    service: ServiceDep,
    paging: PagingDep,
    nec: Nec = None,
    images: Annotated[
        int,
        Query(
            ge=0, le=5000,
            description="Compare contributions and decisions on so many held-out images, whose "
            "embeddings lie beside the first model.",
        ),
    ] = 0,
    min_cosine: MinCosine = MIN_COSINE,
) -> ModelDiffOut:  # fmt: skip
    """Accuracy, classes, weights of matched concepts and, on images, contributions."""
    a, b = _both(service, model, other, "model")
    for one in (a, b):
        one.check_nec(nec)
    with service.limiter.slot():
        rows = held_out(a, images) if images else None
        found = diff_models(_parts(a), _parts(b), embeddings=rows, nec=nec, min_cosine=min_cosine)
    bounds: dict[str, Any] = paging.bounds(len(found.weights))
    return ModelDiffOut.of(a.id, b.id, found, paging.part, **bounds)


def _both(service: Service, a: str, b: str, what: str) -> tuple[ServedModel, ServedModel]:
    return service.find(a, what), service.find(b, what)


def _parts(model: ServedModel) -> ModelParts:
    predictor: Any = model.predictor
    return ModelParts(predictor.dictionary, predictor.cbm, predictor.sae)


def held_out(model: ServedModel, count: int) -> torch.Tensor:
    """Embeddings (n, d) of up to `count` test images, evenly spread; of any where none is held out.

    Raises:
        InvalidInput: the model's directory has no embeddings, or those of another training.
    """
    made_from = model.predictor.cbm.manifest.inputs.get("embeddings")
    try:
        found = load_embeddings(model.path / "embeddings")
    except ArtifactError:
        found = None
    if found is None or found.manifest.fingerprint != made_from:
        raise InvalidInput(
            f"Model {model.id!r} has no embeddings of its images beside it. Leave `images` out, or "
            "give the model that was trained here as the first one."
        )
    rows = found.rows("test")
    rows = rows if len(rows) else found.rows()
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int))
    return torch.from_numpy(found.load(rows[chosen]))
