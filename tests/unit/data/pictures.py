"""Small encoded pictures for the tests of the data and encoder rooms."""

import io
import struct
import zlib
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


Entry = tuple[int, int, int, int]


def tiled_tiff(tile: int, *, samples: int = 1, extra: tuple[Entry, ...] = ()) -> bytes:
    """A TIFF of one pixel in one deflated tile; `extra` are entries (tag, type, count, value)
    that come before those of the same tag."""
    pixels = zlib.compress(bytes(tile * tile * samples), 1)
    plain = {
        256: 1, 257: 1, 258: 8, 259: 8, 262: 1, 277: samples, 322: tile, 323: tile,
        324: 8, 325: len(pixels),
    }  # fmt: skip
    if samples == 3:
        plain[262] = 2  # RGB
    entries = [*extra, *((tag, 4, 1, value) for tag, value in plain.items())]
    entries.sort(key=lambda entry: entry[0])
    directory = b"".join(struct.pack("<HHLL", *entry) for entry in entries)
    count = struct.pack("<H", len(entries))
    return b"II*\x00" + struct.pack("<L", 8 + len(pixels)) + pixels + count + directory + bytes(4)
