"""Photos decoded once, to one size, into a file that training reads at random.

A JPEG takes longer to decode than a small network to learn from; an epoch over decoded pixels
costs a read each. The file is mapped: memory is bounded by the batch, not by the data.
"""

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from dncbm.artifacts import fingerprint, read_json, write_json, writing
from dncbm.data.images import decode_image
from dncbm.data.sources import ImageRecord, ImageSource
from dncbm.errors import ArtifactError, DncbmError, InvalidInput

_log = logging.getLogger(__name__)
_CHUNK = 512
"""Photos between two notes of how far it is; a killed run decodes at most so many again."""

Progress = Callable[[str, int, int], None]
"""Called as `progress(stage, done, total)`."""
Resize = Callable[[Image.Image], np.ndarray]
"""An RGB image to its pixels (size, size, 3), uint8."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """Decoded photos; `records[i]` is about row i of `images`."""

    images: UInt8[np.ndarray, "n 3 h w"]
    records: Sequence[ImageRecord]
    errors: dict[int, str]
    """Why a row has no photo."""
    fingerprint: str
    """Of the source and of how its photos were resized."""

    def usable(self) -> np.ndarray:
        """Rows that hold a photo, in order."""
        return np.array([i for i in range(len(self.records)) if i not in self.errors], dtype=int)


def centred(size: int) -> Resize:
    """The middle square of an image, `size` pixels wide: the short side is scaled, the long cut."""

    def resize(image: Image.Image) -> np.ndarray:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)
        return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box))

    return resize


def resized(size: int) -> Resize:
    """All of an image, `size` pixels wide and high; its shape is not kept."""

    def resize(image: Image.Image) -> np.ndarray:
        return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))

    return resize


def decoded(
    source: ImageSource, folder: Path, *, size: int, resize: Resize | None = None,
    geometry: object = "centred", progress: Progress | None = None,
) -> Pixels:  # fmt: skip
    """The photos of a source as pixels below `folder`, decoded now or by an earlier run.

    Args:
        source: where the photos come from; one that cannot be read is told and left out.
        folder: the files are `pixels-*.npy` and `.json`; a killed run goes on where it was.
        size: height and width.
        resize: how a photo gets that size; by default its middle square.
        geometry: what tells one `resize` from another, as JSON-serialisable values.
        progress: told `("decode", photos done, all)`.

    Raises:
        InvalidInput: no photo can be read.
        Unavailable: no space, or no right to write.
    """
    key = fingerprint([source.fingerprint, size, geometry])
    base = folder / f"pixels-{key[:12]}"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        errors = _decode_rest(source, base, size, resize or centred(size), progress or _silent)
    if len(errors) == len(source.records):
        raise InvalidInput(
            f"None of the {len(errors)} photos can be read; the first: {errors[0]} "
            "Give photos as JPEG, PNG or WebP."
        )
    if errors:
        first = next(iter(errors))
        _log.warning(
            "%d of %d photos cannot be read and are left out; the first is %s: %s",
            len(errors), len(source.records), source.records[first].path, errors[first],
        )  # fmt: skip
    images = np.load(_data(base), mmap_mode="r")
    return Pixels(images, source.records, errors, key)


def _decode_rest(
    source: ImageSource, base: Path, size: int, resize: Resize, progress: Progress
) -> dict[int, str]:
    """Fill what an earlier run left open; returns why rows have no photo."""
    total, shape = len(source.records), (len(source.records), 3, size, size)
    done, errors = _state(base, shape)
    progress("decode", done, total)
    if done == total:
        return errors
    mode = "r+" if done else "w+"
    images = np.lib.format.open_memmap(_data(base), mode=mode, dtype=np.uint8, shape=shape)
    read = partial(_one, source, resize=resize)
    with ThreadPoolExecutor(os.cpu_count() or 1, "decode") as pool:
        for start in range(done, total, _CHUNK):
            rows = range(start, min(start + _CHUNK, total))
            for row, found in enumerate(pool.map(read, rows), start):
                if isinstance(found, str):
                    errors[row] = found
                else:
                    images[row] = found.transpose(2, 0, 1)
            images.flush()
            write_json(_note(base), {"done": rows[-1] + 1, "errors": errors})
            progress("decode", rows[-1] + 1, total)
    return errors


def _state(base: Path, shape: tuple[int, ...]) -> tuple[int, dict[int, str]]:
    """How many rows are there already, and which of them without a photo."""
    try:
        note: Any = read_json(_note(base))
        if np.load(_data(base), mmap_mode="r").shape != shape:
            return 0, {}
        return int(note["done"]), {int(row): why for row, why in note["errors"].items()}
    except (ArtifactError, OSError, ValueError, KeyError, TypeError):
        return 0, {}


def _one(source: ImageSource, index: int, *, resize: Resize) -> np.ndarray | str:
    try:
        return resize(decode_image(source.read(index)))
    except DncbmError as error:
        return str(error)
    except Exception as error:  # one photo never ends a run over millions
        return f"{type(error).__name__}: {error}"


def _data(base: Path) -> Path:
    return base.with_suffix(".npy")


def _note(base: Path) -> Path:
    return base.with_suffix(".json")


def _silent(_stage: str, _done: int, _total: int) -> None:
    """Nobody listens."""
