"""Reading and resizing images in worker processes, ahead of the encoder."""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from dncbm.data.images import decode_image
from dncbm.data.sources import ImageSource
from dncbm.errors import DncbmError, Unavailable

_log = logging.getLogger(__name__)
_MAX_DEATHS = 3

Resize = Callable[[Image.Image], np.ndarray]


@dataclass(frozen=True, slots=True)
class Decoded:
    """One record after decoding: pixels (h, w, 3), or the reason why there are none."""

    index: int
    pixels: np.ndarray | None
    width: int | None = None
    height: int | None = None
    error: str | None = None


class _Images(Dataset[Decoded]):
    """The records of a source, decoded on demand; sent to worker processes."""

    def __init__(self, source: ImageSource, resize: Resize) -> None:
        self._source = source
        self._resize = resize

    def __getitem__(self, index: int) -> Decoded:
        try:
            image = decode_image(self._source.read(index))
            return Decoded(index, self._resize(image), image.width, image.height)
        except DncbmError as error:
            return Decoded(index, None, error=str(error))
        except Exception as error:  # one image never ends a run over millions
            return Decoded(index, None, error=f"{type(error).__name__}: {error}")


def decoded_batches(
    source: ImageSource, resize: Resize, batches: Sequence[Sequence[int]], *, num_workers: int
) -> Iterator[list[Decoded]]:
    """The records of each batch, decoded ahead in `num_workers` processes, in order."""
    yield from _loader(_Images(source, resize), batches, num_workers)


def retry_dead_workers(work: Callable[[], None], remaining: Callable[[], int]) -> None:
    """Run `work` again whenever a worker process dies (no memory, a codec that crashes).

    PyTorch tells of a death by a signal, so the error can arise anywhere in `work`, also
    between two batches; `work` must go on from what it has stored.

    Args:
        work: consumes `decoded_batches`.
        remaining: how much is left; three deaths without progress end the run.

    Raises:
        Unavailable: workers keep dying.
    """
    deaths, before = 0, remaining()
    while True:
        try:
            return work()
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            deaths, before = (deaths + 1 if remaining() == before else 1), remaining()
            _log.warning("A decoding worker died; starting again at the last finished shard")
            if deaths >= _MAX_DEATHS:
                raise Unavailable(
                    f"Decoding workers died {deaths} times at the same place: out of memory, or "
                    "a picture that crashes its codec. Finished shards are kept: run again with "
                    "fewer workers (0 decodes in the main process)."
                ) from error


def _loader(
    images: _Images, batches: Sequence[Sequence[int]], num_workers: int
) -> DataLoader[Decoded]:
    num_workers = min(num_workers, os.cpu_count() or 1)
    # Arrays travel through pipes, not through /dev/shm, which is 64 MB in many containers.
    return DataLoader(
        images,
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=num_workers,
        collate_fn=list,
        generator=torch.Generator(),  # leaves the global one alone
        multiprocessing_context=_start_method() if num_workers else None,
        prefetch_factor=2 if num_workers else None,
    )


def _start_method() -> str:
    """Forked workers start at once and share the records; only on Linux is forking safe."""
    return "fork" if sys.platform == "linux" else "spawn"
