import numpy as np
import pytest
import scipy.sparse as sp
import torch

from dncbm.errors import InvalidInput
from dncbm.probe import decisions
from dncbm.probe.metrics import accuracy, probe_logits
from dncbm.probe.model import Probe
from tests.oracles import probe as oracle


@pytest.fixture
def scored(rng):
    weights = torch.from_numpy(rng.standard_normal((4, 30))).double()
    probe = Probe(weights, torch.from_numpy(rng.standard_normal(4)), ("a", "b", "c", "d"))
    codes = rng.gamma(2.0, 0.5, (60, 30)) * (rng.random((60, 30)) < 0.3)
    codes[7] = 0.0
    return probe, codes, rng.integers(0, 4, 60)


@pytest.mark.parametrize("top", [1, 2, 5, 30, 40])
def test_short_decisions_match_the_count_one_by_one(scored, top):
    probe, codes, labels = scored
    weights, bias = probe.weights.numpy(), probe.bias.tolist()
    truth = [oracle.short_decision(row, weights, bias, top) for row in codes]
    found = decisions.short_decisions(probe, codes, labels, (1, top))[top]
    guess, full, left = (np.array(part) for part in zip(*truth, strict=True))
    assert found.accuracy == (guess == labels).mean()
    assert found.agreement == (guess == full).mean()
    assert found.remainder == pytest.approx(left.mean(), abs=1e-12)


def test_with_all_contributions_nothing_changes(scored):
    probe, codes, labels = scored
    found = decisions.short_decisions(probe, codes, labels, (30,))[30]
    assert found.agreement == 1.0
    assert found.remainder == pytest.approx(0.0, abs=1e-12)
    assert found.accuracy == accuracy(probe_logits(probe, codes), labels)


def test_blocks_and_storage_make_no_difference(scored, monkeypatch):
    probe, codes, labels = scored
    whole = decisions.short_decisions(probe, codes, labels)
    monkeypatch.setattr(decisions, "_BLOCK_NUMBERS", 300)
    assert decisions.short_decisions(probe, sp.csr_matrix(codes), labels) == whole


def test_of_many_rows_some_are_measured(scored, monkeypatch):
    probe, codes, labels = scored
    monkeypatch.setattr(decisions, "MOST_ROWS", 3)
    rows = [0, 29, 59]
    assert decisions.short_decisions(probe, codes, labels) == decisions.short_decisions(
        probe, codes[rows], labels[rows]
    )


def test_it_is_written_by_number_and_measure(scored):
    probe, codes, labels = scored
    found = decisions.plain(decisions.short_decisions(probe, codes, labels, (1, 3)))
    assert list(found) == ["1", "3"]
    assert set(found["3"]) == {"accuracy", "agreement", "remainder"}


@pytest.mark.parametrize("tops", [(), (0, 3), (-1,)])
def test_a_list_of_nothing_is_refused(scored, tops):
    with pytest.raises(InvalidInput, match="tops"):
        decisions.short_decisions(*scored, tops)
