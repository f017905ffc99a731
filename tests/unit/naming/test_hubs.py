import numpy as np
import pytest
import torch

from dncbm.naming.exact import nearest_words
from dncbm.naming.hubs import hubness, without_hubs
from dncbm.naming.words import WordRows
from tests.oracles.naming import cosines, skewness


def unit(rng: np.random.Generator, rows: int, width: int) -> torch.Tensor:
    values = torch.from_numpy(rng.normal(size=(rows, width)).astype(np.float32)) + 0.5
    return values / values.norm(dim=1, keepdim=True)


def test_corrected_order_agrees_with_the_definition(rng: np.random.Generator) -> None:
    words, directions = unit(rng, 30, 6), unit(rng, 25, 6)
    nearest = nearest_words(WordRows(words), directions, 30)
    scores, rows = without_hubs(WordRows(words), directions, nearest, 0.5)
    table = np.array([cosines(d, words.numpy()) for d in directions.numpy()])
    density = np.sort(table, axis=0)[-10:].mean(axis=0)
    expected = np.argsort(-(table - 0.5 * density), axis=1)
    np.testing.assert_array_equal(rows.numpy(), expected)
    np.testing.assert_allclose(scores, np.take_along_axis(table, expected, 1), atol=1e-6)
    assert without_hubs(WordRows(words), directions, nearest, 0.0) is nearest


def test_correction_spreads_the_words(rng: np.random.Generator) -> None:
    words, directions = WordRows(unit(rng, 200, 20)), unit(rng, 150, 20)
    nearest = nearest_words(words, directions, 60)
    before = hubness(nearest[1], [str(i) for i in range(200)])
    after = hubness(without_hubs(words, directions, nearest, 0.5)[1], [str(i) for i in range(200)])
    assert after["skewness"] < before["skewness"]


def test_skewness_agrees_with_the_oracle(rng: np.random.Generator) -> None:
    rows = torch.from_numpy(rng.integers(0, 12, size=(40, 3)) ** 2 % 12)
    found = hubness(rows, [f"w{i}" for i in range(15)])
    counts = np.bincount(rows.flatten().numpy(), minlength=15).tolist()
    assert found["skewness"] == pytest.approx(skewness(counts))
    assert found["largest"][0] == [f"w{int(np.argmax(counts))}", max(counts)]
    assert hubness(torch.full((2, 3), -1), ["a", "b"])["skewness"] == 0.0
