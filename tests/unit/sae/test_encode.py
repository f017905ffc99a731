import numpy as np
import pytest
import torch

from dncbm.errors import InvalidInput
from dncbm.sae import chosen
from dncbm.sae.activations import TopK
from dncbm.sae.encode import encode_rows, sparse_codes
from dncbm.sae.model import SaeModel
from tests.unit.sae.variants import ACTIVATIONS, CONCEPTS


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_chosen_entries_give_the_table_that_all_of_them_give(
    name: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chosen, "_SPARSE_BELOW_OTHERWISE", share)
    model = SaeModel(5, CONCEPTS, activation=ACTIVATIONS[name]()).eval()
    x = torch.randn(23, 5)
    found = sparse_codes(model, x)
    np.testing.assert_allclose(found.toarray(), model.encode(x).detach().numpy(), atol=1e-6)
    assert (found.data > 0).all()
    assert found.has_sorted_indices


def test_sparse_codes_equal_dense_ones() -> None:
    model = SaeModel(5, 9, activation=TopK(2)).train()
    x = torch.randn(23, 5)
    seen: list[tuple[str, int, int]] = []
    codes = encode_rows(model, x, batch_size=10, progress=lambda *report: seen.append(report))
    np.testing.assert_allclose(codes.toarray(), model.encode(x).detach().numpy(), atol=1e-6)
    assert codes.dtype == np.float32
    assert codes.nnz <= 2 * 23
    assert seen == [("encode", 10, 23), ("encode", 20, 23), ("encode", 23, 23)]
    assert model.training


def test_broken_rows_are_named_and_no_rows_give_no_codes() -> None:
    model = SaeModel(5, 9, activation=TopK(2))
    x = torch.randn(23, 5)
    x[13, 0] = torch.nan
    with pytest.raises(InvalidInput, match="row 13"):
        encode_rows(model, x, batch_size=10)
    assert encode_rows(model, x[:0]).shape == (0, 9)
