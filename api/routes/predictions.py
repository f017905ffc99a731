"""Photos in, classes with named contributions out."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect

from api.errors import UploadAborted
from api.images import Upload, check_pixels, read_uploads
from api.inference import as_json, predict_uploads
from api.schemas import ImagePrediction, PredictAnswer, PredictBody, Problem
from api.service import ModelDep, Nec, ServiceDep
from dncbm.errors import DncbmError
from dncbm.types import ListedBy

router = APIRouter(prefix="/v1/models", tags=["predictions"])

NDJSON = "application/x-ndjson"
_BATCH = 8
"""Photos per batch of a stream."""

UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "description": "One photo, or the field repeated for several.",
                        }
                    },
                }
            },
            "application/json": {"schema": PredictBody.model_json_schema()},
        },
    }
}
_EXAMPLE = {
    "model": "clothing",
    "predictions": [
        {
            "class": "Shoes",
            "class_index": 4,
            "probability": 0.93,
            "logit": 6.25,
            "bias": 0.25,
            "remainder": 1.5,
            "contributions": [
                {
                    "concept": 17,
                    "name": "sneaker",
                    "code": 2.0,
                    "weight": 1.5,
                    "contribution": 3.0,
                    "concepts": [17, 56],
                },
                {
                    "concept": 99,
                    "name": "lace",
                    "code": 3.0,
                    "weight": 0.5,
                    "contribution": 1.5,
                    "concepts": [],
                },
            ],
            "image": "photo.jpg",
            "alternatives": [],
        }
    ],
}
By = Annotated[
    ListedBy,
    Query(
        description="What a contribution stands for: one concept, or all concepts of one name, "
        "added up; `concepts` then tells which."
    ),
]


@dataclass(frozen=True, slots=True)
class Listing:
    """How much of each decision is listed."""

    top_contributions: int
    top_classes: int
    by: ListedBy


async def read_listing(
    top_contributions: Annotated[int, Query(ge=0, le=1000, description="Parts listed.")] = 5,
    top_classes: Annotated[int, Query(ge=1, le=1000, description="Classes listed.")] = 1,
    by: By = "concept",
) -> Listing:
    """What the query asks to list."""
    return Listing(top_contributions, top_classes, by)


_PROBLEM: dict[str, Any] = {"model": Problem, "content": {"application/problem+json": {}}}
UPLOAD_PROBLEMS: dict[int | str, dict[str, Any]] = {
    408: _PROBLEM | {"description": "The upload took too long."},
    413: _PROBLEM | {"description": "The body is larger than the upload limit."},
    415: _PROBLEM | {"description": "Neither multipart/form-data nor JSON."},
    503: _PROBLEM | {"description": "All inference slots are busy; see Retry-After."},
}


async def read_photos(request: Request, service: ServiceDep) -> list[Upload]:
    """The photos of a request, under the limits of the service."""
    service.limiter.refuse_when_full()  # before an upload is read that would be turned away
    try:
        async with service.uploads.place():
            return await read_uploads(request, service.options)
    except ClientDisconnect as error:
        raise UploadAborted from error


@router.post(
    "/{model}/predict",
    summary="Classify photos and explain the decisions",
    openapi_extra=UPLOAD_BODY,
    response_model=PredictAnswer,
    responses=UPLOAD_PROBLEMS
    | {
        200: {
            "content": {
                "application/json": {"example": _EXAMPLE},
                NDJSON: {"schema": {"type": "string"}},
            }
        }
    },
)
def predict(
    request: Request,
    model: ModelDep,
    service: ServiceDep,
    uploads: Annotated[list[Upload], Depends(read_photos)],
    listing: Annotated[Listing, Depends(read_listing)],
    nec: Nec = None,
) -> Response:
    """One entry per photo, in order; `bias` + `contributions` + `remainder` = `logit`, exactly.

    With `Accept: application/x-ndjson` each photo is a line of its own, sent when it is ready.
    """
    model.check_nec(nec)

    def predicted(part: list[Upload]) -> list[ImagePrediction]:
        rankings = predict_uploads(service, model, part, nec=nec, **asdict(listing))
        return [
            ImagePrediction.ranked(upload.name, ranking)
            for upload, ranking in zip(part, rankings, strict=True)
        ]

    if NDJSON in request.headers.get("accept", ""):
        check_pixels(uploads, service.options)  # of all photos together
        return _stream(predicted, uploads)
    return as_json(PredictAnswer(model=model.id, predictions=predicted(uploads)))


def _stream(
    predicted: Callable[[list[Upload]], list[ImagePrediction]], uploads: list[Upload]
) -> StreamingResponse:
    """Batch by batch, each in an inference slot of its own, so a slow reader holds none."""
    batches = [uploads[i : i + _BATCH] for i in range(0, len(uploads), _BATCH)]
    first = predicted(batches[0])  # what can be refused is refused before the answer begins

    def lines() -> Iterator[str]:
        yield from map(_line, first)
        for batch in batches[1:]:
            try:
                yield from map(_line, predicted(batch))
            except DncbmError as error:
                for upload in batch:
                    yield json.dumps({"image": upload.name, "error": str(error)}) + "\n"

    return StreamingResponse(lines(), media_type=NDJSON)


def _line(item: ImagePrediction) -> str:
    return item.model_dump_json(by_alias=True) + "\n"
