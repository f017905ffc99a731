import logging

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

from dncbm.errors import InvalidInput
from dncbm.probe.estimator import ConceptBottleneckClassifier


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.filterwarnings("ignore")  # scikit-learn's own checks warn at will
@parametrize_with_checks([ConceptBottleneckClassifier(nec=2)])
def test_scikit_learn_estimator_checks(estimator, check):
    check(estimator)


def test_a_pipeline_with_string_labels(world):
    codes, labels, classes = world
    names = np.array(classes)
    model = make_pipeline(FunctionTransformer(np.sqrt), ConceptBottleneckClassifier(nec=3))
    model.fit(codes["train"], names[labels["train"]])
    assert model.score(codes["test"], names[labels["test"]]) > 0.6
    head = model[-1]
    assert ((head.coef_ != 0).sum(axis=1) <= 3).all()
    assert head.probe_.classes == ("ant", "bee", "cat")
    np.testing.assert_allclose(model.predict_proba(codes["test"]).sum(axis=1), 1.0)


def test_sparse_and_dense_codes_give_the_same_classes(world):
    codes, labels, _ = world
    model = ConceptBottleneckClassifier().fit(sp.csr_matrix(codes["train"]), labels["train"])
    dense = model.predict(codes["test"])
    assert (dense == model.predict(sp.csr_matrix(codes["test"]))).all()


def test_one_class_is_refused():
    with pytest.raises(InvalidInput, match="only one class"):
        ConceptBottleneckClassifier().fit(np.ones((4, 2)), ["a"] * 4)


def test_settings_survive_cloning():
    model = ConceptBottleneckClassifier(nec=7, balanced=True)
    assert clone(model).get_params() == model.get_params()
