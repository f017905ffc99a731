"""The Open Inference Protocol, version 2, and the aliases of its version 1."""

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect

from api.errors import UploadAborted
from api.images import Upload, check_pixels, decode_uploads, from_base64
from api.inference import predict_uploads
from api.registry import ServedModel
from api.routes.explanations import Wanted, explained, numbers, read_wanted
from api.routes.predictions import UPLOAD_PROBLEMS
from api.schemas import ImagePrediction
from api.schemas.v2 import (
    ExplainAnswerV2,
    Explanations,
    InferAnswer,
    InferBody,
    InstancesBody,
    Live,
    ModelMetadata,
    ModelReady,
    Predictions,
    Ready,
    ServerMetadata,
    TensorMetadata,
)
from api.service import ModelDep, Nec, Service, ServiceDep
from api.tensors import (
    HEADER_LENGTH,
    INPUT,
    OPTIONAL,
    Call,
    Tensor,
    read_call,
    wanted_outputs,
    write_answer,
)
from dncbm.artifacts import package_version
from dncbm.errors import InvalidInput, Unavailable

router = APIRouter(prefix="/v2", tags=["protocol"])
health_router = APIRouter(prefix="/v2", tags=["protocol"])
aliases = APIRouter(prefix="/v1/models", tags=["protocol"])

_OUTPUTS = ("class", "class_index", "probability", "logits", OPTIONAL)
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/InferBody"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
_INSTANCES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/InstancesBody"}}},
    }
}
BODIES = (InferBody, InstancesBody)
"""Request bodies that the routes read themselves; the description of the API needs them too."""


@router.get("", summary="Describe the server")
async def server_metadata() -> ServerMetadata:
    """Name, version and extensions."""
    return ServerMetadata(
        name="dncbm", version=package_version(), extensions=["binary_tensor_data", "explain"]
    )


@health_router.get("/health/live", summary="The process answers")
async def live() -> Live:
    """As long as the process can answer at all."""
    return Live(live=True)


@health_router.get(
    "/health/ready",
    summary="Models are loaded and inference has room",
    responses={503: {"description": "An inference would be turned away now."}},
)
async def ready(service: ServiceDep) -> Ready:
    """`ready` when an inference would be accepted now; 503 otherwise."""
    if not service.registry.ids:
        raise Unavailable("No model is loaded. Start the service on a model directory.")
    service.limiter.refuse_when_full()
    service.uploads.refuse_when_full()
    return Ready(ready=True)


@router.get("/models/{model}", summary="Describe inputs and outputs of a model")
async def model_metadata(model: ModelDep) -> ModelMetadata:
    """One input, encoded image files; `codes` is answered only where it is asked for."""
    classes, concepts = len(model.predictor.classes), len(model.catalogue)
    return ModelMetadata(
        name=model.id,
        versions=[],
        platform="dncbm",
        inputs=[TensorMetadata(name=INPUT, datatype="BYTES", shape=[-1])],
        outputs=[
            TensorMetadata(name="class", datatype="BYTES", shape=[-1]),
            TensorMetadata(name="class_index", datatype="INT64", shape=[-1]),
            TensorMetadata(name="probability", datatype="FP32", shape=[-1]),
            TensorMetadata(name="logits", datatype="FP32", shape=[-1, classes]),
            TensorMetadata(name=OPTIONAL, datatype="FP32", shape=[-1, concepts]),
        ],
    )


@router.get("/models/{model}/ready", summary="The model is loaded")
async def model_ready(model: ModelDep) -> ModelReady:
    """Every model that is known here is loaded."""
    return ModelReady(name=model.id, ready=True)


async def read_tensors(request: Request, service: ServiceDep) -> Call:
    """The images and wishes of a request, under the limits of the service."""
    data = await _body(request, service)
    header = request.headers.get(HEADER_LENGTH)
    # base64 of megabytes takes a while, which the event loop must not spend
    return await run_in_threadpool(read_call, data, header, service.options)


async def read_instances(request: Request, service: ServiceDep) -> list[Upload]:
    """The images of a request of version 1, under the limits of the service."""
    data = await _body(request, service)
    return await run_in_threadpool(_instances, data, service.options.max_images)


def _instances(data: bytes, most: int) -> list[Upload]:
    parts = data.count(b",") + data.count(b":")
    if parts > 4 * most + 100:
        raise InvalidInput(
            f"The JSON body has {parts:,} commas and colons; that is no request for at most "
            f"{most} images."
        )
    try:
        instances = InstancesBody.model_validate_json(data).instances
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False)) from error
    if len(instances) > most:
        raise InvalidInput(f"The request has {len(instances)} images; send between 1 and {most}.")
    names = [f"instances[{index}]" for index in range(len(instances))]
    return [
        Upload(name, from_base64(item.image.b64, name))
        for name, item in zip(names, instances, strict=True)
    ]


async def _body(request: Request, service: Service) -> bytes:
    service.limiter.refuse_when_full()  # before an upload is read that would be turned away
    if request.headers.get("content-encoding", "identity") != "identity":
        raise InvalidInput("The body is compressed; images are already, so send it as it is.")
    try:
        async with service.uploads.place():
            return await request.body()
    except ClientDisconnect as error:
        raise UploadAborted from error


Tensors = Annotated[Call, Depends(read_tensors)]
Instances = Annotated[list[Upload], Depends(read_instances)]


