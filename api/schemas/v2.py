"""What travels by the Open Inference Protocol, version 2, and by the aliases of version 1."""

from typing import Any, Literal

from pydantic import Field

from api.schemas import ImageExplanation, ImagePrediction, _Schema

Datatype = Literal["BYTES", "INT64", "FP32"]


class ServerMetadata(_Schema):
    """Who answers, and what beyond the protocol."""

    name: str = Field(examples=["dncbm"])
    version: str = Field(examples=["0.1.0"])
    extensions: list[str] = Field(examples=[["binary_tensor_data", "explain"]])


class Live(_Schema):
    """The process answers."""

    live: bool = Field(examples=[True])


class Ready(_Schema):
    """Models are loaded and inference has room."""

    ready: bool = Field(examples=[True])


class ModelReady(_Schema):
    """The model is loaded."""

    name: str = Field(examples=["clothing"])
    ready: bool = Field(examples=[True])


class TensorMetadata(_Schema):
    """An input or output; -1 is a number of images that the request decides."""

    name: str = Field(examples=["image"])
    datatype: Datatype
    shape: list[int] = Field(examples=[[-1]])


class ModelMetadata(_Schema):
    """Inputs and outputs of a model."""

    name: str = Field(examples=["clothing"])
    versions: list[str] = Field(examples=[[]])
    platform: str = Field(examples=["dncbm"])
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class InferInput(_Schema):
    """The images of a request: files as they are on disk, JPEG, PNG and others."""

    name: str = Field(max_length=200, examples=["image"])
    shape: list[int] = Field(max_length=2, examples=[[1]])
    datatype: str = Field(max_length=20, examples=["BYTES"])
    parameters: dict[str, Any] = Field(
        default={}, description="`binary_data_size`, where the data follow the JSON."
    )
    data: list[Any] | None = Field(
        default=None, description="Base64 text per image.", examples=[["iVBORw0KGgoAAAANSUhEUg..."]]
    )


class InferWanted(_Schema):
    """An output that is asked for."""

    name: str = Field(max_length=200, examples=["class"])
    parameters: dict[str, Any] = Field(
        default={}, description="`binary_data`: send it after the JSON."
    )


class InferBody(_Schema):
    """A request to infer or explain."""

    id: str | None = Field(default=None, max_length=200, examples=["42"])
    parameters: dict[str, Any] = Field(
        default={},
        description="`nec` or `effective_concepts`; `binary_data_output`; to explain also `class`, "
        "`concept`, `text`, `top` and `arrays`.",
    )
    inputs: list[InferInput] = Field(min_length=1, max_length=1)
    outputs: list[InferWanted] | None = Field(default=None, max_length=20)


class OutputTensor(_Schema):
    """An output; without `data` where it follows the JSON."""

    name: str = Field(examples=["class"])
    shape: list[int] = Field(examples=[[1]])
    datatype: Datatype
    parameters: dict[str, Any] | None = None
    data: list[str] | list[int] | list[float] | None = Field(
        default=None, description="Row by row.", examples=[["Shoes"]]
    )


class InferAnswer(_Schema):
    """The outputs of a model."""

    model_name: str = Field(examples=["clothing"])
    id: str | None = Field(default=None, examples=["42"])
    outputs: list[OutputTensor]


class ExplainAnswerV2(_Schema):
    """One entry per image, in order."""

    model_name: str = Field(examples=["clothing"])
    id: str | None = Field(default=None, examples=["42"])
    explanations: list[ImageExplanation]


class ProtocolError(_Schema):
    """An error, as the protocol says it."""

    error: str = Field(examples=["There is no input 'pixels'; the input is 'image'."])


class Encoded(_Schema):
    """Bytes as base64 text."""

    b64: str = Field(examples=["iVBORw0KGgoAAAANSUhEUg..."])


class Instance(_Schema):
    """One image."""

    image: Encoded


class InstancesBody(_Schema):
    """Images as version 1 of the protocol sends them."""

    instances: list[Instance] = Field(min_length=1)


class Predictions(_Schema):
    """One entry per instance, in order."""

    predictions: list[ImagePrediction]


class Explanations(_Schema):
    """One entry per instance, in order."""

    explanations: list[ImageExplanation]
