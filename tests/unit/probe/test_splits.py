import numpy as np
import pytest

from dncbm.probe.splits import hold_out


@pytest.mark.parametrize("fraction", [1e-6, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 50])
def test_held_out_rows_leave_every_class_in_train(fraction, count):
    labels = np.concatenate([np.zeros(100, int), np.ones(count, int)])
    held = hold_out(labels, fraction, 0)
    assert (~held[labels == 1]).any()
    assert held[labels == 1].any() == (count >= 3)
