import numpy as np
import pytest
import torch

from dncbm.errors import InvalidInput
from dncbm.naming.index import WordIndex
from tests.oracles.naming import ranking


def unit(rng: np.random.Generator, rows: int, width: int) -> torch.Tensor:
    values = torch.from_numpy(rng.normal(size=(rows, width)).astype(np.float32))
    return values / values.norm(dim=1, keepdim=True)


def test_exact_search_agrees_with_the_oracle(rng: np.random.Generator) -> None:
    words, queries = unit(rng, 60, 9), unit(rng, 25, 9)
    scores, rows = WordIndex(words).search(queries, 6)
    for query, found, score in zip(queries.numpy(), rows.tolist(), scores.tolist(), strict=True):
        truth = ranking(query, words.numpy())[:6]
        assert found == [row for row, _ in truth]
        np.testing.assert_allclose(score, [s for _, s in truth], atol=2e-7)


def test_ties_go_to_the_lower_row(rng: np.random.Generator) -> None:
    words = unit(rng, 40, 6)[torch.arange(40) % 5]
    _, rows = WordIndex(words).search(words[:5], 3)
    assert rows.tolist() == [[i, i + 5, i + 10] for i in range(5)]


def test_fewer_words_than_asked_and_no_queries(rng: np.random.Generator) -> None:
    index = WordIndex(unit(rng, 3, 4))
    scores, rows = index.search(unit(rng, 2, 4), 9)
    assert scores.shape == rows.shape == (2, 3)
    assert index.search(torch.empty(0, 4), 2)[0].shape == (0, 2)
    assert len(index) == 3


def test_approximate_search_reports_its_recall(rng: np.random.Generator) -> None:
    words, queries = unit(rng, 3000, 16), unit(rng, 50, 16)
    index = WordIndex(words, kind="approximate")
    assert 0.9 < index.recall(queries) <= 1.0
    assert WordIndex(words).recall(queries) == 1.0
    scores, rows = index.search(queries, 4)
    assert bool((scores[:, :-1] >= scores[:, 1:]).all())
    assert int(rows.min()) >= 0


def test_bad_queries(rng: np.random.Generator) -> None:
    index = WordIndex(unit(rng, 3, 4))
    with pytest.raises(InvalidInput, match="width 5, the vocabulary has width 4"):
        index.search(unit(rng, 2, 5), 1)
    with pytest.raises(InvalidInput, match="NaN or infinity"):
        index.search(torch.full((2, 4), float("nan")), 1)
    with pytest.raises(
        InvalidInput, match="Unknown index 'annoy'. Known names: approximate, exact"
    ):
        WordIndex(unit(rng, 3, 4), kind="annoy")
