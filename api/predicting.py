"""What the service asks of a loaded model."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image

from dncbm.probe.changes import CodeChange
from dncbm.types import Attribution, Intervention, Prediction


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

    def pixels(self, seen: Sequence[np.ndarray]) -> Any:
        """What `seen` gave, as the encoder takes it: a tensor (n, 3, h, w)."""
        ...

    def predict_embeddings(self, embeddings: Any, **query: Any) -> list[list[Prediction]]:
        """Like `predict`, from raw embeddings (n, d)."""
        ...

    def intervene(
        self, images: Sequence[Image.Image], changes: Sequence[CodeChange], **listing: Any
    ) -> list[Intervention]:
        """Per image the decision before and after its codes were changed."""
        ...

    def edited(self, dictionary: Any, cbm: Any) -> "ServedPredictor":
        """The same encoder and autoencoder with other names, weights or temperatures."""
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
