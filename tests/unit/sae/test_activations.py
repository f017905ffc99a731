import numpy as np
import pytest
import torch

from dncbm.errors import InvalidInput, UnknownName
from dncbm.sae.activations import Activation, BatchTopK, ReLU, TopK, build_activation
from tests.oracles import sae_variants as oracle


@pytest.fixture
def pre() -> torch.Tensor:
    return torch.randn(7, 12, dtype=torch.float64)


def test_top_k_keeps_the_largest_of_each_row(pre: torch.Tensor) -> None:
    expected = oracle.largest(pre.numpy(), 9)
    np.testing.assert_array_equal(TopK(9)(pre).numpy(), expected)
    assert (expected == 0).any()  # k = 9 reaches into the negative pre-activations


def test_top_k_of_one_is_the_row_maximum(pre: torch.Tensor) -> None:
    np.testing.assert_array_equal(TopK(1)(pre).numpy(), oracle.largest(pre.numpy(), 1))


def test_batch_top_k_keeps_the_largest_of_the_batch(pre: torch.Tensor) -> None:
    kept = BatchTopK(3).train()(pre)
    np.testing.assert_array_equal(kept.numpy(), oracle.largest_of_batch(pre.numpy(), 3 * len(pre)))
    assert len({int(count) for count in (kept > 0).sum(dim=1)}) > 1


def test_batch_top_k_does_not_mix_rows_in_evaluation(pre: torch.Tensor) -> None:
    activation = BatchTopK(3).train()
    activation(pre)
    activation.eval()
    together = activation(pre)
    alone = torch.cat([activation(row[None]) for row in pre])
    torch.testing.assert_close(together, alone, rtol=0, atol=0)
    assert (together > 0).sum() == 3 * len(pre) - 1  # the threshold itself does not pass


def test_relu_is_the_positive_part(pre: torch.Tensor) -> None:
    np.testing.assert_array_equal(ReLU()(pre).numpy(), np.maximum(pre.numpy(), 0))


def test_activations_rebuild_from_name_and_settings() -> None:
    for activation in (ReLU(), TopK(4), BatchTopK(5, momentum=0.5)):
        assert isinstance(activation, Activation)
        again = build_activation(activation.name, activation.settings())
        assert type(again) is type(activation)
        assert again.settings() == activation.settings()


def test_unknown_and_impossible_activations_are_refused() -> None:
    with pytest.raises(UnknownName, match="Nearest known names: topk"):
        build_activation("topkk", {})
    with pytest.raises(InvalidInput, match="k is 0"):
        TopK(0)


def test_batch_top_k_hides_no_nan() -> None:
    pre = torch.tensor([[1.0, float("nan"), 2.0], [0.5, -1.0, 3.0]])
    activation = BatchTopK(1).train()
    assert 1 in activation.select(pre).tolist()
    assert bool(activation(pre).isnan().any())


def test_the_threshold_of_batch_top_k_follows_the_smallest_kept_value() -> None:
    """2412.06410: a plain mean of the first batches, then a running one."""
    activation, expected = BatchTopK(2, momentum=0.25).train(), 0.0
    for number in range(1, 8):
        pre = torch.randn(6, 9, dtype=torch.float64) + number
        kept = oracle.largest_of_batch(pre.numpy(), 12)
        weight = max(1 / number, 0.25)
        expected = (1 - weight) * expected + weight * kept[kept > 0].min()
        activation(pre) if number % 2 else activation.select(pre)
        assert float(activation.threshold) == pytest.approx(expected, rel=1e-6)
    activation.eval()(pre)
    assert int(activation.seen) == 7  # evaluation leaves it alone


def test_batch_top_k_keeps_nothing_that_is_not_positive() -> None:
    pre = torch.tensor([[1.0, 0.0, -1.0], [-2.0, 0.0, 0.5]])
    activation = BatchTopK(3).train()
    assert activation.select(pre).tolist() == [0, 5]
    assert activation(pre).tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 0.5]]
    assert float(activation.threshold) == 0.0


def test_batch_top_k_keeps_all_that_tie_with_the_smallest() -> None:
    pre = torch.tensor([[3.0, 1.0], [1.0, -1.0]])
    assert BatchTopK(1).train().select(pre).tolist() == [0, 1, 2]