@router.post(
    "/models/{model}/infer",
    summary="Classify photos",
    openapi_extra=_BODY,
    response_model=InferAnswer,
    response_model_exclude_none=True,
    responses=UPLOAD_PROBLEMS
    | {
        200: {
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
            }
        }
    },
)
def infer(model: ModelDep, service: ServiceDep, call: Tensors) -> Response:
    """Class, index, probability and logits of each photo; `codes` where it is asked for."""
    wanted = wanted_outputs(call.body, _OUTPUTS)
    nec = _parameters(call.body).nec
    model.check_nec(nec)
    check_pixels(call.uploads, service.options)
    with service.limiter.slot():
        found = _outputs(model, service, call.uploads, nec, OPTIONAL in wanted)
    service.metrics.count_images(model.id, len(call.uploads))
    return write_answer(model.id, call.body, {name: found[name] for name in wanted})


def _outputs(
    model: ServedModel, service: Service, uploads: list[Upload], nec: int | None, with_codes: bool
) -> dict[str, Tensor]:
    images = decode_uploads(uploads, service.options)
    classes = len(model.predictor.classes)
    options: dict[str, Any] = {"top_contributions": 0, "top_classes": classes, "nec": nec}
    found = {}
    if with_codes:
        codes = model.predictor.encode(model.predictor.embed(images))
        rankings = model.predictor.predict_codes(codes, **options)
        found[OPTIONAL] = Tensor("FP32", codes.detach().cpu().numpy())
    else:
        rankings = model.predictor.predict(images, **options)
    logits = np.zeros((len(images), classes), np.float32)
    for row, ranking in enumerate(rankings):
        for item in ranking:
            logits[row, item.class_index] = item.logit
    best = [ranking[0] for ranking in rankings]
    return found | {
        "class": Tensor("BYTES", [item.class_name for item in best]),
        "class_index": Tensor("INT64", [item.class_index for item in best]),
        "probability": Tensor("FP32", [item.probability for item in best]),
        "logits": Tensor("FP32", logits),
    }


@router.post(
    "/models/{model}/explain",
    summary="Show where classes, concepts and texts come from",
    openapi_extra=_BODY,
    response_model_exclude_none=False,
    responses=UPLOAD_PROBLEMS,
)
def explain(model: ModelDep, service: ServiceDep, call: Tensors) -> ExplainAnswerV2:
    """Per photo the maps asked for in `parameters`, as `/v1/models/{model}/explain` gives them."""
    given = _parameters(call.body)
    found = explained(
        model, service, call.uploads, given.wanted(), nec=given.nec, arrays=given.arrays
    )
    return ExplainAnswerV2(model_name=model.id, id=call.body.id, explanations=found)


class _Parameters(BaseModel):
    """Of a request; others are left to others, as the protocol says."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    nec: int | None = Field(default=None, ge=1)
    effective_concepts: int | None = Field(default=None, ge=1)
    classes: str | int | list[str | int] = Field(default=[], alias="class")
    concepts: str | int | list[str | int] = Field(default=[], alias="concept")
    texts: str | list[str] = Field(default=[], alias="text")
    top: int = Field(default=3, ge=0, le=20)
    arrays: bool = False

    def wanted(self) -> Wanted:
        """What to explain."""
        classes, concepts = _listed(self.classes), _listed(self.concepts)
        return Wanted(numbers(classes), numbers(concepts), _listed(self.texts), self.top)


def _listed(value: Any) -> list[str]:
    return [str(item) for item in (value if isinstance(value, list) else [value])]


def _parameters(body: InferBody) -> _Parameters:
    try:
        found = _Parameters.model_validate(body.parameters)
    except ValidationError as error:
        raise RequestValidationError(
            [item | {"loc": ("parameters", *item["loc"])} for item in error.errors()]
        ) from error
    if found.effective_concepts is not None:
        if found.nec not in (None, found.effective_concepts):
            raise InvalidInput("nec and effective_concepts are two names of one number; give one.")
        found.nec = found.effective_concepts
    return found


@aliases.post(
    "/{model}:predict",
    summary="Classify photos, as version 1 of the protocol asks",
    openapi_extra=_INSTANCES,
    responses=UPLOAD_PROBLEMS,
)
def predict_instances(
    model: ModelDep, service: ServiceDep, uploads: Instances, nec: Nec = None
) -> Predictions:
    """One entry per instance, in order, as `/v1/models/{model}/predict` gives them."""
    model.check_nec(nec)
    rankings = predict_uploads(service, model, uploads, nec=nec)
    return Predictions(
        predictions=[
            ImagePrediction.ranked(upload.name, ranking)
            for upload, ranking in zip(uploads, rankings, strict=True)
        ]
    )


@aliases.post(
    "/{model}:explain",
    summary="Show where classes, concepts and texts come from, as version 1 asks",
    openapi_extra=_INSTANCES,
    responses=UPLOAD_PROBLEMS,
)
def explain_instances(
    model: ModelDep,
    service: ServiceDep,
    uploads: Instances,
    wanted: Annotated[Wanted, Depends(read_wanted)],
    nec: Nec = None,
) -> Explanations:
    """One entry per instance, in order, as `/v1/models/{model}/explain` gives them."""
    found = explained(model, service, uploads, wanted, nec=nec, arrays=False)
    return Explanations(explanations=found)
