from pathlib import Path

import numpy as np
import pytest
import torch

from dncbm.errors import InvalidInput
from dncbm.naming import approximate
from dncbm.naming.index import WordIndex, index_kind
from dncbm.naming.words import WordRows
from tests.oracles.naming import ranking


def unit(rng: np.random.Generator, rows: int, width: int) -> torch.Tensor:
    values = torch.from_numpy(rng.normal(size=(rows, width)).astype(np.float32))
    return values / values.norm(dim=1, keepdim=True)


def test_exact_search_agrees_with_the_oracle(rng: np.random.Generator) -> None:
    words, queries = unit(rng, 60, 9), unit(rng, 25, 9)
    scores, rows = WordIndex(WordRows(words)).search(queries, 6)
    for query, found, score in zip(queries.numpy(), rows.tolist(), scores.tolist(), strict=True):
        truth = ranking(query, words.numpy())[:6]
        assert found == [row for row, _ in truth]
        np.testing.assert_allclose(score, [s for _, s in truth], atol=2e-7)


def test_ties_go_to_the_lower_row(rng: np.random.Generator) -> None:
    words = unit(rng, 40, 6)[torch.arange(40) % 5]
    _, rows = WordIndex(WordRows(words)).search(words[:5], 3)
    assert rows.tolist() == [[i, i + 5, i + 10] for i in range(5)]


def test_fewer_words_than_asked_and_no_queries(rng: np.random.Generator) -> None:
    index = WordIndex(WordRows(unit(rng, 3, 4)))
    scores, rows = index.search(unit(rng, 2, 4), 9)
    assert scores.shape == rows.shape == (2, 3)
    assert index.search(torch.empty(0, 4), 2)[0].shape == (0, 2)
    assert len(index) == 3


def test_approximate_search_reports_its_recall(rng: np.random.Generator) -> None:
    words, queries = unit(rng, 3000, 16), unit(rng, 50, 16)
    index = WordIndex(WordRows(words), kind="approximate")
    index.tune(queries)
    assert index.recall(queries) >= 0.99
    assert WordIndex(WordRows(words)).recall(queries) == 1.0
    scores, rows = index.search(queries, 4)
    assert bool((scores[:, :-1] >= scores[:, 1:]).all())
    assert int(rows.min()) >= 0


def test_bad_queries(rng: np.random.Generator) -> None:
    index = WordIndex(WordRows(unit(rng, 3, 4)))
    with pytest.raises(InvalidInput, match="width 5, the vocabulary has width 4"):
        index.search(unit(rng, 2, 5), 1)
    with pytest.raises(InvalidInput, match="NaN or infinity"):
        index.search(torch.full((2, 4), float("nan")), 1)
    with pytest.raises(
        InvalidInput, match="Unknown index 'annoy'. Known names: approximate, exact"
    ):
        WordIndex(WordRows(unit(rng, 3, 4)), kind="annoy")


def test_auto_is_exact_until_it_takes_too_long() -> None:
    assert index_kind("auto", 8192, 20_000, 512) == "exact"
    assert index_kind("auto", 16_384, 1_000_000, 512) == "exact"
    assert index_kind("auto", 65_536, 1_000_000, 512) == "approximate"
    assert index_kind("auto", 1_000_000, 100_000, 512) == "exact"
    assert index_kind("exact", 65_536, 1_000_000, 512) == "exact"
    assert index_kind("approximate", 10, 10, 8) == "approximate"


def test_a_kept_index_is_read_where_words_and_file_are_the_same(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, queries = WordRows(unit(rng, 900, 16)), unit(rng, 20, 16)
    first = WordIndex(words, kind="approximate", saved=tmp_path / "kept", key="a")
    built = []
    build = approximate._build
    monkeypatch.setattr(approximate, "_build", lambda words: built.append(1) or build(words))
    again = WordIndex(words, kind="approximate", saved=tmp_path / "kept", key="a")
    assert not built
    assert all(map(torch.equal, first.search(queries, 3), again.search(queries, 3)))
    WordIndex(words, kind="approximate", saved=tmp_path / "kept", key="b")
    assert len(built) == 1
    with (tmp_path / "kept" / approximate.INDEX).open("r+b") as stream:
        stream.seek(100)
        stream.write(b"damage")
    WordIndex(words, kind="approximate", saved=tmp_path / "kept", key="b")
    assert len(built) == 2
