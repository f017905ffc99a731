"""Encoders that are loaded once, whatever the number of models that were made with them."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from dncbm.encoders.batching import MAX_BATCH, Batcher, threads_alone
from dncbm.encoders.streams import Streams, streams_for, threads_of
from dncbm.errors import InvalidInput, Unavailable

if TYPE_CHECKING:
    from dncbm.artifacts import Manifest
    from dncbm.encoders.backends.base import ImageBackend
    from dncbm.encoders.calibrate import Choice
    from dncbm.encoders.clip import Encoder
    from dncbm.predictor import Predictor

logger = logging.getLogger(__name__)

MIN_COSINE = 0.9999
"""What a backend must keep to PyTorch's embedding of the worst image of the sample."""
ALIASES = {"onnx": "onnxruntime"}
_SAMPLE = 64
_COMPARED = 16
"""Of these, for a graph that was compared on other pixels before."""
_LAST_REQUESTS = 300.0
"""Seconds at least that requests may go on with a model that has gone."""
_LONG_JOB = 10_000_000
"""A service never ends, so a calibration always pays."""


@dataclass(frozen=True, slots=True)
class SharedEncoder:
    """An encoder in memory, and what embeds photos with it for every model."""

    encoder: "Encoder"
    batcher: Batcher
    choice: "Choice"

    def describe(self) -> dict[str, Any]:
        """Backend, how near it is to PyTorch, and how passes are made."""
        return {
            "backend": self.choice.backend,
            "reason": self.choice.reason,
            "min_cosine": self.choice.min_cosine,
            "max_batch": self.batcher.max_batch,
            "streams": self.batcher.streams.count,
        }


class SharedEncoders:
    """Loads models; those of one encoder share it and its batcher.

    Args:
        device: where encoders run.
        backend: name of a backend, `onnx`, or `auto` for the fastest exact one here.
        max_batch: images of one pass.
        wait_seconds: longest wait of a call for its pass.
    """

    def __init__(
        self,
        device: str,
        *,
        backend: str = "torch",
        max_batch: int = MAX_BATCH,
        wait_seconds: float = 60.0,
    ) -> None:
        self._device = device
        self._backend = ALIASES.get(backend, backend)
        self._max_batch = max_batch
        self._wait_seconds = wait_seconds
        self._cores = torch.get_num_threads()
        self._by_spec: dict[str, SharedEncoder] = {}

    def load(self, path: Path) -> "Predictor":
        """The model at `path`, ready: its encoder has made a pass.

        Raises:
            DncbmError: no model, damaged, or a backend that is missing or not exact enough.
        """
        from dncbm.artifacts import load_manifest
        from dncbm.predictor import Predictor

        with threads_of(Streams(1, 1)):  # so that the batcher's are the only ones
            shared = self._shared(load_manifest(path / "cbm", "cbm"), path)
            return Predictor.load(path, encoder=shared.encoder, image_backend=shared.batcher)

    def retain(self, predictors: Sequence[Any]) -> None:
        """Let go of the encoders that none of these uses; requests under way are still answered.

        Not to be called while a model is loaded, whose encoder would seem to be nobody's.
        """
        used = {id(predictor.encoder) for predictor in predictors}
        for name, shared in list(self._by_spec.items()):
            if id(shared.encoder) not in used:
                del self._by_spec[name]
                logger.info("Encoder %s: no model uses it any more", shared.encoder.spec)
                seconds = max(_LAST_REQUESTS, 2 * self._wait_seconds)
                closing = threading.Timer(seconds, shared.batcher.close)
                closing.daemon = True
                closing.start()

    def _shared(self, cbm: "Manifest", model: Path) -> SharedEncoder:
        from dncbm.encoders.carried import candidates

        spec = candidates(str(cbm.config["encoder"]), model)[0]
        name = f"{spec} {cbm.inputs.get('encoder')}"  # made again in its place, it is another
        if name not in self._by_spec:
            self._by_spec[name] = self._opened(cbm, model)
        return self._by_spec[name]

    def _opened(self, cbm: "Manifest", model: Path) -> SharedEncoder:
        from dncbm.encoders.backends.base import check_backend
        from dncbm.encoders.clip import load_encoder_of

        check_backend(self._backend)
        spec, mark = str(cbm.config["encoder"]), cbm.inputs.get("encoder")
        encoder = load_encoder_of(model, spec, mark, device=self._device)
        for other in self._by_spec.values():
            if other.encoder.fingerprint == encoder.fingerprint:  # another name of the same
                return other
        return self._started(encoder, model)

    def _started(self, encoder: "Encoder", model: Path) -> SharedEncoder:
        from dncbm.encoders.backends.base import EAGER, open_backend

        streams = streams_for(encoder.device, self._cores)
        choice = self._chosen(encoder, model, streams)
        backend = open_backend(encoder, choice.backend, streams)
        if choice.backend == EAGER:
            choice, backend = _as_graph(encoder, choice, backend, streams, model)
        image = torch.zeros(1, 3, *encoder.image_size)
        batcher = Batcher(
            backend,
            streams,
            alone_threads=threads_alone(backend, image, streams),
            max_batch=self._max_batch,
            wait_seconds=self._wait_seconds,
        )
        rows = batcher(image)  # the first pass of a thread allocates what later ones need
        if not torch.isfinite(rows).all():
            raise InvalidInput(
                f"The backend {choice.backend!r} gives NaN or infinite embeddings of a black "
                "image. Set DNCBM_BACKEND=torch."
            )
        logger.info("Encoder %s: backend %s, %s", encoder.spec, choice.backend, choice.reason)
        return SharedEncoder(encoder, batcher, choice)

    def _chosen(self, encoder: "Encoder", model: Path, streams: Streams) -> "Choice":
        """The backend, with its parity asserted on pictures of the model."""
        from dncbm.encoders.backends.base import EAGER
        from dncbm.encoders.calibrate import Choice, choose_backend

        if self._backend == EAGER:
            return Choice(backend=EAGER, reason="named")
        choice = choose_backend(
            encoder,
            self._backend,
            lambda: _sample(encoder, model),
            images=_LONG_JOB,
            min_cosine=MIN_COSINE,
            streams=streams,
        )
        cosine = choice.min_cosine
        if cosine is not None and not cosine >= MIN_COSINE:
            raise InvalidInput(
                f"The backend {choice.backend!r} has a cosine of {cosine:.6f} to PyTorch's "
                f"embeddings on this model's pictures; at least {MIN_COSINE} is served. Set "
                "DNCBM_BACKEND to auto or torch."
            )
        return choice


