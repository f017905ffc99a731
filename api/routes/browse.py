"""Look at a model and its dictionary as wholes, and look up photos in them."""

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Query

from api.conditional import UNCHANGED, BrowsersDep, MapDep, ModelTag
from api.errors import NotFound
from api.images import Upload, check_pixels, decode_uploads
from api.registry import ServedModel
from api.routes.predictions import UPLOAD_BODY, UPLOAD_PROBLEMS, read_photos
from api.schemas.browse import (
    CalibrationOut,
    ConceptPush,
    ConfidenceBinOut,
    ConfusedBy,
    ConfusionOut,
    MapOut,
    ModelEvaluation,
    NecAccuracy,
    SharedConcept,
    SimilarAnswer,
    SimilarImage,
    StrongConcept,
    StrongConcepts,
)
from api.service import DictionaryDep, ModelDep, Service, ServiceDep
from dncbm.errors import InvalidInput

if TYPE_CHECKING:  # heavy: imported when something is computed
    from dncbm.naming.codes import Alike
    from dncbm.probe.evaluate import Calibration, Evaluation, Mistake

router = APIRouter()

_SPLITS = ("test", "validation", "train")
Limit = Annotated[int, Query(ge=1, le=500, description="Most matches.")]


@router.get(
    "/v1/models/{model}/evaluation",
    tags=["models"],
    summary="How good a model is, and what its mistakes rest on",
    dependencies=[ModelTag],
    responses=UNCHANGED,
)
def evaluation(model: ModelDep, browsers: BrowsersDep) -> ModelEvaluation:
    """Measured on the model's own test images; without its embeddings, what training wrote down."""
    control = model.predictor.cbm.metrics.get("random_control")
    try:
        split, found = browsers.of(model).evaluation()
    except (NotFound, InvalidInput) as error:
        return _written_down(model, control, str(getattr(error, "detail", error)))
    return ModelEvaluation(
        model=model.id,
        split=split,
        images=found.images,
        accuracy=found.accuracy,
        nec=[
            NecAccuracy(effective_concepts=nec, accuracy=value)
            for nec, value in found.by_nec.items()
        ],
        calibration=_calibration(found.calibration),
        random_control=control,
        confusion=ConfusionOut(
            classes=list(model.predictor.classes), counts=found.confusion.tolist()
        ),
        confused_by=_confused_by(model, found),
        reason=None,
    )


def _written_down(model: ServedModel, control: Any, reason: str) -> ModelEvaluation:
    """What the cbm's own metrics say, of the first split that they have."""
    measured = model.predictor.cbm.metrics.get("accuracy", {})
    splits = measured if isinstance(measured, dict) else {}
    split = next((name for name in _SPLITS if splits.get(name)), None)
    accuracy = splits[split] if split else {}
    return ModelEvaluation(
        model=model.id,
        split=split,
        images=None,
        accuracy=accuracy.get("dense"),
        nec=[
            NecAccuracy(effective_concepts=nec, accuracy=accuracy[f"nec{nec}"])
            for nec in model.effective_concepts
            if f"nec{nec}" in accuracy
        ],
        calibration=None,
        random_control=control,
        confusion=None,
        confused_by=[],
        reason=reason,
    )


def _calibration(found: "Calibration") -> CalibrationOut:
    return CalibrationOut(
        temperature=found.temperature,
        ece=found.ece,
        ece_calibrated=found.ece_calibrated,
        bins=[
            ConfidenceBinOut(
                low=one.low,
                high=one.high,
                images=one.images,
                confidence=one.confidence,
                accuracy=one.accuracy,
            )
            for one in found.bins
        ],
    )


