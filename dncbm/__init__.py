"""dncbm: image classifiers whose every decision is a sum of named concepts."""

import importlib
from typing import TYPE_CHECKING, Any

from dncbm.errors import DncbmError, InvalidInput
from dncbm.types import ConceptName, Contribution, Prediction

if TYPE_CHECKING:
    from pathlib import Path

    from dncbm.data.sources import open_source
    from dncbm.encoders.clip import load_encoder
    from dncbm.predictor import Predictor
    from dncbm.probe.estimator import ConceptBottleneckClassifier
    from dncbm.sae.estimator import SparseAutoencoder

__all__ = [
    "ConceptBottleneckClassifier",
    "ConceptName",
    "Contribution",
    "DncbmError",
    "InvalidInput",
    "Prediction",
    "Predictor",
    "SparseAutoencoder",
    "load",
    "load_encoder",
    "open_source",
]

# Resolved on first use, so that `import dncbm` loads neither torch nor open_clip nor FAISS.
_LAZY = {
    "ConceptBottleneckClassifier": "dncbm.probe.estimator",
    "Predictor": "dncbm.predictor",
    "SparseAutoencoder": "dncbm.sae.estimator",
    "load_encoder": "dncbm.encoders.clip",
    "open_source": "dncbm.data.sources",
}


def load(path: "str | Path", *, device: str = "auto") -> "Predictor":
    """The predictor stored in a model directory; see `dncbm.predictor.Predictor.load`."""
    predictor = importlib.import_module("dncbm.predictor").Predictor
    return predictor.load(path, device=device)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'dncbm' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__
