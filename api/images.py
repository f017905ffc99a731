"""Uploads of a request as images: read under limits, decoded by `dncbm.data.images`."""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from PIL import Image
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from api.errors import UnsupportedMedia
from api.schemas import PredictBody
from api.settings import ServiceOptions
from dncbm.data.images import ImageLimits, decode_image, image_size
from dncbm.errors import InvalidInput
from dncbm.stages import stage

FIELD = "image"
_TEXT_BYTES = 1024  # of a text field; none is read, and hostile charsets take time to decode
_NAME_LENGTH = 200
_WITH_CURL = f"With curl write -F {FIELD}=@photo.jpg, with the @."


@dataclass(frozen=True, slots=True)
class Upload:
    """The bytes of one image and the name under which answers and errors speak of it."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Field:
    """What a request has beside its images: JSON text in a form, a value in a JSON body."""

    name: str
    schema: type[PredictBody]
    """Of the JSON body, with the field."""
    most_bytes: int
    """Of the text in a form; hostile charsets take time to decode, which grows with its square."""
    most_parts: int
    """Commas and colons that it may add to a JSON body."""


async def read_uploads(request: Request, options: ServiceOptions) -> list[Upload]:
    """The images of a request body, multipart or JSON, not yet decoded.

    Raises:
        InvalidInput: no image, too many, not base64, or a field that is not a file.
        UnsupportedMedia: neither multipart/form-data nor application/json.
    """
    uploads, _ = await read_uploads_and(request, options)
    return uploads


async def read_uploads_and(
    request: Request, options: ServiceOptions, field: Field | None = None
) -> tuple[list[Upload], Any]:
    """The images of a request body, and the value of one more field; None without such a field.

    Raises:
        InvalidInput: as `read_uploads`, or the field is missing or not JSON.
        UnsupportedMedia: neither multipart/form-data nor application/json.
    """
    content_type = request.headers.get("content-type", "")
    match content_type.partition(";")[0].strip().lower():
        case "multipart/form-data":
            return await _from_form(request, options, field)
        case "application/json":
            # base64 of megabytes takes a while, which the event loop must not spend
            return await run_in_threadpool(_from_json, await request.body(), options, field)
        case _:
            raise UnsupportedMedia(content_type or "(none)")


async def _from_form(
    request: Request, options: ServiceOptions, field: Field | None
) -> tuple[list[Upload], Any]:
    most = field.most_bytes if field else _TEXT_BYTES
    try:
        async with request.form(
            max_files=options.max_images, max_fields=20, max_part_size=most
        ) as form:
            _check_form(form)
            files = [part for part in form.getlist(FIELD) if isinstance(part, UploadFile)]
            uploads = [Upload(_file_name(part), await part.read()) for part in files]
            return uploads, _json_field(form, field.name) if field else None
    except HTTPException as error:
        _explain(str(error.detail), options, field)
        raise


def _json_field(form: FormData, name: str) -> Any:
    text = form.get(name)
    try:
        if isinstance(text, str):
            return json.loads(text)
    except (ValueError, RecursionError):
        pass
    given = "nothing" if text is None else repr(text)[:60]
    raise InvalidInput(f"The form field {name!r} must hold JSON text, got {given}.")


def _file_name(part: UploadFile) -> str:
    """The name as sent, cut, without what JSON cannot say: some charsets make half characters."""
    name = part.filename or FIELD
    return name.encode("utf-8", "replace").decode()[:_NAME_LENGTH]


def _explain(detail: str, options: ServiceOptions, field: Field | None) -> None:
    """Raise our own error for two of Starlette's, which come in its words and as 400."""
    if detail.startswith("Too many files"):
        raise InvalidInput(
            f"The form has more than {options.max_images} files; send between 1 and "
            f"{options.max_images} images."
        )
    if detail.startswith("Part exceeded"):
        most = field.most_bytes if field else _TEXT_BYTES
        read = f"only files and {field.name} are read" if field else "only files are read"
        raise InvalidInput(
            f"A text field of the form has more than {most:,} bytes; {read}. {_WITH_CURL}"
        )


def _check_form(form: FormData) -> None:
    parts = form.getlist(FIELD)
    if not parts:
        found = ", ".join(repr(name[:40]) for name in list(dict.fromkeys(form))[:5]) or "none"
        raise InvalidInput(
            f"The form has no file field {FIELD!r} (fields: {found}). "
            f"Send the photo as {FIELD}, for example: curl -F {FIELD}=@photo.jpg"
        )
    if any(not isinstance(part, UploadFile) for part in parts):
        raise InvalidInput(f"The form field {FIELD!r} is text, not a file. {_WITH_CURL}")


def _from_json(
    body: bytes, options: ServiceOptions, field: Field | None
) -> tuple[list[Upload], Any]:
    # Every part of a JSON text costs memory, and a wrong one far more than its bytes.
    parts = body.count(b",") + body.count(b":")
    if parts > 4 * options.max_images + 100 + (field.most_parts if field else 0):
        raise InvalidInput(
            f"The JSON body has {parts:,} commas and colons. Send "
            f'{{"images": ["<base64>"]}} with 1 to {options.max_images} images.'
        )
    try:
        read = (field.schema if field else PredictBody).model_validate_json(body)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False)) from error
    images = read.images
    if len(images) > options.max_images:
        raise InvalidInput(
            f"The request has {len(images)} images; send between 1 and {options.max_images}."
        )
    uploads = [
        Upload(f"images[{index}]", from_base64(text, f"images[{index}]"))
        for index, text in enumerate(images)
    ]
    return uploads, getattr(read, field.name) if field else None


def from_base64(text: str, name: str) -> bytes:
    """Bytes from base64 text, with or without a `data:` prefix; `name` is for the error."""
    payload = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode("".join(payload.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(
            f"{name} is not base64: {error}. Encode the file's bytes, for example with "
            "`base64 -w0 photo.jpg`. Addresses are not fetched."
        ) from error


def check_pixels(uploads: Sequence[Upload], options: ServiceOptions) -> None:
    """Refuse more than `max_pixels` in all, as the headers state them: nothing is decoded.

    Raises:
        InvalidInput: too many pixels, or an upload is not an image; the message names it.
    """
    sizes = [_named(image_size, upload, options) for upload in uploads]
    pixels = sum(width * height for width, height in sizes)
    if pixels > options.max_pixels:
        raise InvalidInput(
            f"The {len(uploads)} images have {pixels:,} pixels together; one request may have "
            f"{options.max_pixels:,}. Send fewer or smaller images at a time."
        )


def decode_uploads(uploads: Sequence[Upload], options: ServiceOptions) -> list[Image.Image]:
    """The uploads as RGB images; `check_pixels` first, so that memory stays bounded.

    Raises:
        InvalidInput: an upload is not an image that can be read; the message names it.
    """
    with stage("decode", len(uploads)):
        return [_named(decode_image, upload, options) for upload in uploads]


_T = TypeVar("_T")


def _named(read: Callable[..., _T], upload: Upload, options: ServiceOptions) -> _T:
    limits = ImageLimits(
        max_bytes=options.max_upload_bytes, max_pixels=options.max_pixels, is_hostile=True
    )
    try:
        return read(upload.data, limits=limits)
    except InvalidInput as error:
        raise InvalidInput(f"Image {upload.name!r} cannot be used: {error}") from error