def _confused_by(model: ServedModel, found: "Evaluation") -> list[ConfusedBy]:
    classes = model.predictor.classes

    def wire(item: "Mistake") -> ConfusedBy:
        return ConfusedBy(
            true=classes[item.true],
            predicted=classes[item.predicted],
            images=item.images,
            concepts=[
                ConceptPush(concept=c, name=model.catalogue.concept(c).name, contribution=value)
                for c, value in item.concepts
            ],
        )

    return [wire(item) for item in found.mistakes]


@router.get(
    "/v1/dictionaries/{dictionary}/map",
    tags=["dictionaries"],
    summary="The concepts on a plane",
    responses=UNCHANGED,
)
def concept_map(dictionary: DictionaryDep, layout: MapDep) -> MapOut:
    """Concepts whose directions are alike lie together.

    Computed once, the same every time. Of more than 300 concepts there are rough places at first,
    and `is_final` is false until those by t-SNE are there, up to a minute later.
    """
    found, is_final = layout
    catalogue = dictionary.catalogue
    concepts = range(len(catalogue))
    return MapOut(
        method=found.method,
        is_final=is_final,
        concepts=list(concepts),
        names=[item.name for item in catalogue.names],
        x=found.places[:, 0].round(5).tolist(),
        y=found.places[:, 1].round(5).tolist(),
        density=[catalogue.statistic("density", index) for index in concepts],
    )


@router.post(
    "/v1/dictionaries/{dictionary}/search",
    tags=["dictionaries"],
    summary="Find the concepts in a photo",
    openapi_extra=UPLOAD_BODY,
    responses=UPLOAD_PROBLEMS,
)
def search_image(
    dictionary: DictionaryDep,
    service: ServiceDep,
    uploads: Annotated[list[Upload], Depends(read_photos)],
    limit: Limit = 10,
) -> StrongConcepts:
    """The concepts with the largest codes; blocked ones are left out."""
    codes = _codes_of(dictionary, service, uploads)
    names = dictionary.catalogue.names
    order = np.argsort(-codes, kind="stable").tolist()
    shown = [c for c in order if codes[c] > 0 and names[c].status != "blocked"][:limit]
    return StrongConcepts(
        image=uploads[0].name,
        matches=[StrongConcept(concept=c, name=names[c].name, code=float(codes[c])) for c in shown],
    )


@router.post(
    "/v1/dictionaries/{dictionary}/similar",
    tags=["dictionaries"],
    summary="Find training images like a photo",
    openapi_extra=UPLOAD_BODY,
    responses=UPLOAD_PROBLEMS,
)
def similar_images(
    dictionary: DictionaryDep,
    service: ServiceDep,
    browsers: BrowsersDep,
    uploads: Annotated[list[Upload], Depends(read_photos)],
    limit: Limit = 10,
) -> SimilarAnswer:
    """Those with the most similar codes, and the concepts that make them so."""
    sample = browsers.of(dictionary).sample()
    found = sample.nearest(_codes_of(dictionary, service, uploads), limit)
    return SimilarAnswer(
        image=uploads[0].name,
        images=sample.images,
        total=sample.total,
        matches=[_similar(dictionary, item, sample.item_id(item.row)) for item in found],
    )


def _codes_of(model: ServedModel, service: Service, uploads: list[Upload]) -> np.ndarray:
    """Codes (c,) of the one photo of a request."""
    if len(uploads) != 1:
        raise InvalidInput(f"The request has {len(uploads)} images; this route takes one.")
    check_pixels(uploads, service.options)
    with service.limiter.slot():
        images = decode_uploads(uploads, service.options)
        codes = model.predictor.encode(model.predictor.embed(images))[0]
    return np.asarray(codes.detach().cpu(), dtype=np.float64)


def _similar(model: ServedModel, item: "Alike", item_id: str) -> SimilarImage:
    return SimilarImage(
        row=item.row,
        item_id=item_id,
        similarity=item.similarity,
        thumbnail=model.thumbnail_address(item.row),
        shared=[
            SharedConcept(concept=c, name=model.catalogue.concept(c).name) for c in item.shared
        ],
    )
