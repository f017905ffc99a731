"""Models as MLflow's `pyfunc`, for those who keep their models there.

The bundle folder is the model's data and this module its loader, named by import path: nothing is
pickled. `mlflow.pyfunc.load_model` gives a model that takes a table with a column `image` (encoded
photos, as bytes or base64 text) and answers class, probability and contributions per row.
"""

import base64
import binascii
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from dncbm.artifacts import package_version, slug
from dncbm.data.images import decode_image
from dncbm.errors import InvalidInput, Unavailable
from dncbm.predictor import Predictor
from dncbm.registry.bundle import export_model
from dncbm.types import Prediction

_MODULE = "dncbm.registry.mlflow_flavour"
_ROWS_AT_ONCE = 32


class PyfuncModel:
    """What MLflow calls; made by `_load_pyfunc`."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def get_raw_model(self) -> Predictor:
        """What stands behind the table."""
        return self.predictor

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> Any:
        """A table with `class`, `probability` and `contributions` (JSON) per photo.

        Args:
            model_input: a pandas table with a column `image`.
            params: `top_contributions` and `nec`, as in `Predictor.predict`.

        Raises:
            InvalidInput: no such column, or something in it is no photo.
        """
        import pandas

        if "image" not in getattr(model_input, "columns", ()):
            raise InvalidInput("The table has no column 'image'. Give encoded photos in it.")
        photos = list(model_input["image"])
        settings = dict(params or {})
        found = [
            row
            for start in range(0, len(photos), _ROWS_AT_ONCE)
            for row in self._rows(photos[start : start + _ROWS_AT_ONCE], settings)
        ]
        return pandas.DataFrame(found, columns=["class", "probability", "contributions"])

    def _rows(self, photos: list[Any], settings: dict[str, Any]) -> list[tuple[str, float, str]]:
        images = [decode_image(_bytes(photo)) for photo in photos]
        top, nec = int(settings.get("top_contributions", 5)), settings.get("nec")
        predictions = self.predictor.predict(
            images, top_contributions=top, nec=int(nec) if nec else None
        )
        return [_row(best) for best, *_ in predictions]


def _row(item: Prediction) -> tuple[str, float, str]:
    parts = [
        {
            "concept": part.concept,
            "name": part.name,
            "code": part.code,
            "weight": part.weight,
            "contribution": part.contribution,
        }
        for part in item.contributions
    ]
    return item.class_name, item.probability, json.dumps(parts)


def _bytes(photo: Any) -> bytes:
    if isinstance(photo, bytes | bytearray | memoryview):
        return bytes(photo)
    try:
        return base64.b64decode(photo, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise InvalidInput(
            f"The column 'image' holds {str(photo)[:60]!r}. Give the bytes of a photo, or base64 "
            "text."
        ) from error


def save_model(folder: str | Path, path: str | Path, **options: Any) -> None:
    """Write a model directory as an MLflow model at `path`.

    Args:
        folder: a finished model directory.
        path: of the MLflow model, which must not exist.
        options: of `mlflow.pyfunc.save_model`.

    Raises:
        Unavailable: MLflow is not installed.
        ArtifactError: not a finished model, or damaged.
        InvalidInput: something stands at `path`.
    """
    pyfunc = _pyfunc()
    if Path(path).exists():
        raise InvalidInput(f"{path} exists already. Remove it, or choose another path.")
    _with_bundle(folder, options, lambda given: pyfunc.save_model(path=str(path), **given))


def log_model(folder: str | Path, name: str = "model", **options: Any) -> Any:
    """Log a model directory to MLflow's active run; what `mlflow.pyfunc.log_model` returns.

    Args:
        folder: a finished model directory.
        name: of the logged model.
        options: of `mlflow.pyfunc.log_model`, for example `registered_model_name`.

    Raises:
        Unavailable: MLflow is not installed.
        ArtifactError: not a finished model, or damaged.
    """
    pyfunc = _pyfunc()
    return _with_bundle(folder, options, lambda given: pyfunc.log_model(name=name, **given))


def load_model(uri: str) -> Predictor:
    """The predictor of an MLflow model that `save_model` or `log_model` wrote.

    Args:
        uri: a path, or `runs:/...` or `models:/...`.

    Raises:
        Unavailable: MLflow is not installed.
        InvalidInput: a model of another flavour.
        ArtifactError: the model's files were changed.
    """
    pyfunc = _pyfunc()
    from mlflow.models import get_model_info

    # Asked before anything is loaded: other flavours unpickle what they are given.
    flavour = get_model_info(uri).flavors.get("python_function", {})
    if flavour.get("loader_module") != _MODULE:
        raise InvalidInput(f"{uri} is no model of dncbm. Load it with mlflow.pyfunc.load_model.")
    predictor: Predictor = pyfunc.load_model(uri).get_raw_model()
    return predictor


def _load_pyfunc(path: str) -> PyfuncModel:
    """Called by MLflow with the folder of the bundle."""
    return PyfuncModel(Predictor.load(path))


def _pyfunc() -> ModuleType:
    try:
        import mlflow.pyfunc
    except ImportError as error:
        raise Unavailable(
            f"MLflow cannot be imported ({error}). Install it: pip install mlflow-skinny pandas."
        ) from error
    return mlflow.pyfunc


def _with_bundle(
    folder: str | Path, options: dict[str, Any], write: Callable[[dict[str, Any]], Any]
) -> Any:
    """Hand MLflow a bundle without embeddings, its loader, and what has to be installed."""
    with tempfile.TemporaryDirectory(prefix="dncbm-mlflow-") as scratch:
        name = slug(Path(folder).resolve().name)
        bundle = export_model(folder, Path(scratch) / name, training=False)
        # Without requirements MLflow would load the model in another process to guess them.
        needed = {"pip_requirements": [f"dncbm=={package_version()}"]}
        fixed = {"loader_module": _MODULE, "data_path": str(bundle)}
        return write(needed | options | fixed)
