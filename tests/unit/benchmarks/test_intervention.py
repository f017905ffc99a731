import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.metrics import roc_auc_score

from benchmarks import intervention
from dncbm.probe.model import Probe


def scenes(codes, repeats=25):
    """Scenes in which object and ground are independent; codes are given per (object, ground)."""
    objects, grounds = np.arange(4 * repeats) % 2, np.arange(4 * repeats) // 2 % 2
    table = np.array([codes[o, g] for o, g in zip(objects, grounds, strict=True)], dtype=float)
    return intervention.Scenes(sp.csr_array(table), objects, grounds)


def test_the_area_matches_scikit_learn(rng):
    codes = rng.random((50, 8)) * (rng.random((50, 8)) < 0.4)  # many ties at zero
    signs = rng.integers(0, 2, 50)
    truth = [roc_auc_score(signs, column) for column in codes.T]
    np.testing.assert_allclose(intervention.area(codes, signs), truth)


def test_concepts_are_labelled_by_what_they_tell_apart():
    # Columns: object, absence of an object, ground, nothing, and object and ground crossed.
    codes = {
        (0, 0): [0, 1, 0, 1, 0],
        (1, 0): [1, 0, 0, 1, 1],
        (0, 1): [0, 1, 1, 1, 1],
        (1, 1): [1, 0, 1, 1, 0],
    }
    found = intervention.label(scenes(codes))
    assert found.tolist() == ["object", "object", "ground", "neither", "neither"]


def test_a_concept_of_both_goes_with_the_stronger(rng):
    objects, grounds = np.arange(400) % 2, np.arange(400) // 2 % 2
    noise = rng.random((400, 2))
    codes = noise + np.stack([0.6 * objects + 0.3 * grounds, 0.3 * objects + 0.6 * grounds], axis=1)
    found = intervention.label(intervention.Scenes(sp.csr_array(codes), objects, grounds))
    assert found.tolist() == ["object", "ground"]


def test_the_association_is_taken_within_strata():
    # In these rows the ground follows the object but for a few; the code is that of the ground.
    objects = np.array([0] * 50 + [1] * 50)
    grounds = np.where(np.arange(100) % 10 == 0, 1 - objects, objects)
    codes = grounds[:, None].astype(float)
    assert intervention.tells_apart(codes, objects, grounds).tolist() == [0.0]
    assert intervention.tells_apart(codes, grounds, objects).tolist() == [0.5]


def test_each_intervention_removes_what_it_says():
    found = intervention.interventions(np.array(["object", "ground", "neither", "ground"]))
    assert found == {
        "none": [],
        "object concepts only": [1, 2, 3],
        "ground concepts removed": [1, 3],
        "object concepts removed": [0],
    }


def head(bias):
    weights = torch.tensor([[2.0, 1.0], [-2.0, -1.0]]).double()
    return Probe(weights, torch.tensor([bias, -bias]).double(), ("a", "b"))


def test_the_worst_group_is_the_lowest_of_the_four():
    # Concept 0 fires on object 0 and, wrongly, also on object 1 where the ground is 1.
    codes = {(0, 0): [1, 0], (0, 1): [1, 0], (1, 0): [0, 0], (1, 1): [1, 0]}
    found = intervention.measure(head(-0.5), scenes(codes))
    assert found == {"accuracy": 0.75, "worst_group": 0.0, "worst_pair": 0.5}


def test_a_bias_moves_the_worst_group_and_not_the_worst_pair():
    codes = {(0, 0): [2, 0], (0, 1): [1, 0], (1, 0): [0.5, 0], (1, 1): [0, 0]}
    good = intervention.measure(head(-1.5), scenes(codes))
    tilted = intervention.measure(head(9.0), scenes(codes))
    assert (good["worst_group"], tilted["worst_group"]) == (1.0, 0.0)
    assert good["worst_pair"] == tilted["worst_pair"] == 1.0


def row(seed, name, worst, kept):
    same = {"accuracy": 0.5, "worst_pair": 0.6, "used": 4, "object": 1, "ground": 3}
    of = {"world": "w", "seed": seed, "head": "nec5", "intervention": name}
    return {**of, **same, "worst_group": worst, "worst_group_average_kept": kept}


def test_the_summary_counts_where_the_worst_group_rose():
    only, removed = "object concepts only", "object concepts removed"
    rows = [row(0, "none", 0.2, 0.2), row(0, only, 0.5, 0.6), row(0, removed, 0.0, 0.0)]
    rows += [row(1, "none", 0.4, 0.4), row(1, only, 0.4, 0.6), row(1, removed, 0.3, 0.1)]
    found = intervention.summary(rows)
    after = found[1]
    assert (after["worst_group_rose"], after["worst_group_average_kept_rose"], after["of"]) == (
        1,
        2,
        2,
    )
    assert after["worst_group_range"] == "0.40 to 0.50"
    assert after["worst_group"] == pytest.approx(0.45)
    assert found[0]["worst_group_rose"] == 0
    assert intervention.ratios(found, "nec5") == {
        "object_only_over_before": pytest.approx(1.5),
        "object_only_average_kept_over_before": pytest.approx(2.0),
        "object_removed_over_before": pytest.approx(0.5),
    }


def test_without_a_worst_group_there_is_no_ratio():
    names = ("none", "object concepts only", "object concepts removed")
    found = intervention.summary([row(0, name, 0.0, 0.0) for name in names])
    assert set(intervention.ratios(found, "nec5").values()) == {None}
