"""Photos behind embedding rows, and real photos that every installation has."""

import logging

import numpy as np
from PIL import Image

from dncbm.data.images import decode_image
from dncbm.data.sources import ImageSource
from dncbm.encoders.cache import EmbeddingsArtifact
from dncbm.errors import DncbmError
from pipelines.embed import open_recipe_source
from pipelines.recipes import Recipe

logger = logging.getLogger(__name__)

SAMPLE_PHOTOS = ("chelsea", "coffee", "astronaut", "rocket")
"""Real photos inside the scikit-image package: a cat, a cup, a person, a rocket."""


def sample_photos() -> list[tuple[str, Image.Image]]:
    """The photos that scikit-image ships, by name."""
    from skimage import data

    return [
        (name, Image.fromarray(np.asarray(getattr(data, name)())).convert("RGB"))
        for name in SAMPLE_PHOTOS
    ]


def embedded_source(recipe: Recipe, embeddings: EmbeddingsArtifact) -> ImageSource | None:
    """The photos that were embedded; None where they are gone or have changed."""
    try:
        source = open_recipe_source(recipe)
    except DncbmError as error:
        logger.warning("The photos cannot be shown: %s", error)
        return None
    if source.fingerprint != embeddings.manifest.inputs["source"]:
        logger.warning("The photos cannot be shown: they have changed since they were embedded.")
        return None
    return source


def records_by_row(embeddings: EmbeddingsArtifact) -> dict[int, int]:
    """Index of the source's record behind each embedding row."""
    rows = embeddings.items["row"].to_pylist()
    return {row: record for record, row in enumerate(rows) if row >= 0}


def read_photo(source: ImageSource, record: int) -> Image.Image:
    """One photo of a source, decoded."""
    return decode_image(source.read(record))
