"""What browsing computes: lazily, once per model, by one request while others wait for it."""

import hashlib
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from api.errors import NotFound
from api.layouts import Layout
from api.limits import InferenceLimiter
from api.registry import ServedModel
from api.settings import ServiceOptions

if TYPE_CHECKING:  # heavy: imported when something is computed
    from dncbm.probe.evaluate import Evaluation
    from dncbm.report.browse import ImageSample, ModelImages

_T = TypeVar("_T")


class Once(Generic[_T]):
    """A value that the first caller computes; the others wait for it, in bounded company."""

    def __init__(self, compute: Callable[[], _T], options: ServiceOptions) -> None:
        self._compute = compute
        self._turn = InferenceLimiter(1, options.waiting, options.wait_seconds)
        self._found: list[_T] = []

    def get(self) -> _T:
        """The value.

        Raises:
            Overloaded: it is still being computed, or too many wait for it.
        """
        if not self._found:
            with self._turn.slot():
                if not self._found:
                    self._found.append(self._compute())
        return self._found[0]


class ModelBrowser:
    """What can be seen in one version of a model; a failed computation is tried again."""

    def __init__(
        self, model: ServedModel, options: ServiceOptions, limiter: InferenceLimiter
    ) -> None:
        self.predictor = model.predictor
        self._model = model
        self._state = options.state_dir
        images = Once(self._open, options)

        def busy(compute: Callable[[], _T]) -> Callable[[], _T]:
            """In an inference slot, so that browsing does not starve predictions."""

            def computed() -> _T:
                with limiter.slot():
                    return compute()

            return computed

        cbm = self.predictor.cbm
        self._sample = Once(busy(lambda: images.get().sample()), options)
        self._evaluation = Once(busy(lambda: images.get().evaluate(cbm)), options)
        self._map = Once(busy(self._lay_out), options)
        self._version = Once(lambda: version_of(model), options)

    @property
    def version(self) -> str:
        """Changes with whatever the answers about names, weights and images follow from."""
        return self._version.get()

    def sample(self) -> "ImageSample":
        """Some training images with their codes.

        Raises:
            NotFound: the model directory lacks them.
        """
        return self._sample.get()

    def evaluation(self) -> tuple[str, "Evaluation"]:
        """Split and measurements.

        Raises:
            NotFound: the model directory lacks them.
            InvalidInput: none of the images has a label.
        """
        return self._evaluation.get()

    def map(self) -> Layout:
        """Places of the concepts, from the disk where they were computed before."""
        return self._map.get()

    def _open(self) -> "ModelImages":
        from dncbm.report.browse import EmbeddingsMissing, ModelImages

        try:
            return ModelImages.open(self._model.path, self.predictor.cbm, self.predictor.sae)
        except EmbeddingsMissing as error:
            raise NotFound(str(error)) from error

    def _lay_out(self) -> Layout:
        return Layout(np.asarray(self.predictor.dictionary.directions.detach().cpu()), self._state)


def version_of(model: ServedModel) -> str:
    """SHA-256 over names and weights, so over edits too, and over what they were made from."""
    digest = hashlib.sha256()
    cbm, dictionary = model.predictor.cbm, model.predictor.dictionary
    for part in (cbm, dictionary):
        manifest = getattr(part, "manifest", None)
        digest.update(b"" if manifest is None else manifest.fingerprint.encode())
    for name in model.catalogue.names:
        digest.update(repr(name).encode())
    for nec in (None, *model.effective_concepts):
        probe = model.probe(nec)
        for tensor in (probe.weights, probe.bias):
            digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    digest.update(str((model.path / "embeddings" / "manifest.json").is_file()).encode())
    return digest.hexdigest()


class Browsers:
    """The browser of every served model, made anew when its predictor was exchanged."""

    def __init__(self, options: ServiceOptions, limiter: InferenceLimiter) -> None:
        self._options = options
        self._limiter = limiter
        self._lock = threading.Lock()
        self._known: dict[str, ModelBrowser] = {}

    def retain(self, models: Sequence[ServedModel]) -> None:
        """Forget the browsers of all other models."""
        served = {model.id: model.predictor for model in models}
        with self._lock:
            self._known = {
                key: found for key, found in self._known.items()
                if served.get(key) is found.predictor
            }  # fmt: skip

    def of(self, model: ServedModel) -> ModelBrowser:
        """The browser of the model as it is served now."""
        with self._lock:
            found = self._known.get(model.id)
            if found is None or found.predictor is not model.predictor:
                found = ModelBrowser(model, self._options, self._limiter)
                self._known[model.id] = found
            return found
