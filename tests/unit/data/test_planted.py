import numpy as np
import pytest
import torch

from dncbm.data.planted import match_dictionaries, planted_dictionary, planted_embeddings
from dncbm.errors import InvalidInput
from tests.oracles import sae as oracle


def test_dictionaries_are_unit_and_fixed_by_the_seed() -> None:
    first = planted_dictionary(20, 8, seed=1)
    np.testing.assert_allclose(first.norm(dim=-1).numpy(), 1, rtol=1e-6)
    assert torch.equal(first, planted_dictionary(20, 8, seed=1))
    assert not torch.equal(first, planted_dictionary(20, 8, seed=2))


def test_embeddings_are_their_codes_times_the_dictionary() -> None:
    dictionary = planted_dictionary(30, 8, seed=0)
    x, codes = planted_embeddings(dictionary, 200, active=(2, 4), noise=0.0, seed=3)
    np.testing.assert_allclose(x.numpy(), codes.toarray() @ dictionary.numpy(), atol=1e-5)
    per_row = (codes.toarray() > 0).sum(axis=1)
    assert 1 <= per_row.min() <= per_row.max() <= 4
    assert 0.5 <= codes.data.min() <= codes.data.max() < 1.5


def test_frequencies_fall_with_rank() -> None:
    dictionary = planted_dictionary(100, 8, seed=0)
    _, skewed = planted_embeddings(dictionary, 5000, active=3, noise=0.0, seed=0, skew=0.5)
    counts = np.diff(skewed.tocsc().indptr)
    assert counts[:10].sum() > 2.5 * counts[-10:].sum()
    _, even = planted_embeddings(dictionary, 5000, active=3, noise=0.0, seed=0, skew=0.0)
    counts = np.diff(even.tocsc().indptr)
    assert counts.max() < 1.5 * counts.min()


def test_noise_and_offset_have_the_stated_lengths() -> None:
    dictionary = planted_dictionary(50, 16, seed=0)
    settings = {"active": 3, "seed": 5}
    clean, _ = planted_embeddings(dictionary, 2000, noise=0.0, **settings)
    noisy, _ = planted_embeddings(dictionary, 2000, noise=0.3, **settings)
    moved, _ = planted_embeddings(dictionary, 2000, noise=0.0, offset=2.0, **settings)
    length = float(clean.square().sum(dim=1).mean().sqrt())
    found = float((noisy - clean).square().sum(dim=1).mean().sqrt())
    assert found == pytest.approx(0.3 * length, rel=0.05)
    shift = (moved - clean).norm(dim=1)
    np.testing.assert_allclose(shift.numpy(), 2 * length, rtol=1e-4)


@pytest.mark.parametrize("found", [3, 5])
def test_matching_is_the_best_assignment(found: int) -> None:
    truth, learned = planted_dictionary(5, 4, seed=1), planted_dictionary(found, 4, seed=2)
    matching = match_dictionaries(3 * learned, truth)
    best = oracle.best_assignment((learned @ truth.T).double().numpy())
    assert matching.mean_cosine == pytest.approx(best / 5, rel=1e-5)
    assert matching.mean_max_cosine >= matching.mean_cosine


def test_a_permuted_dictionary_is_recovered_and_matched_back() -> None:
    truth = planted_dictionary(40, 16, seed=1)
    order = torch.randperm(40)
    extra = planted_dictionary(7, 16, seed=9)
    matching = match_dictionaries(torch.cat([truth[order], extra]), truth)
    assert matching.recovered_fraction == 1.0
    assert matching.mean_cosine == pytest.approx(1.0, abs=1e-5)
    assert order[matching.found].tolist() == matching.truth.tolist()


def test_unmatched_directions_count_as_not_recovered() -> None:
    truth = planted_dictionary(40, 64, seed=1)
    matching = match_dictionaries(truth[:10], truth)
    assert matching.recovered_fraction == 0.25
    assert matching.mean_cosine == pytest.approx(0.25, abs=1e-5)


def test_bad_arguments_are_refused() -> None:
    truth = planted_dictionary(4, 8, seed=1)
    with pytest.raises(InvalidInput, match="1 <= active <= 4"):
        planted_embeddings(truth, 3, active=5, noise=0.0, seed=0)
    with pytest.raises(InvalidInput, match="widths 8 and 9"):
        match_dictionaries(truth, planted_dictionary(4, 9, seed=1))
