"""The long-tail protocol: neighbours, probes and separation against loops."""

import numpy as np
import pytest

from dncbm.contrastive.evaluate import (
    Labelled,
    class_separation,
    evaluate,
    linear_classes,
    nearest_classes,
    per_class,
)
from dncbm.errors import InvalidInput
from tests.oracles import contrastive_schedules as oracles


def _rows(counts: list[int], spread: float, seed: int) -> Labelled:
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(len(counts), 6))
    labels = np.repeat(np.arange(len(counts)), counts)
    features = centres[labels] + spread * draw.normal(size=(len(labels), 6))
    return Labelled(features=features, labels=labels)


@pytest.mark.parametrize("spread", [0.1, 1.0])
def test_separation_equals_the_loop(spread: float) -> None:
    rows = _rows([5, 3, 9], spread, 1)
    wanted = oracles.class_separation(rows.features, rows.labels)
    assert class_separation(rows.unit()) == pytest.approx(wanted, rel=1e-9)


def test_separation_has_its_ends() -> None:
    points = Labelled(features=np.eye(3)[[0, 0, 1, 2]], labels=np.array([0, 0, 1, 2]))
    assert class_separation(points) == pytest.approx(1.0)
    mixed = Labelled(features=np.eye(2)[[0, 1, 0, 1]], labels=np.array([0, 0, 1, 1]))
    assert class_separation(mixed) == pytest.approx(0.0)
    same = Labelled(features=np.ones((3, 1)), labels=np.array([0, 1, 1]))
    assert np.isnan(class_separation(same))


def test_neighbours_equal_the_loop() -> None:
    train, test = _rows([20, 9, 4], 1.0, 1).unit(), _rows([7, 7, 7], 1.0, 2).unit()
    found = nearest_classes(train, test.features, (1, 3, 10, 99))
    for k, guess in found.items():
        wanted = [
            oracles.nearest_class(train.features, train.labels, row, k) for row in test.features
        ]
        assert guess.tolist() == wanted


def test_all_figures_are_means_over_classes() -> None:
    train, test = _rows([60, 30, 12, 12, 6, 3], 0.4, 1), _rows([9, 5, 7, 7, 4, 8], 0.4, 2)
    found = evaluate(train, test, seed=3)
    assert found["shots"] == 3
    unit, asked = train.unit(), test.unit()
    right = per_class(nearest_classes(unit, asked.features)[10], asked.labels)
    assert found["knn_10"] == pytest.approx(sum(right.values()) / 6)
    assert found["knn_10_tail"] == pytest.approx((right[4] + right[5]) / 2)
    assert found["knn_10_head"] == pytest.approx((right[0] + right[1]) / 2)
    assert found["long_tail"] > 0.7
    assert found["few_shot"] > 0.5
    assert set(found) == {
        "shots", "class_separation",
        *(f"{name}{part}" for name in ("knn_1", "knn_10", "few_shot", "long_tail")
          for part in ("", "_head", "_mid", "_tail")),
    }  # fmt: skip
    scaled = Labelled(features=7 * train.features, labels=train.labels)
    assert evaluate(scaled, test, seed=3)["long_tail"] == found["long_tail"]
    assert evaluate(train, test, seed=3, bounds=(1, 2))["knn_1_mid"] is None


def test_one_image_of_a_class_is_one_shot() -> None:
    found = evaluate(_rows([9, 1], 0.1, 1), _rows([5, 5], 0.1, 2))
    assert found["shots"] == 1
    assert found["few_shot"] == 1.0
    assert found["few_shot_tail"] is None
    with pytest.raises(InvalidInput, match="class 1 has 1"):
        evaluate(_rows([9, 1], 0.1, 1), _rows([5, 5], 0.1, 2), shots=2)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"\[2\] have no training photo"):
        evaluate(_rows([5, 5], 0.1, 1), _rows([3, 3, 3], 0.1, 2))
    with pytest.raises(InvalidInput, match="one label a row"):
        Labelled(features=np.zeros((2, 3)), labels=np.zeros(3, dtype=int))
    with pytest.raises(InvalidInput, match="at least one row"):
        Labelled(features=np.zeros((0, 3)), labels=np.zeros(0, dtype=int))
    alone = Labelled(features=np.eye(2), labels=np.array([4, 4]))
    assert linear_classes(alone, np.eye(2)).tolist() == [4, 4]
