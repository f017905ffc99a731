import numpy as np
import pytest

from dncbm.probe.splits import hold_out, stratified_rows


@pytest.mark.parametrize("fraction", [1e-6, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 50])
def test_held_out_rows_leave_every_class_in_train(fraction, count):
    labels = np.concatenate([np.zeros(100, int), np.ones(count, int)])
    held = hold_out(labels, fraction, 0)
    assert (~held[labels == 1]).any()
    assert held[labels == 1].any() == (count >= 3)


def test_a_sample_keeps_the_shares_and_every_class():
    labels = np.repeat([0, 1, 2], [600, 300, 2])
    rows = stratified_rows(labels, 90, seed=1)
    assert np.bincount(labels[rows]).tolist() == [60, 30, 1]
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(rows, stratified_rows(labels, 90, seed=1))
    assert stratified_rows(labels, 902, seed=1).tolist() == list(range(902))
