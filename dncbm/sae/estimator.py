"""The sparse autoencoder as a scikit-learn transformer."""

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from dncbm.sae.model import SaeModel
from dncbm.sae.presets import preset
from dncbm.sae.train import train_sae

_MAX_SEED = 2**31 - 1


class SparseAutoencoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Embeddings in, sparse codes out: `fit(X)`, `transform(X)`, `inverse_transform(codes)`.

    Parameters
    ----------
    num_concepts : int or None
        Size of the dictionary; None lets the preset choose by the number of rows.
    k : int or None
        Codes per row for TopK variants; None keeps the preset's.
    preset : str
        Recipe, see `dncbm.sae.presets.preset`.
    epochs : int or None
        Passes over the data; None keeps the preset's.
    random_state : int, RandomState or None
        Source of the run's seed.
    device : str
        Where to train.

    Attributes
    ----------
    components_ : ndarray (num_concepts, n_features)
        The dictionary, rows of unit length.
    model_ : SaeModel
        The trained model, in float64.
    metrics_ : SaeMetrics
        Quality on the training rows.
    n_features_in_ : int
    """

    def __init__(
        self,
        num_concepts: Any = None,
        *,
        k: Any = None,
        preset: Any = "default",
        epochs: Any = None,
        random_state: Any = None,
        device: Any = "cpu",
    ) -> None:
        """Store settings unchecked; scikit-learn wants them checked by `fit`."""
        self.num_concepts = num_concepts
        self.k = k
        self.preset = preset
        self.epochs = epochs
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any = None) -> "SparseAutoencoder":
        """Train on the rows of X; y is ignored."""
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        chosen = {"num_concepts": self.num_concepts, "k": self.k, "epochs": self.epochs}
        config = preset(
            self.preset,
            embed_dim=X.shape[1],
            num_rows=X.shape[0],
            seed=int(check_random_state(self.random_state).randint(_MAX_SEED)),
            **{name: value for name, value in chosen.items() if value is not None},
        )
        trained = train_sae(X, config, device=self.device)
        # float64 codes do not depend on how rows are batched, which pipelines rely on.
        self.model_: SaeModel = trained.model.double().cpu()
        self.metrics_ = trained.metrics
        self.components_ = self.model_.dictionary.detach().numpy()
        self._n_features_out = len(self.components_)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Codes (n, num_concepts), >= 0, in the float type of X."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        with torch.no_grad():
            codes = self.model_.encode(torch.from_numpy(np.array(X, dtype=np.float64)))
        return codes.numpy().astype(X.dtype, copy=False)

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Embeddings (n, n_features) rebuilt from codes."""
        check_is_fitted(self)
        with torch.no_grad():
            codes = torch.from_numpy(np.array(X, dtype=np.float64))
            return self.model_.decode(codes).numpy()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
