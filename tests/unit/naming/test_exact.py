import numpy as np
import pytest
import torch

from dncbm.naming import exact
from dncbm.naming.exact import candidate_scores, nearest_words
from dncbm.naming.words import WordRows, mean_unit_word
from tests.oracles.naming import centred, cosines, ranking
from tests.unit.naming.conftest import unit

pytestmark = pytest.mark.usefixtures("small_blocks")


@pytest.mark.parametrize("products", ["bfloat16", "float32"])
def test_search_in_blocks_agrees_with_the_oracle(rng: np.random.Generator, products: str) -> None:
    words, queries = unit(rng, 300, 9), unit(rng, 25, 9)
    scores, rows = nearest_words(WordRows(words), queries, 5, products=products)
    for query, found, score in zip(queries.numpy(), rows.tolist(), scores.tolist(), strict=True):
        truth = ranking(query, words.numpy())[:5]
        assert found == [row for row, _ in truth]
        np.testing.assert_allclose(score, [s for _, s in truth], atol=2e-7)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32])
def test_no_word_outside_a_shortlist_exceeds_its_ceiling(
    rng: np.random.Generator, precision: torch.dtype
) -> None:
    # Words so alike that rounding puts them in a wrong order
    words = unit(rng, 1, 32) + 0.02 * unit(rng, 400, 32)
    words = words / words.norm(dim=1, keepdim=True)
    queries = unit(rng, 40, 32) + words[:40]
    queries = queries / queries.norm(dim=1, keepdim=True)
    found = exact._shortlist(exact.all_words(WordRows(words))(queries), queries, 4, precision)
    wrong = 0
    for query, rows, ceiling in zip(queries, found.rows.tolist(), found.ceiling, strict=True):
        scores = cosines(query.numpy(), words.numpy())
        outside = max(score for row, score in enumerate(scores) if row not in rows)
        assert outside <= float(ceiling)
        wrong += outside > min(scores[row] for row in rows)
    assert (wrong > 0) == (precision == torch.bfloat16)


def test_words_that_rounding_confuses_are_searched_again(rng: np.random.Generator) -> None:
    words = unit(rng, 1, 16) + 0.001 * unit(rng, 500, 16)
    words = words / words.norm(dim=1, keepdim=True)
    _, rows = nearest_words(WordRows(words), words[:20], 2, products="bfloat16")
    assert rows[:, 0].tolist() == list(range(20))


def test_equal_words_go_to_the_lower_row(rng: np.random.Generator) -> None:
    words = unit(rng, 400, 6)[torch.arange(400) % 5]
    _, rows = nearest_words(WordRows(words), words[:5], 3, products="bfloat16")
    assert rows.tolist() == [[i, i + 5, i + 10] for i in range(5)]


def test_half_precision_words_are_widened_centred_and_chosen(rng: np.random.Generator) -> None:
    raw = (unit(rng, 50, 7) * 10).half()
    kept = torch.tensor([3, 4, 10, 49])
    mean = mean_unit_word(raw)
    words = WordRows(raw, mean, kept)
    expected = centred(raw.float().numpy())
    expected /= np.linalg.norm(expected, axis=1)[:, None]
    np.testing.assert_allclose(words.take(torch.arange(4)), expected[kept], atol=1e-6)
    blocks = list(words.blocks(3))
    assert [start for start, _ in blocks] == [0, 3]
    np.testing.assert_allclose(torch.cat([rows for _, rows in blocks]), expected[kept], atol=1e-6)


def test_candidates_are_scored_and_gaps_are_not(rng: np.random.Generator) -> None:
    words, queries = unit(rng, 40, 5), unit(rng, 9, 5)
    rows = torch.from_numpy(rng.integers(0, 40, size=(9, 6)))
    rows[2, 3] = -1
    scores = candidate_scores(WordRows(words), queries, rows)
    truth = (queries.double() @ words.double().T).gather(1, rows.clamp(min=0))
    truth[2, 3] = -torch.inf
    torch.testing.assert_close(scores, truth, atol=1e-7, rtol=0)
