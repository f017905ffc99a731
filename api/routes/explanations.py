"""Photos in, maps out: where classes, concepts and texts come from."""

import base64
import io
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from fastapi import APIRouter, Depends, Query, Response
from PIL import Image

from api.catalogue import ConceptCatalogue
from api.images import Upload, check_pixels, decode_uploads
from api.inference import as_json
from api.registry import ServedModel
from api.routes.predictions import UPLOAD_BODY, UPLOAD_PROBLEMS, read_photos
from api.schemas import AttributionOut, ExplainAnswer, ImageExplanation
from api.service import ModelDep, Nec, Service, ServiceDep
from dncbm.bcos.render import heat, window_of
from dncbm.errors import InvalidInput
from dncbm.types import Attribution

router = APIRouter(prefix="/v1/models", tags=["predictions"])

_MOST = 32
"""Maps per request; a post hoc one may cost twenty passes of the encoder."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to explain in each photo."""

    classes: list[int | str]
    concepts: list[int | str]
    texts: list[str]
    top: int

    def maps(self, catalogue: ConceptCatalogue) -> int:
        """How many per photo; a name stands for all concepts that have it."""
        of_concepts = sum(
            max(1, catalogue.called(item)) if isinstance(item, str) else 1 for item in self.concepts
        )
        asked = len(self.classes) + of_concepts + len(self.texts)
        return asked or self.top + 1


async def read_wanted(
    classes: Annotated[
        list[str] | None,
        Query(alias="class", description="Names or indices, repeated for several: their logits."),
    ] = None,
    concepts: Annotated[
        list[str] | None,
        Query(alias="concept", description="Indices or names, repeated: their codes."),
    ] = None,
    texts: Annotated[
        list[str] | None,
        Query(alias="text", description="Repeated for several: their cosines with the photo."),
    ] = None,
    top: Annotated[
        int, Query(ge=0, le=20, description="Concepts, where nothing is asked for.")
    ] = 3,
) -> Wanted:
    """The targets of a request; indices may be written for names."""
    return Wanted(numbers(classes or []), numbers(concepts or []), texts or [], top)


@router.post(
    "/{model}/explain",
    summary="Show where classes, concepts and texts come from",
    openapi_extra=UPLOAD_BODY,
    response_model=ExplainAnswer,
    responses=UPLOAD_PROBLEMS,
)
def explain(
    model: ModelDep,
    service: ServiceDep,
    uploads: Annotated[list[Upload], Depends(read_photos)],
    wanted: Annotated[Wanted, Depends(read_wanted)],
    nec: Nec = None,
    arrays: Annotated[bool, Query(description="Add the numbers of each map.")] = False,
) -> Response:
    """Per photo the maps asked for, else those of the predicted class and its top concepts.

    Of an exact map `value` = sum of the map + `position` + `bias`; a post hoc one tells where,
    not how much (`exact`).
    """
    found = explained(model, service, uploads, wanted, nec=nec, arrays=arrays)
    return as_json(ExplainAnswer(model=model.id, explanations=found))


def explained(
    model: ServedModel,
    service: Service,
    uploads: list[Upload],
    wanted: Wanted,
    *,
    nec: int | None,
    arrays: bool,
) -> list[ImageExplanation]:
    """The maps of each photo, under the limits of the service."""
    model.check_nec(nec)
    check_pixels(uploads, service.options)
    _check_count(len(uploads) * wanted.maps(model.catalogue))
    with service.limiter.slot():
        images = decode_uploads(uploads, service.options)
        found = model.predictor.explain(
            images,
            classes=wanted.classes,
            concepts=wanted.concepts,
            texts=wanted.texts,
            top=wanted.top,
            nec=nec,
        )
    service.metrics.count_images(model.id, len(found))
    return [
        ImageExplanation(
            image=upload.name,
            seen=_png(model.predictor.seen(image)),
            attributions=[_attribution(item, arrays) for item in items],
        )
        for upload, image, items in zip(uploads, images, found, strict=True)
    ]


def numbers(items: list[str]) -> list[int | str]:
    """Indices as numbers, names as they are."""
    return [int(item) if _is_index(item) else item for item in items]


def _is_index(item: str) -> bool:
    return item.isascii() and item.isdigit() and len(item) < 10


def _check_count(maps: int) -> None:
    if maps > _MOST:
        raise InvalidInput(
            f"The request asks for {maps} maps; one request may ask for {_MOST}. Send fewer "
            "photos, ask for less at a time, or give concepts that share a name by index."
        )


def _attribution(item: Attribution, arrays: bool) -> AttributionOut:
    return AttributionOut(
        kind=item.kind,
        name=item.name,
        index=item.index,
        value=item.value,
        position=item.position,
        bias=item.bias,
        method=item.method,
        exact=item.exact,
        heat=_png(heat(torch.from_numpy(item.map), smooth=window_of(len(item.map))).numpy()),
        picture=None if item.picture is None else _png(item.picture),
        map=item.map.tolist() if arrays else None,
    )


def _png(pixels: np.ndarray) -> str:
    """A picture as a data address; numbers that are not bytes are shares of white."""
    if pixels.dtype != np.uint8:
        pixels = (pixels * 255).round().astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
