"""What browsing computes: lazily, once per model, by one request while others wait for it."""

import hashlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from api.errors import NotFound
from api.limits import InferenceLimiter
from api.registry import ServedModel
from api.settings import ServiceOptions
from dncbm.artifacts import read_json, write_json
from dncbm.errors import ArtifactError, Unavailable

if TYPE_CHECKING:  # heavy: imported when something is computed
    from dncbm.naming.map import ConceptMap
    from dncbm.probe.evaluate import Evaluation
    from dncbm.report.browse import ImageSample, ModelImages

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_METHODS = ("pca", "pca+tsne")


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

    def map(self) -> "ConceptMap":
        """Places of the concepts, from the disk where they were computed before."""
        return self._map.get()

    def _open(self) -> "ModelImages":
        from dncbm.report.browse import EmbeddingsMissing, ModelImages

        try:
            return ModelImages.open(self._model.path, self.predictor.cbm, self.predictor.sae)
        except EmbeddingsMissing as error:
            raise NotFound(str(error)) from error

    def _lay_out(self) -> "ConceptMap":
        from dncbm.naming.map import concept_map

        directions = np.asarray(self.predictor.dictionary.directions.detach().cpu())
        kept = None if self._state is None else _map_file(self._state, directions)
        found = None if kept is None else _read_map(kept, len(directions))
        if found is None:
            found = concept_map(directions)
            if kept is not None:
                _keep_map(kept, found)
        return found


def _map_file(state: Path, directions: np.ndarray) -> Path:
    digest = hashlib.sha256(np.ascontiguousarray(directions).tobytes()).hexdigest()
    return state / "maps" / f"{digest}.json"


def _read_map(file: Path, count: int) -> "ConceptMap | None":
    """The map in a file; None where there is none that fits."""
    from dncbm.naming.map import ConceptMap

    try:
        data = read_json(file) if file.is_file() else {}
        places = np.array(data.get("places", []), dtype=np.float64)
    except (ArtifactError, ValueError, AttributeError):
        return None
    fits = places.shape == (count, 2) and np.isfinite(places).all()
    return ConceptMap(method=data["method"], places=places) if fits and _is_map(data) else None


def _is_map(data: dict[str, Any]) -> bool:
    return data.get("method") in _METHODS


def _keep_map(file: Path, found: "ConceptMap") -> None:
    try:
        write_json(file, {"method": found.method, "places": found.places.tolist()})
    except Unavailable as error:
        logger.info("The map of concepts is kept in memory only. %s", error)


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

    def of(self, model: ServedModel) -> ModelBrowser:
        """The browser of the model as it is served now."""
        with self._lock:
            found = self._known.get(model.id)
            if found is None or found.predictor is not model.predictor:
                found = ModelBrowser(model, self._options, self._limiter)
                self._known[model.id] = found
            return found
