"""Small annotation sets, written as the programs of the field write them."""

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from tests.unit.data.pictures import encode, noise

Files = Mapping[str, str | bytes]


def jpeg(width: int = 40, height: int = 30, seed: int = 0, **options: object) -> bytes:
    return encode(noise(seed, width, height), "JPEG", **options)


def write(root: Path, files: Files) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def zipped(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def voc(*objects: tuple[str, int, int, int, int], width: int = 40, height: int = 30) -> str:
    parts = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax>"
        f"<ymax>{d}</ymax></bndbox></object>"
        for name, a, b, c, d in objects
    )
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>x.jpg</filename>{size}{parts}</annotation>"


def coco(*annotations: Mapping[str, object], images: int = 1, **size: int) -> str:
    return json.dumps({
        "images": [
            {"id": i, "file_name": f"{i}.jpg", **({"width": 40, "height": 30} | size)}
            for i in range(1, images + 1)
        ],
        "annotations": [{"image_id": 1, "category_id": 7} | dict(a) for a in annotations],
        "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}],
    })  # fmt: skip


def indexed(values: np.ndarray) -> bytes:
    """A palette PNG, as VOC has them."""
    image = Image.fromarray(values.astype(np.uint8), "L").convert("P")
    image.putpalette([i // 3 for i in range(768)])
    image.putdata(values.astype(np.uint8).ravel().tolist())
    return encode(image)


def grey(values: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(data, "PNG")
    return data.getvalue()