def _as_graph(
    encoder: "Encoder", choice: "Choice", eager: "ImageBackend", streams: Streams, model: Path
) -> tuple["Choice", "ImageBackend"]:
    """PyTorch's passes in one call each, where the image tower can be traced.

    Not where a calibration has looked at that and decided otherwise, and only where the model's
    own pictures have the same embeddings.
    """
    from dncbm.encoders.backends.base import GRAPH, is_replaceable, open_backend
    from dncbm.encoders.calibrate import smallest_cosine

    if not is_replaceable(encoder) or GRAPH in choice.figures:
        return choice, eager
    try:
        graph = open_backend(encoder, GRAPH, streams)
        pixels = _sample(encoder, model)[:_COMPARED]
        cosine = smallest_cosine(graph(pixels), eager(pixels))
        if not cosine >= MIN_COSINE:
            raise Unavailable(f"the graph has a cosine of {cosine:.6f} on the model's pictures.")
    except Unavailable as error:
        logger.warning("Passes take longer beside other requests: %s", error)
        return choice, eager
    return replace(choice, backend=GRAPH, reason=f"{choice.reason}, as one graph"), graph


def _sample(encoder: "Encoder", model: Path) -> torch.Tensor:
    """Pictures that the model was made of, small as they are, else noise: (n, 3, h, w)."""
    files = sorted((model / "dictionary" / "thumbnails").glob("*.jpg"))[:_SAMPLE]
    if not files:
        draw = torch.Generator().manual_seed(0)
        return torch.randn(_SAMPLE, 3, *encoder.image_size, generator=draw)
    return torch.stack([encoder.preprocess(_opened_picture(file)) for file in files])


def _opened_picture(file: Path) -> Image.Image:
    with Image.open(file) as image:
        return image.convert("RGB")


def serving_details(predictor: Any) -> dict[str, Any]:
    """How a model is served: memory of its own and of its encoder, and its batcher's sizes.

    Empty for a predictor that is not one of `dncbm.predictor`.
    """
    if getattr(predictor, "sae", None) is None:
        return {}
    batcher = batcher_of(predictor)
    return {
        "model_bytes": _own_bytes(predictor),
        "encoder_bytes": predictor.encoder.num_bytes,
        "max_batch": batcher.max_batch if batcher else None,
        "streams": batcher.streams.count if batcher else None,
    }


def batcher_of(predictor: Any) -> Batcher | None:
    """What embeds photos for this predictor together with those of other calls, if anything."""
    backend: Callable[..., Any] | None = getattr(predictor, "image_backend", None)
    return backend if isinstance(backend, Batcher) else None


def _own_bytes(predictor: Any) -> int:
    """Numbers that a model keeps in memory besides its encoder."""
    cbm, dictionary = predictor.cbm, predictor.dictionary
    tensors = [*predictor.sae.state_dict().values(), dictionary.directions]
    tensors += [dictionary.space.directions, dictionary.space.word_mean]
    for probe in (cbm.probe, *cbm.nec_probes.values()):
        tensors += [probe.weights, probe.bias]
    return sum(tensor.nbytes for tensor in tensors)
