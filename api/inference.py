"""Uploads through the encoder that all calls share."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from fastapi import Response
from PIL import Image
from pydantic import BaseModel

from api.encoders import batcher_of
from api.images import Upload, check_pixels, decode_uploads
from api.registry import ServedModel
from api.service import Service
from dncbm.types import Prediction


def predict_uploads(
    service: Service, model: ServedModel, uploads: Sequence[Upload], **query: Any
) -> list[list[Prediction]]:
    """Per upload its best classes; `query` as of `Predictor.predict`.

    A slot is held while photos are decoded and shrunk to what the encoder sees. Where a batcher
    computes for many calls, the slot then goes to the next one.

    Raises:
        InvalidInput: too many pixels, not an image, a bad option.
        Unavailable: busy.
    """
    check_pixels(uploads, service.options)
    batcher = batcher_of(model.predictor)
    expected = batcher.expected() if batcher else nullcontext()
    with expected, service.limiter.slot() as turn:
        if batcher is None:
            images = decode_uploads(uploads, service.options)
        else:
            images = shrunk_uploads(service, model, uploads)
            turn.end()
        rankings = model.predictor.predict(images, **query)
    service.metrics.count_images(model.id, len(rankings))
    return rankings


def shrunk_uploads(
    service: Service, model: ServedModel, uploads: Sequence[Upload]
) -> list[Image.Image]:
    """The uploads as the encoder sees them: its predictions of these are the same.

    One after the other, so that a single decoded photo is in memory.
    """
    return [
        Image.fromarray(model.predictor.seen(image))
        for upload in uploads
        for image in decode_uploads([upload], service.options)
    ]


def as_json(answer: BaseModel) -> Response:
    """The answer as JSON, written on the thread that calls: a long one never stalls others."""
    return Response(answer.model_dump_json(by_alias=True), media_type="application/json")
