"""The bottleneck's head as a scikit-learn classifier over codes."""

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from dncbm.errors import InvalidInput
from dncbm.probe.metrics import probe_logits, softmax
from dncbm.probe.model import Probe
from dncbm.probe.train import DENSE, ProbeConfig, TrainedProbe, train_probe


class ConceptBottleneckClassifier(ClassifierMixin, BaseEstimator):
    """Linear classifier over concept codes with few concepts per class.

    A drop-in last step of a Pipeline after `SparseAutoencoder`.

    Args:
        nec: concepts each class may use, >= 1; None for the dense probe.
        solver: `elastic-net` (convex, exact zeros) or `paper` (Adam, no zeros in the dense
            probe).
        truncation: `class` gives each class `nec` concepts, `global` that many on average.
        l1_ratio: share of L1 in the elastic net, in (0, 1].
        balanced: weigh classes equally instead of rows.
        validation_fraction: share of rows held out to choose penalties and to calibrate.
        epochs: of the `paper` solver.
        random_state: integer seed of the held-out rows and of the `paper` solver.

    Attributes:
        classes_: labels in the order of the columns of `predict_proba`.
        coef_: (k, c) weights; intercept_: (k,). For two classes, too, one row per class.
        probe_: the same as `dncbm.probe.model.Probe`.
        temperature_: logits are divided by it in `predict_proba`.
        metrics_: accuracies, NEC, NCC and calibration errors of the fit.
    """

    def __init__(  # noqa: PLR0913 - scikit-learn wants every option here
        self,
        nec: Any = None,  # Any: scikit-learn wants values checked in fit, not here
        *,
        solver: Any = "elastic-net",
        truncation: Any = "class",
        l1_ratio: Any = 0.99,
        balanced: Any = False,
        validation_fraction: Any = 0.1,
        epochs: Any = 200,
        random_state: Any = 0,
    ) -> None:
        self.nec = nec
        self.solver = solver
        self.truncation = truncation
        self.l1_ratio = l1_ratio
        self.balanced = balanced
        self.validation_fraction = validation_fraction
        self.epochs = epochs
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> "ConceptBottleneckClassifier":
        """Train on codes `X` (n, c), dense or sparse, and labels `y` (n,).

        Raises:
            InvalidInput: one class only, all codes zero, or settings out of range.
        """
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=[np.float64, np.float32])
        check_classification_targets(y)
        self.classes_, indices = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise InvalidInput(
                f"y has only one class ({self.classes_[0]!r}); a classifier needs at least two."
            )
        names = [str(index) for index in range(len(self.classes_))]
        trained = train_probe(X, indices.astype(np.int64), names, self._config())
        self._keep(trained)
        return self

    def _config(self) -> ProbeConfig:
        return ProbeConfig(
            solver=self.solver,
            necs=() if self.nec is None else (self.nec,),
            truncation=self.truncation,
            l1_ratio=self.l1_ratio,
            balanced=self.balanced,
            validation_fraction=self.validation_fraction,
            epochs=self.epochs,
            seed=self.random_state,
        )

    def _keep(self, trained: TrainedProbe) -> None:
        name = DENSE if self.nec is None else f"nec{self.nec}"
        probe = trained.heads()[name]
        self.coef_ = probe.weights.numpy()
        self.intercept_ = probe.bias.numpy()
        self.temperature_ = trained.temperatures[name]
        self.metrics_ = trained.metrics

    @property
    def probe_(self) -> Probe:
        """The fitted head, with class names as strings."""
        check_is_fitted(self, "coef_")
        names = tuple(str(label) for label in self.classes_)
        return Probe(torch.from_numpy(self.coef_), torch.from_numpy(self.intercept_), names)

    def _logits(self, X: Any) -> np.ndarray:
        check_is_fitted(self, "coef_")
        X = validate_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=False)
        return probe_logits(self.probe_, sp.csr_array(X) if sp.issparse(X) else X)

    def decision_function(self, X: Any) -> np.ndarray:
        """Logits (n, k); for two classes the difference second minus first (n,)."""
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict(self, X: Any) -> np.ndarray:
        """The class with the largest logit of each row."""
        logits = self._logits(X)
        return self.classes_[logits.argmax(axis=1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Calibrated probabilities (n, k)."""
        logits = self._logits(X)
        return softmax(logits / self.temperature_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
