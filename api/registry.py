"""The models that a service offers, loaded once from a directory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from api.catalogue import ConceptCatalogue
from dncbm.artifacts import slug
from dncbm.errors import InvalidInput, UnknownName
from dncbm.types import Attribution, Prediction


class ServedPredictor(Protocol):
    """The part of `dncbm.predictor.Predictor` that the service uses."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in index order."""
        ...

    @property
    def dictionary(self) -> Any:
        """The `dncbm.naming` dictionary."""
        ...

    @property
    def cbm(self) -> Any:
        """The `dncbm.probe` bottleneck: the dense probe and those with few concepts."""
        ...

    @property
    def sae(self) -> Any:
        """The `dncbm.sae` model that gives the codes."""
        ...

    def embed(self, images: Sequence[Image.Image]) -> Any:
        """Embeddings (n, d) of images, a tensor."""
        ...

    def encode(self, embeddings: Any) -> Any:
        """Codes (n, c) of embeddings, a tensor."""
        ...

    def predict_codes(
        self, codes: Any, *, top_contributions: int, top_classes: int, nec: int | None
    ) -> list[list[Prediction]]:
        """Like `predict`, from codes (n, c)."""
        ...

    def predict(
        self,
        images: Sequence[Image.Image],
        *,
        top_contributions: int = 5,
        top_classes: int = 1,
        nec: int | None = None,
        by: str = "concept",
    ) -> list[list[Prediction]]:
        """Per image its top classes, best first."""
        ...

    def explain(
        self,
        images: Sequence[Image.Image],
        *,
        classes: Sequence[int | str] = (),
        concepts: Sequence[int | str] = (),
        texts: Sequence[str] = (),
        top: int = 3,
        nec: int | None = None,
    ) -> list[list[Attribution]]:
        """Per image the maps of what is asked for."""
        ...

    def seen(self, image: Image.Image) -> np.ndarray:
        """The part of an image that the encoder sees, uint8 (h, w, 3)."""
        ...

    def search(self, text: str, *, limit: int) -> list[tuple[int, float]]:
        """Concepts by cosine with a text."""
        ...

    def describe(self) -> dict[str, Any]:
        """Recipe and measurements."""
        ...


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A loaded model; its dictionary of concepts has the same id."""

    id: str
    path: Path
    predictor: ServedPredictor
    catalogue: ConceptCatalogue

    @property
    def effective_concepts(self) -> list[int]:
        """Values that `nec` takes, smallest first."""
        return sorted(int(value) for value in self.predictor.cbm.nec_probes)

    def probe(self, nec: int | None) -> Any:
        """The dense probe, or the one with `nec` effective concepts per class.

        Raises:
            InvalidInput: the model has no probe of that size.
        """
        self.check_nec(nec)
        cbm = self.predictor.cbm
        return cbm.probe if nec is None else cbm.nec_probes[nec]

    def check_nec(self, nec: int | None) -> None:
        """Refuse a number of effective concepts that the model was not made with."""
        known = self.effective_concepts
        if nec is not None and nec not in known:
            values = ", ".join(map(str, known)) or "none"
            raise InvalidInput(
                f"nec={nec} is not available in model {self.id!r}. Available: {values}; "
                "leave nec out for the dense probe."
            )

    @property
    def report(self) -> Path:
        """Where the model's report lies, if it has one."""
        return self.path / "report" / "report.html"

    def thumbnail(self, row: int) -> Path:
        """Where the picture of an embedding row lies, if it has one."""
        return self.path / "dictionary" / "thumbnails" / f"{int(row)}.jpg"

    def thumbnail_address(self, row: int) -> str | None:
        """Where a client finds that picture; None where there is none."""
        address = f"/v1/dictionaries/{self.id}/thumbnails/{int(row)}.jpg"
        return address if self.thumbnail(row).is_file() else None

    def class_index(self, k: str) -> int:
        """A class by name first, since a class may be called 7, then by index.

        Raises:
            UnknownName: neither.
        """
        classes = self.predictor.classes
        if k in classes:
            return classes.index(k)
        if k.isascii() and k.isdigit() and len(k) < 10 and int(k) < len(classes):
            return int(k)
        raise UnknownName("class", k[:100], classes, f"Or give an index, 0 to {len(classes) - 1}.")


class Registry:
    """Models by id; ids come from this mapping only, never from the file system."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._models: Mapping[str, ServedModel] = {model.id: model for model in models}

    @property
    def models(self) -> list[ServedModel]:
        """All models, by id."""
        return [self._models[key] for key in sorted(self._models)]

    def model(self, model_id: str, *, what: str = "model") -> ServedModel:
        """The model (or the owner of the dictionary) of that id.

        Raises:
            UnknownName: no such id; the message lists the nearest.
        """
        if model_id not in self._models:
            raise UnknownName(what, model_id[:100], self._models)
        return self._models[model_id]


def serve_model(model_id: str, path: Path, predictor: ServedPredictor) -> ServedModel:
    """A registry entry for a loaded predictor."""
    return ServedModel(model_id, path, predictor, ConceptCatalogue(predictor.dictionary))


def open_registry(root: Path, load: Callable[[Path], ServedPredictor]) -> Registry:
    """Load the model at `root`, or every model one level below it.

    Raises:
        InvalidInput: neither `root` nor a folder in it is a model directory.
    """
    paths = find_models(root)
    ids = unique_slugs([path.name for path in paths])
    return Registry(
        [serve_model(model_id, path, load(path)) for model_id, path in zip(ids, paths, strict=True)]
    )


def find_models(root: Path) -> list[Path]:
    """Model directories: `root` itself or its direct children, sorted by name."""
    root = root.resolve()
    if _is_model(root):
        return [root]
    found = sorted(path for path in root.iterdir() if _is_model(path)) if root.is_dir() else []
    if not found:
        raise InvalidInput(
            f"{root} is not a model directory and holds none: there is no `cbm` artifact. Give the "
            "directory that `dncbm quickstart --out DIR` left, or the folder of several."
        )
    return found


def _is_model(path: Path) -> bool:
    return (path / "cbm" / "manifest.json").is_file()


def unique_slugs(names: Sequence[str]) -> list[str]:
    """One slug per name, later duplicates numbered from 2."""
    taken: list[str] = []
    for name in names:
        base, number = slug(name), 1
        candidate = base
        while candidate in taken:
            number += 1
            candidate = f"{base}-{number}"
        taken.append(candidate)
    return taken
