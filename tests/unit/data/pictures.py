"""Small encoded pictures for the tests of the data and encoder rooms."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, format=kind, **options)
    return data.getvalue()


def noise(seed: int, width: int = 24, height: int = 20) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_folder(root: Path, counts: dict[str, int]) -> Path:
    """`counts` maps folders such as `train/cat` to numbers of PNG files."""
    seed = 0
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            (root / folder / f"{index:03d}.png").write_bytes(encode(noise(seed)))
            seed += 1
    return root
