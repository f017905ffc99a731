"""Which backend embeds this job fastest here, measured on its own images."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from dncbm.encoders.backends.base import (
    AUTO,
    AUTO_NAMES,
    BACKENDS,
    EAGER,
    ImageBackend,
    is_replaceable,
    open_backend,
    versions_of,
)
from dncbm.encoders.clip import Encoder
from dncbm.encoders.streams import Streams, streamed
from dncbm.errors import DncbmError

_log = logging.getLogger(__name__)

WORTH_SECONDS = 60.0
"""Shorter jobs are done before the calibration has paid for itself."""
_GAIN = 1.05
"""What is less than this much faster than PyTorch is not worth another result."""
_HOPELESS = (2.5, 1.4, 1.4)
"""Slower by this factor than the best so far: not timed in the next turn. One turn more cannot
tell apart what is close while decoders of other jobs come and go."""
_ENOUGH = 2.2
"""From this gain of bf16 on, float32 runtimes are not tried: their best was 2.1."""
_ROUNDS = (
    [name for name in AUTO_NAMES if BACKENDS[name].is_bfloat16],
    [name for name in AUTO_NAMES if not BACKENDS[name].is_bfloat16 and name != EAGER],
)
"""Exporting a graph costs more than measuring it, so what promises most comes first."""
_WARM_UP = 2
_SLICE = 16
"""Images per measured batch: throughput is flat beyond it (ViT-B/32: 42 images/s at 16 and 64)."""

Batch = Float[Tensor, "n 3 h w"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """What was measured of one backend."""

    images_per_second: float | None = None
    min_cosine: float | None = None
    """Smallest cosine between its embedding and PyTorch's, over the sample."""
    refused: str | None = None
    """Why `auto` does not take it."""
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The backend of a job, and why."""

    backend: str
    reason: str
    images: int = 0
    """Size of the sample; 0 where nothing was measured."""
    figures: Mapping[str, Figures] = field(default_factory=dict)

    @property
    def min_cosine(self) -> float | None:
        """Of the chosen backend; None where it was not measured."""
        found = self.figures.get(self.backend)
        return found.min_cosine if found else None

    def as_dict(self) -> dict[str, Any]:
        """JSON-serialisable values, for the manifest."""
        return asdict(self)


def choice_from(record: Mapping[str, Any]) -> Choice:
    """The choice that `as_dict` made into a record."""
    figures = {name: Figures(**values) for name, values in record["figures"].items()}
    return Choice(**{**record, "figures": figures})


def sample_size(streams: Streams) -> int:
    """Images that a calibration looks at: a few batches for each stream."""
    return _SLICE * max(4, 2 * streams.count)


def choose_backend(
    encoder: Encoder,
    wanted: str,
    sample: Callable[[], Batch],
    *,
    images: int,
    min_cosine: float,
    streams: Streams,
) -> Choice:
    """The backend for a job of `images` images; `wanted` is a name or `auto`.

    `auto` takes the fastest whose cosine is at least `min_cosine`. It stays with PyTorch for
    short jobs, and where nothing is clearly faster. A backend that is named is taken as it is;
    its cosine is measured and told.

    Args:
        encoder: whose image tower is meant.
        wanted: name of a backend, or `auto`.
        sample: decodes and preprocesses some of the job's images.
        images: how many are to be embedded.
        min_cosine: what `auto` asks for, of the worst image of the sample.
        streams: how the job will run.

    Raises:
        Unavailable: a backend that is named cannot be used here.
    """
    if wanted != AUTO:
        return _named(encoder, wanted, sample(), streams)
    if not is_replaceable(encoder):
        return Choice(backend=EAGER, reason="other backends are for the CPU in fp32")
    pixels = sample()
    if len(pixels) == 0:
        return Choice(backend=EAGER, reason="no image of the sample can be read")
    trial = _Trial(encoder, pixels, min_cosine, streams)
    seconds = images / trial.rate(EAGER)
    if seconds < WORTH_SECONDS:
        reason = f"a job of {seconds:.0f} s is too short to try others"
        return Choice(backend=EAGER, reason=reason, images=len(pixels), figures=trial.figures())
    return trial.choose()


def _named(encoder: Encoder, name: str, pixels: Batch, streams: Streams) -> Choice:
    backend = open_backend(encoder, name, streams)
    if len(pixels) == 0:
        return Choice(backend=name, reason="named")
    trial = _Trial(encoder, pixels, 0.0, streams)
    trial.enter(name, backend)
    figures = trial.figures()
    _log.info("Backend %s: smallest cosine to PyTorch %.6f", name, figures[name].min_cosine)
    return Choice(backend=name, reason="named", images=len(pixels), figures=figures)


class _Trial:
    """Backends side by side on one sample; the first is PyTorch, which gives the reference."""

    def __init__(
        self, encoder: Encoder, pixels: Batch, min_cosine: float, streams: Streams
    ) -> None:
        self._encoder = encoder
        self._slices = pixels.split(_SLICE)
        self._images = len(pixels)
        self._min_cosine = min_cosine
        self._streams = streams
        self._backends: dict[str, ImageBackend] = {}
        self._seconds: dict[str, float] = {}
        self._cosines: dict[str, float] = {}
        self._missing: dict[str, str] = {}
        self._reference: Tensor | None = None
        self.enter(EAGER, open_backend(encoder, EAGER, streams))

    def rate(self, name: str) -> float:
        """Images per second, best of the turns."""
        return self._images / self._seconds[name]

    def enter(self, name: str, backend: ImageBackend) -> None:
        """Measure a backend once, and its cosine to PyTorch, which comes first."""
        backend(self._slices[0][:_WARM_UP])
        rows = self._measure(name, backend)
        if self._reference is None:
            self._reference = rows
        self._cosines[name] = smallest_cosine(rows, self._reference)
        self._backends[name] = backend

    def choose(self) -> Choice:
        """The fastest that is exact enough, PyTorch unless another is clearly faster."""
        for names in _ROUNDS:
            for name in names:
                self._try(name)
            if max(self._gains().values()) > _ENOUGH:
                break
        for factor in _HOPELESS:
            self._turn(factor)
        figures = self.figures()
        gains = self._gains()
        best = max(gains, key=gains.__getitem__)
        gain = gains[best]
        backend, reason = best, f"{gain:.2f} times as fast as {EAGER}"
        if gain < _GAIN:
            backend, reason = EAGER, "nothing else is clearly faster"
        _log.info("Backend %s: %s", backend, reason)
        return Choice(backend=backend, reason=reason, images=self._images, figures=figures)

    def _gains(self) -> dict[str, float]:
        """How many times as fast as PyTorch, of those that are exact enough."""
        names = [name for name in self._backends if self._refusal(name) is None]
        return {EAGER: 1.0} | {name: self.rate(name) / self.rate(EAGER) for name in names}

    def _try(self, name: str) -> None:
        try:
            self.enter(name, open_backend(self._encoder, name, self._streams))
        except DncbmError as error:
            self._missing[name] = str(error)
        except Exception as error:  # a runtime that cannot take this tower never ends the job
            first = (str(error).splitlines() or [""])[0]
            self._missing[name] = f"{type(error).__name__}: {first[:200]}"
            _log.warning("Backend %s cannot be used: %s", name, self._missing[name])

    def _turn(self, factor: float) -> None:
        """Each backend once more that may still win."""
        rivals = {n: b for n, b in self._backends.items() if self._refusal(n) is None}
        limit = factor * min(self._seconds[name] for name in rivals)
        for name, backend in rivals.items():
            if self._seconds[name] <= limit:
                self._measure(name, backend)

    def _measure(self, name: str, backend: ImageBackend) -> Float[Tensor, "n d"]:
        start = time.perf_counter()
        rows = torch.cat(list(streamed(backend, self._slices, self._streams)))
        seconds = time.perf_counter() - start
        self._seconds[name] = min(seconds, self._seconds.get(name, seconds))
        return rows

    def figures(self) -> dict[str, Figures]:
        """What was measured so far, and what cannot be used."""
        measured = {
            name: Figures(
                images_per_second=round(self.rate(name), 2),
                min_cosine=self._cosines[name],
                refused=self._refusal(name),
                versions=versions_of(name),
            )
            for name in self._backends
        }
        return measured | {name: Figures(refused=why) for name, why in self._missing.items()}

    def _refusal(self, name: str) -> str | None:
        if self._cosines[name] >= self._min_cosine:  # NaN is not
            return None
        return f"cosine {self._cosines[name]:.6f} is below {self._min_cosine}"


def smallest_cosine(rows: Float[Tensor, "n d"], reference: Float[Tensor, "n d"]) -> float:
    """The smallest cosine between a row and its reference, in float64; NaN if any is NaN."""
    cosines = functional.cosine_similarity(rows.double(), reference.double(), dim=1)
    return float(cosines.min())
