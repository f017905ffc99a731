"""A tiny model directory with the embeddings of its images, for what browses in them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dncbm.artifacts import create_artifact, load_manifest
from dncbm.data.images import decode_image
from dncbm.encoders.artifact import ITEMS, ITEMS_SCHEMA
from dncbm.predictor import Predictor
from tests.api.fakes import CLASSES, photo
from tests.api.test_real_model import write_model
from tests.unit.encoders.tiny import tiny_encoder

IMAGES = 24
LABELS = [CLASSES[index % len(CLASSES)] for index in range(IMAGES)]
SPLITS = ["test" if index % 4 == 3 else "train" for index in range(IMAGES)]


def write_browsable(root: Path) -> Path:
    """Photo of seed i is row i; every fourth is for tests."""
    encoder = tiny_encoder(root.parent / "encoder of the images")
    images = [decode_image(photo(seed)) for seed in range(IMAGES)]
    path = root.parent / "embeddings"
    with create_artifact(path, "embeddings", config={}, inputs={}) as draft:
        (draft.path / "shards").mkdir()
        rows = np.asarray(encoder.embed_pil(images), dtype=np.float32)
        np.save(draft.path / "shards" / "000000.npy", rows)
        pq.write_table(_items(), draft.path / ITEMS)
    inputs = {"embeddings": load_manifest(path).fingerprint}
    write_model(root, inputs)
    path.rename(root / "embeddings")
    return root


def _items() -> pa.Table:
    ids = [f"photos/{index}.png" for index in range(IMAGES)]
    return pa.table(
        {
            "id": ids,
            "path": ids,
            "label": LABELS,
            "split": SPLITS,
            "width": [30] * IMAGES,
            "height": [20] * IMAGES,
            "error": [None] * IMAGES,
            "row": list(range(IMAGES)),
        },
        schema=ITEMS_SCHEMA,
    )


def load_predictor(root: Path) -> Predictor:
    return Predictor.load(root, device="cpu")
