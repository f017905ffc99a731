from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from dncbm.sae.estimator import SparseAutoencoder


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([SparseAutoencoder(epochs=2)])
def test_scikit_learn_conventions(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture
def table(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((60, 5))


def test_codes_and_reconstruction(table: np.ndarray) -> None:
    sae = SparseAutoencoder(num_concepts=12, k=3, epochs=30, random_state=0).fit(table)
    codes = sae.transform(table)
    assert codes.shape == (60, 12)
    assert (codes >= 0).all()
    assert ((codes > 0).sum(axis=1) <= 3).all()
    error = ((table - sae.inverse_transform(codes)) ** 2).sum() / (table**2).sum()
    assert error == pytest.approx(sae.metrics_.unexplained_variance, rel=0.1)
    assert sae.components_.shape == (12, 5)
    assert list(sae.get_feature_names_out())[:1] == ["sparseautoencoder0"]


def test_it_is_a_pipeline_step(table: np.ndarray) -> None:
    labels = (table[:, 0] > 0).astype(int)
    steps = make_pipeline(SparseAutoencoder(num_concepts=20, random_state=0), LogisticRegression())
    assert clone(steps).fit(table, labels).score(table, labels) > 0.8
