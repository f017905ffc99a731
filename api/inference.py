"""Uploads through the encoder that all calls share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import Response
from pydantic import BaseModel
from torch import Tensor

from api.encoders import batcher_of
from api.images import Upload, check_pixels, decode_uploads
from api.predicting import ServedPredictor
from api.registry import ServedModel
from api.service import Service
from dncbm.encoders.batching import Batcher
from dncbm.stages import stage
from dncbm.types import Prediction

_SHORT = 100
"""Contributions listed of a photo, up to which the thread of a pass lists them for all its calls:
a long list of one call would keep the others waiting."""


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
    if batcher is None:
        with service.limiter.slot():
            images = decode_uploads(uploads, service.options)
            rankings = model.predictor.predict(images, **query)
    else:
        rankings = _in_company(service, model, uploads, batcher, query)
    service.metrics.count_images(model.id, len(rankings))
    return rankings


def _in_company(
    service: Service, model: ServedModel, uploads: Sequence[Upload], batcher: Batcher,
    query: dict[str, Any],
) -> list[list[Prediction]]:  # fmt: skip
    """From pixels to contributions in passes that other calls share."""
    finish = _Finish(model.predictor, tuple(sorted(query.items())))
    listed = query.get("top_contributions", 0) * query.get("top_classes", 1)
    rankings: list[list[Prediction]] = []
    with batcher.expected(), service.limiter.slot() as turn:
        seen = shrunk_uploads(service, model, uploads)
        turn.end()
        for start in range(0, len(seen), batcher.max_batch):
            pixels = model.predictor.pixels(seen[start : start + batcher.max_batch])
            rankings += _ranked(batcher, pixels, finish, is_short=listed <= _SHORT)
    return rankings


def _ranked(
    batcher: Batcher, pixels: Tensor, finish: "_Finish", *, is_short: bool
) -> Sequence[list[Prediction]]:
    """Predictions of one call's pixels, made by the thread of the pass where they are short."""
    with stage("encode", len(pixels)):
        if is_short:
            return batcher.finished(pixels, finish)
        rows = batcher(pixels)
    return finish(rows)


@dataclass(frozen=True, slots=True)
class _Finish:
    """Embeddings to predictions; equal for calls that ask the same of the same model."""

    predictor: ServedPredictor
    query: tuple[tuple[str, Any], ...]

    def __call__(self, rows: Tensor) -> list[list[Prediction]]:
        return self.predictor.predict_embeddings(rows, **dict(self.query))


def shrunk_uploads(
    service: Service, model: ServedModel, uploads: Sequence[Upload]
) -> list[np.ndarray]:
    """The uploads as the encoder sees them, in bytes: a queue of them holds little.

    One after the other, so that a single decoded photo is in memory.
    """
    return [
        model.predictor.seen(image)
        for upload in uploads
        for image in decode_uploads([upload], service.options)
    ]


def as_json(answer: BaseModel) -> Response:
    """The answer as JSON, written on the thread that calls: a long one never stalls others."""
    return Response(answer.model_dump_json(by_alias=True), media_type="application/json")
