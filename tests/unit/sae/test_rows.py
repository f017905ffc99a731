from pathlib import Path

import numpy as np
import pytest
import torch

from dncbm.errors import InvalidInput
from dncbm.sae.rows import EmbeddingRows, ShardRows, as_rows, chunks, input_statistics


@pytest.fixture
def shards(tmp_path: Path, rng: np.random.Generator) -> list[np.ndarray]:
    made = []
    for number, size in enumerate((5, 1, 7)):
        array = rng.standard_normal((size, 3)).astype(np.float16)
        np.save(tmp_path / f"{number}.npy", array)
        made.append(np.load(tmp_path / f"{number}.npy", mmap_mode="r"))
    return made


def test_shards_read_like_one_array(shards: list[np.ndarray]) -> None:
    whole = np.concatenate(shards).astype(np.float32)
    rows = as_rows(shards)
    assert isinstance(rows, EmbeddingRows)
    assert rows.shape == (13, 3)
    order = torch.tensor([12, 0, 5, 5, 4, 6])
    np.testing.assert_array_equal(rows.gather(order).numpy(), whole[order.numpy()])
    np.testing.assert_array_equal(torch.cat(list(chunks(rows, 4))).numpy(), whole)


def test_a_subset_is_read_in_its_own_order(shards: list[np.ndarray]) -> None:
    rows = ShardRows(shards, subset=[6, 2, 12])
    whole = np.concatenate(shards).astype(np.float32)
    np.testing.assert_array_equal(rows.gather(torch.tensor([2, 0])).numpy(), whole[[12, 6]])
    with pytest.raises(InvalidInput, match="row 13"):
        ShardRows(shards, subset=[13])


def test_statistics(rng: np.random.Generator) -> None:
    x = rng.standard_normal((5000, 3)) + [1, 2, 3]
    found = input_statistics(as_rows(x))
    np.testing.assert_allclose(found.mean.numpy(), x.mean(axis=0), rtol=1e-5)
    assert found.variance == pytest.approx(x.var(axis=0).sum(), rel=1e-5)
    assert found.energy == pytest.approx((x**2).sum(axis=1).mean(), rel=1e-5)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    found = input_statistics(as_rows(x), normalize=True)
    assert found.variance == pytest.approx(unit.var(axis=0).sum(), rel=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_broken_rows_are_named(value: float) -> None:
    x = np.zeros((5000, 3))
    x[[17, 4999], 1] = value
    with pytest.raises(InvalidInput, match="row 17. Remove"):
        input_statistics(as_rows(x))


def test_large_finite_rows_pass() -> None:
    assert input_statistics(as_rows(np.full((4, 2), 3e38))).variance == 0.0


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(InvalidInput, match="shape"):
        as_rows(np.zeros(3))
    with pytest.raises(InvalidInput, match="different widths"):
        as_rows([np.zeros((2, 3)), np.zeros((2, 4))])
    with pytest.raises(InvalidInput, match="non-empty list"):
        as_rows([])
    with pytest.raises(InvalidInput, match="at least 2 rows"):
        input_statistics(as_rows(np.zeros((1, 3))))
