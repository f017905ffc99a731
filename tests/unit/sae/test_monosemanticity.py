import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from dncbm.errors import InvalidInput
from dncbm.sae.active import ActiveCodes
from dncbm.sae.monosemanticity import Monosemanticity, monosemanticity
from dncbm.sae.rows import as_rows
from tests.oracles import sae_metrics as oracle


def _entries(codes: torch.Tensor) -> ActiveCodes:
    rows, concepts = codes.nonzero(as_tuple=True)
    starts = torch.searchsorted(rows, torch.arange(len(codes)))
    return ActiveCodes(codes[rows, concepts], concepts, rows, starts)


def sparse_codes(rows: int = 24) -> torch.Tensor:
    """Columns of every kind: usual, always active, constant, dead, active once, one outlier."""
    codes = torch.rand(rows, 6, dtype=torch.float64) * (torch.rand(rows, 6) < 0.4)
    codes[:, 1] = 0.5 + torch.rand(rows)
    codes[:, 2] = 0.7
    codes[:, 3] = 0.0
    codes[:, 4] = 0.0
    codes[5, 4] = 2.0
    codes[7, 5] = 1e4
    return codes


@pytest.mark.parametrize("batch", [1, 7, 24])
def test_equals_the_loop_over_pairs(batch: int) -> None:
    codes = sparse_codes()
    embeddings = torch.randn(24, 5, dtype=torch.float64) + 1
    found = Monosemanticity(6, 5)
    for start in range(0, 24, batch):
        found.add(_entries(codes[start : start + batch]), embeddings[start : start + batch])
    expected = oracle.monosemanticity(codes.numpy(), embeddings.numpy())
    assert found.scores().tolist() == pytest.approx(expected, rel=1e-9, nan_ok=True)
    assert [math.isnan(score) for score in expected] == [False, False, True, True, True, False]
    assert found.baseline() == pytest.approx(oracle.mean_cosine(embeddings.numpy()), rel=1e-12)


def test_stored_codes_and_any_embeddings() -> None:
    codes, embeddings = sparse_codes().float(), torch.randn(24, 3)
    found = monosemanticity(sp.csr_matrix(codes.numpy()), as_rows(embeddings))
    expected = oracle.monosemanticity(codes.numpy(), embeddings.numpy())
    assert found.scores().tolist() == pytest.approx(expected, rel=1e-6, nan_ok=True)


def test_alike_images_score_one_and_any_images_the_baseline() -> None:
    embeddings = torch.eye(4).repeat_interleave(5, dim=0)
    codes = torch.stack([embeddings[:, 0], torch.linspace(1, 2, 20)], dim=1)
    found = Monosemanticity(2, 4)
    found.add(_entries(codes), 3 * embeddings)
    assert float(found.scores()[0]) == pytest.approx(1.0)
    assert float(found.scores()[1]) == pytest.approx(found.baseline(), abs=0.1)


def test_rows_without_a_direction_are_left_out() -> None:
    codes, embeddings = sparse_codes(), torch.randn(24, 5, dtype=torch.float64)
    embeddings[3] = 0
    found, expected = Monosemanticity(6, 5), Monosemanticity(6, 5)
    found.add(_entries(codes), embeddings)
    kept = torch.arange(24) != 3
    expected.add(_entries(codes[kept]), embeddings[kept])
    torch.testing.assert_close(found.scores(), expected.scores(), equal_nan=True)
    assert found.rows == 23


def test_other_images_are_refused() -> None:
    with pytest.raises(InvalidInput, match="24 rows, embeddings 23"):
        monosemanticity(sp.csr_matrix(np.ones((24, 2))), as_rows(torch.ones(23, 3)))
