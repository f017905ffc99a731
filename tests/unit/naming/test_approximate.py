from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dncbm.artifacts import file_sha256, write_json
from dncbm.naming import approximate, exact
from dncbm.naming.approximate import InvertedLists, Lists
from dncbm.naming.exact import nearest_words
from dncbm.naming.index import WordIndex
from dncbm.naming.words import WordRows
from tests.oracles.naming import in_lists, ranking
from tests.unit.naming.conftest import unit


@pytest.fixture(autouse=True)
def _small_pieces(small_blocks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approximate, "BLOCK", 50)
    monkeypatch.setattr(approximate, "_PIECE", 16)
    monkeypatch.setattr(approximate, "_RANKED", 6)
    monkeypatch.setattr(approximate, "_AT_ONCE", 20)


def _lists(words: torch.Tensor) -> InvertedLists:
    return InvertedLists.open(WordRows(words), None, "")


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float32])
def test_all_lists_give_the_answer_of_the_exact_search_bit_for_bit(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, low: torch.dtype
) -> None:
    monkeypatch.setattr(exact, "fast_products", lambda: low)
    some = torch.cat([unit(rng, 150, 12), unit(rng, 1, 12) + 0.001 * unit(rng, 50, 12)])
    words = (some / some.norm(dim=1, keepdim=True))[torch.arange(500) % 200]
    queries = torch.cat([unit(rng, 30, 12), words[150:165]])
    lists = _lists(words)
    lists.probes = len(lists.lists.leaders)
    for count in (1, 6):
        found, truth = lists.search(queries, count), nearest_words(lists.words, queries, count)
        assert all(map(torch.equal, found, truth))


@pytest.mark.parametrize("probes", [1, 2, 5])
def test_search_agrees_with_the_oracle(rng: np.random.Generator, probes: int) -> None:
    words, queries = unit(rng, 300, 9), unit(rng, 25, 9)
    lists = _lists(words)
    lists.probes = probes
    scores, rows = lists.search(queries, 8)
    for query, score, row in zip(queries.numpy(), scores.tolist(), rows.tolist(), strict=True):
        truth = in_lists(query, words.numpy(), *map(torch.Tensor.tolist, lists.lists), probes)[:8]
        gaps = 8 - len(truth)
        assert row == [place for place, _ in truth] + [-1] * gaps
        np.testing.assert_allclose(score, [s for _, s in truth] + [-np.inf] * gaps, atol=2e-7)


def test_gaps_where_the_lists_hold_fewer_words_than_asked(rng: np.random.Generator) -> None:
    words = unit(rng, 100, 8)
    lists = _lists(words)
    lists.probes = 1
    sizes = lists.lists.owners.bincount()
    scores, rows = lists.search(words[lists.lists.leaders], 60)
    assert (rows >= 0).sum(dim=1).tolist() == sizes.tolist()
    assert torch.equal(rows < 0, scores == -torch.inf)


def test_every_word_stands_with_its_nearest_leader_and_no_list_is_empty(
    rng: np.random.Generator,
) -> None:
    words = unit(rng, 40, 16)[torch.arange(400) % 40]
    leaders, owners = _lists(words).lists
    assert sorted(set(owners.tolist())) == list(range(len(leaders)))
    products = words @ words[leaders].T
    own = products.gather(1, owners[:, None])[:, 0]
    assert bool((own >= products.amax(dim=1) - 0.02).all())


@pytest.mark.parametrize("count", [2, 3, 5])
def test_hardly_any_words(rng: np.random.Generator, count: int) -> None:
    words = unit(rng, count, 4)
    index = WordIndex(WordRows(words), kind="approximate")
    index.tune(unit(rng, 5, 4))
    assert 1 <= len(index._lists.lists.leaders) <= count
    assert index.search(unit(rng, 6, 4), 9)[1].shape == (6, count)
    assert index.search(torch.empty(0, 4), 2)[1].shape == (0, 2)
    index.tune(torch.empty(0, 4))


def test_tuning_looks_into_no_more_lists_than_the_queries_need(rng: np.random.Generator) -> None:
    words, queries = unit(rng, 2000, 16), unit(rng, 200, 16)
    lists = _lists(words)
    truth = (queries.double() @ words.double().T).argmax(dim=1)
    lists.tune(queries)

    def found() -> int:
        return int((lists.search(queries, 1)[1][:, 0] == truth).sum())

    assert found() >= 199
    lists.probes -= 1
    assert found() < 199


def test_recall_is_that_of_the_oracle(rng: np.random.Generator) -> None:
    words, queries = unit(rng, 800, 16), unit(rng, 60, 16)
    index = WordIndex(WordRows(words), kind="approximate")
    index._lists.probes = 6
    _, rows = index.search(queries, 3)
    hits = [
        {row for row, _ in ranking(query, words.numpy())[:3]} & set(found)
        for query, found in zip(queries.numpy(), rows.tolist(), strict=True)
    ]
    share = sum(map(len, hits)) / 180
    assert 0 < share < 1
    assert index.recall(queries, 3) == pytest.approx(share)


@pytest.mark.parametrize(
    "harm",
    [
        {"owners": torch.zeros(300, dtype=torch.int64)},
        {"owners": torch.zeros(299, dtype=torch.int64)},
        {"leaders": torch.full((1,), 300)},
        {"leaders": torch.zeros(1)},
        {"more": torch.zeros(1)},
    ],
)
def test_lists_that_cannot_be_of_these_words_are_made_again(
    rng: np.random.Generator, tmp_path: Path, harm: dict[str, torch.Tensor]
) -> None:
    words = WordRows(unit(rng, 300, 8))
    made = InvertedLists.open(words, tmp_path, "a").lists
    file = tmp_path / approximate.INDEX
    save_file(load_file(file) | harm, file)
    write_json(tmp_path / approximate.NOTE, {"key": "a", "sha256": file_sha256(file)})
    assert all(map(torch.equal, InvertedLists.open(words, tmp_path, "a").lists, made))


def test_a_stored_index_is_used_as_it_is(rng: np.random.Generator, tmp_path: Path) -> None:
    words = WordRows(unit(rng, 30, 8))
    kept = Lists(torch.tensor([4, 9]), torch.arange(30) % 2)
    approximate._write(tmp_path, "a", kept)
    assert all(map(torch.equal, InvertedLists.open(words, tmp_path, "a").lists, kept))
    assert sorted(file.name for file in tmp_path.iterdir()) == [approximate.NOTE, approximate.INDEX]
