import numpy as np
import pytest
import torch

from dncbm.sae.activations import ReLU, TopK
from dncbm.sae.metrics import (
    DENSITY_EDGES,
    Labelled,
    accuracy_kept,
    density_summary,
    evaluate_sae,
    unexplained_variance,
)
from dncbm.sae.model import SaeModel
from dncbm.sae.rows import as_rows
from tests.oracles import sae as oracle
from tests.oracles import sae_metrics


def test_unexplained_variance() -> None:
    x, rebuilt = torch.randn(9, 4), torch.randn(9, 4)
    expected = oracle.unexplained_variance(x.numpy(), rebuilt.numpy())
    assert unexplained_variance(x, rebuilt) == pytest.approx(expected)
    assert unexplained_variance(x, x) == 0.0
    assert unexplained_variance(x, x.mean(dim=0).expand_as(x)) == pytest.approx(1.0)


def test_unexplained_variance_without_variance() -> None:
    same = torch.ones(3, 2)
    assert unexplained_variance(same, same) == 0.0
    assert unexplained_variance(same, same + 1) == 1.0


def test_evaluation_equals_one_big_batch() -> None:
    model = SaeModel(5, 9, activation=TopK(2)).train()
    x = torch.randn(23, 5)
    found = evaluate_sae(model, as_rows(x), batch_size=4)
    codes, rebuilt = (part.detach() for part in model(x))
    assert found.unexplained_variance == pytest.approx(
        oracle.unexplained_variance(x.numpy(), rebuilt.numpy()), rel=1e-5
    )
    cosines = torch.nn.functional.cosine_similarity(x, rebuilt)
    assert found.cosine == pytest.approx(float(cosines.mean()), rel=1e-5)
    assert found.l0 == pytest.approx(float((codes > 0).sum(dim=1).double().mean()))
    assert found.dead_fraction == pytest.approx(float((codes.sum(dim=0) == 0).double().mean()))
    assert sum(found.density_histogram) == found.num_concepts == 9
    assert model.training


def test_evaluation_holds_what_the_codes_and_the_dictionary_say() -> None:
    model = SaeModel(5, 9, activation=TopK(2))
    x = torch.randn(23, 5) + 1
    codes = model.encode(x).detach()
    found = evaluate_sae(model, as_rows(x), batch_size=4)
    scores = sae_metrics.monosemanticity(codes.numpy(), x.numpy())
    assert found.monosemanticity == pytest.approx(np.nanmean(scores), rel=1e-5)
    baseline = sae_metrics.mean_cosine(x.numpy())
    assert found.monosemanticity_baseline == pytest.approx(baseline, rel=1e-5)
    centred = (x - x.mean(dim=0)).double().numpy()
    aligned = sae_metrics.cknna(centred, codes.double().numpy(), 10)
    assert found.cknna == pytest.approx(aligned, rel=1e-4)
    assert found.cknna_rows == 23
    expected = sae_metrics.coherence(model.dictionary.detach().double().numpy())
    assert (found.coherence_max, found.coherence_mean) == pytest.approx(expected, rel=1e-5)


def test_what_has_no_value_is_none() -> None:
    """Manifests hold no NaN."""
    model = SaeModel(3, 4, activation=ReLU())
    with torch.no_grad():
        model.encoder_bias.fill_(-100)
    found = evaluate_sae(model, as_rows(torch.randn(9, 3)))
    assert found.dead_fraction == 1.0
    assert found.monosemanticity is None
    assert found.cknna is None
    assert evaluate_sae(model, as_rows(torch.randn(3, 3))).cknna is None


def test_a_row_of_zeros_still_counts() -> None:
    model = SaeModel(3, 4, activation=ReLU())
    with torch.no_grad():
        model.encoder_bias.fill_(10)
    found = evaluate_sae(model, as_rows(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])))
    assert found.l0 == 4.0
    assert found.monosemanticity_baseline == pytest.approx(0.0)


def test_the_sample_of_a_large_set_is_always_the_same() -> None:
    model, x = SaeModel(4, 6, activation=TopK(2)), torch.randn(1500, 4)
    first, second = (evaluate_sae(model, as_rows(x)) for _ in range(2))
    assert first == second
    assert first.cknna_rows == 1024


def test_density_summary_counts_by_hand() -> None:
    fired = torch.tensor([0, 0, 1, 10, 11, 100, 101, 1000])
    found = density_summary(fired, 1000)
    assert found["dead_fraction"] == 0.25
    assert found["dense_fraction"] == 0.25  # 101 and 1000 of 1000
    assert found["l0"] == pytest.approx(1.223)
    # never; (0, 1e-5]; (1e-5, 1e-4]; (1e-4, 1e-3]; (1e-3, 1e-2]; (1e-2, 0.1]; (0.1, 1]
    assert found["density_histogram"] == (2, 0, 0, 1, 1, 2, 2)
    assert len(found["density_histogram"]) == len(DENSITY_EDGES)


def test_accuracy_kept_compares_one_readout_on_both() -> None:
    labels = torch.arange(60) % 3
    x = torch.nn.functional.one_hot(labels, 4).float() + 0.1 * torch.randn(60, 4)
    train, test = Labelled(x[:40], labels[:40]), Labelled(x[40:], labels[40:])
    assert accuracy_kept(train, test, x[40:])["accuracy_kept"] == 1.0
    blind = accuracy_kept(train, test, torch.zeros(20, 4))
    assert blind["accuracy_embeddings"] > 0.9
    assert blind["accuracy_reconstruction"] < 0.5


def test_perfect_reconstruction_scores_zero() -> None:
    model = SaeModel(4, 8, activation=ReLU())
    with torch.no_grad():
        model.dictionary.copy_(torch.cat([torch.eye(4), -torch.eye(4)]))
        model.encoder_weight.copy_(model.dictionary)
    found = evaluate_sae(model, as_rows(torch.randn(30, 4)))
    assert found.unexplained_variance == pytest.approx(0, abs=1e-10)
    assert np.isclose(found.cosine, 1)
