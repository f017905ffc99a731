"""Tensors of the Open Inference Protocol: a request read, an answer written, JSON or binary.

With the binary tensor data extension the body is JSON followed by the data of the tensors; the
header `Inference-Header-Content-Length` says where the JSON ends. An element of type BYTES is
its length, four bytes little-endian, and its bytes.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError

from api.images import Upload, from_base64
from api.schemas.v2 import Datatype, InferAnswer, InferBody, InferInput, OutputTensor
from api.settings import ServiceOptions
from dncbm.errors import InvalidInput, UnknownName

HEADER_LENGTH = "Inference-Header-Content-Length"
INPUT = "image"
OPTIONAL = "codes"
"""The output that is sent only where it is asked for by name."""
_PREFIX = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Call:
    """A request: its images and what it wants."""

    body: InferBody
    uploads: list[Upload]


@dataclass(frozen=True, slots=True)
class Tensor:
    """An output of a model; `values` are text, or an array."""

    datatype: Datatype
    values: Any

    @property
    def array(self) -> np.ndarray:
        """The values as an array of the right type."""
        types: dict[str, Any] = {"BYTES": object, "INT64": "<i8", "FP32": "<f4"}
        return np.asarray(self.values, dtype=types[self.datatype])


def read_call(data: bytes, header_length: str | None, options: ServiceOptions) -> Call:
    """A request from its body.

    Raises:
        InvalidInput: the tensors break the protocol, or too many images.
        RequestValidationError: the JSON is not of the right form.
    """
    size = len(data) if header_length is None else _header_length(header_length, len(data))
    body = _parse(data[:size], options)
    [tensor] = body.inputs
    _check_input(tensor)
    blob = tensor.parameters.get("binary_data_size")
    rest = data[size:]
    if blob is None:
        if rest:
            raise InvalidInput(f"{len(rest):,} bytes follow the JSON, but no input claims them.")
        images = _from_json(tensor)
    else:
        images = _from_binary(tensor, blob, rest, options)
    _check_count(tensor, len(images), options)
    return Call(body, [Upload(f"{INPUT}[{i}]", image) for i, image in enumerate(images)])


def _header_length(text: str, total: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 12 and int(text) <= total):
        raise InvalidInput(
            f"{HEADER_LENGTH} is {text[:40]!r}; it must be the length of the JSON, at most the "
            f"{total:,} bytes of the body."
        )
    return int(text)


def _parse(text: bytes, options: ServiceOptions) -> InferBody:
    # Every part of a JSON text costs memory, and a wrong one far more than its bytes.
    parts = text.count(b",") + text.count(b":") + text.count(b"[") + text.count(b"{")
    if parts > 8 * options.max_images + 400:
        raise InvalidInput(
            f"The JSON has {parts:,} commas, colons and brackets; that is no request for at most "
            f"{options.max_images} images."
        )
    try:
        return InferBody.model_validate_json(text)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False)) from error


def _check_input(tensor: InferInput) -> None:
    if tensor.name != INPUT:
        raise InvalidInput(f"There is no input {tensor.name!r}; the input is {INPUT!r}.")
    if tensor.datatype != "BYTES":
        raise InvalidInput(
            f"Input {INPUT!r} has datatype {tensor.datatype!r}; send BYTES, the files themselves."
        )


def _from_json(tensor: InferInput) -> list[bytes]:
    data = tensor.data or []
    if all(isinstance(item, list) for item in data):
        data = [element for item in data for element in item]
    for item in data:
        if not isinstance(item, str):
            raise InvalidInput(
                f"Input {INPUT!r} holds {str(item)[:40]!r}, not text. In JSON an image is the "
                "base64 text of its file."
            )
    return [from_base64(text, f"{INPUT}[{index}]") for index, text in enumerate(data)]


def _from_binary(
    tensor: InferInput, size: object, rest: bytes, options: ServiceOptions
) -> list[bytes]:
    if tensor.data is not None:
        raise InvalidInput(f"Input {INPUT!r} has both data and binary_data_size; send one.")
    if size != len(rest) or isinstance(size, bool):
        raise InvalidInput(
            f"binary_data_size is {str(size)[:40]}, but {len(rest):,} bytes follow the JSON. "
            f"See that {HEADER_LENGTH} is right."
        )
    images: list[bytes] = []
    place = 0
    while place < len(rest) and len(images) <= options.max_images:
        start = place + _PREFIX.size
        length = _PREFIX.unpack_from(rest, place)[0] if start <= len(rest) else len(rest)
        place = start + length
        if place > len(rest):
            raise InvalidInput(
                f"The binary data of {INPUT!r} end within element {len(images)}. Each element is "
                "its length, four bytes little-endian, and its bytes."
            )
        images.append(rest[start:place])
    return images


def _check_count(tensor: InferInput, found: int, options: ServiceOptions) -> None:
    if not 1 <= found <= options.max_images:
        raise InvalidInput(
            f"The request has {found if found <= options.max_images else 'too many'} images; "
            f"send between 1 and {options.max_images}."
        )
    if tensor.shape not in ([found], [found, 1]):
        raise InvalidInput(
            f"Input {INPUT!r} has shape {tensor.shape}, but {found} elements; write [{found}]."
        )


def wanted_outputs(body: InferBody, known: Sequence[str]) -> list[str]:
    """Names of the outputs to answer, in order; all but the optional one where none is named.

    Raises:
        InvalidInput: an output that there is not, or a parameter that is not known here.
    """
    if not body.outputs:
        return [name for name in known if name != OPTIONAL]
    for item in body.outputs:
        if item.name not in known:
            raise InvalidInput(str(UnknownName("output", item.name, known)))
        if item.parameters.get("classification"):
            raise InvalidInput(
                f"Output {item.name!r} asks for the classification extension, which is not "
                "offered; `class` and `probability` say the same."
            )
    return list(dict.fromkeys(item.name for item in body.outputs))


def write_answer(model: str, body: InferBody, tensors: Mapping[str, Tensor]) -> Response:
    """The answer: JSON, or JSON followed by the tensors that are wanted in binary."""
    every = body.parameters.get("binary_data_output") is True
    binary = {
        item.name: item.parameters.get("binary_data", every) is True for item in body.outputs or []
    }
    outputs, blobs = [], []
    for name, tensor in tensors.items():
        array = tensor.array
        fields: dict[str, Any] = {"name": name, "shape": list(array.shape)}
        if binary.get(name, every):
            blobs.append(_blob(tensor, array))
            fields["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            fields["data"] = array.ravel().tolist()
        outputs.append(OutputTensor(datatype=tensor.datatype, **fields))
    answer = InferAnswer(model_name=model, id=body.id, outputs=outputs)
    text = JSONResponse(answer.model_dump(exclude_none=True))
    if not blobs:
        return text
    length = str(len(text.body))
    return Response(
        b"".join([bytes(text.body), *blobs]),
        media_type="application/octet-stream",
        headers={HEADER_LENGTH: length},
    )


def _blob(tensor: Tensor, array: np.ndarray) -> bytes:
    if tensor.datatype != "BYTES":
        return array.tobytes()
    elements = [str(value).encode() for value in array.ravel()]
    return b"".join(_PREFIX.pack(len(element)) + element for element in elements)
