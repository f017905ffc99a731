import json
import random

import numpy as np
import pytest
import torch

from dncbm.errors import InvalidInput
from dncbm.probe.model import Probe
from tests.oracles import probe as oracle


def make_probe(k=3, c=20, seed=0):
    draw = torch.Generator().manual_seed(seed)
    weights = torch.randn(k, c, generator=draw) * 10 ** torch.randn(k, c, generator=draw)
    return Probe(weights, torch.randn(k, generator=draw), tuple(f"class {i}" for i in range(k)))


def make_row(c, seed):
    draw = torch.Generator().manual_seed(seed)
    sizes = 10 ** (2 * torch.randn(c, generator=draw))
    return torch.randn(c, generator=draw).relu() * sizes


@pytest.mark.parametrize("top", [0, 1, 5, 20])
def test_account_sums_to_the_logit_in_any_order_after_json(top):
    for seed in range(100):
        check_sum_after_json(seed, top)


def check_sum_after_json(seed, top):
    probe = make_probe(seed=seed)
    account = probe.contributions(make_row(20, seed), seed % 3, top=top)
    data = json.loads(
        json.dumps(
            {
                "parts": [account.bias, *account.contributions.tolist(), account.remainder],
                "logit": account.logit,
            }
        )
    )
    parts, logit = data["parts"], data["logit"]
    left_to_right = 0.0
    for part in parts:
        left_to_right += part
    assert left_to_right == logit
    assert parts[0] + sum(parts[1:-1]) + parts[-1] == logit
    assert float(np.sum(parts)) == logit
    random.Random(seed).shuffle(parts)
    shuffled = 0.0
    for part in parts:
        shuffled += part
    assert shuffled == logit


@pytest.mark.parametrize("seed", range(10))
def test_account_agrees_with_exact_fractions(seed):
    probe, row = make_probe(seed=seed), make_row(20, seed)
    account = probe.contributions(row, 1, top=20)
    weights = probe.weights[1].double()
    truth = oracle.exact_logit(row.double(), weights, float(probe.bias[1]))
    scale = float(abs(probe.bias[1]) + (row.double() * weights).abs().sum())
    assert abs(account.logit - float(truth)) <= 4e-15 * scale
    np.testing.assert_allclose(
        account.contributions, account.codes * account.weights, rtol=0, atol=1e-15 * scale
    )
    assert account.logit == pytest.approx(float(probe.logits(row[None])[0, 1]), abs=1e-12 * scale)


def test_logit_does_not_depend_on_how_many_contributions_are_listed():
    probe, row = make_probe(), make_row(20, 3)
    logits = {probe.contributions(row, 2, top=top).logit for top in range(20)}
    assert len(logits) == 1


def test_contributions_are_ordered_and_zero_ones_left_out():
    probe = Probe(torch.tensor([[1.0, -5.0, 2.0, 0.0], [0.0] * 4]), torch.zeros(2), ("a", "b"))
    account = probe.contributions(torch.tensor([1.0, 1.0, 0.0, 7.0]), 0, top=4)
    assert account.concepts.tolist() == [1, 0]
    assert account.contributions.tolist() == [-5.0, 1.0]
    assert account.remainder == 0.0


@pytest.mark.parametrize("size", [0.0, 1e-300, 1e-45, 1e30])
def test_account_of_extreme_codes_is_exact(size):
    probe = Probe(torch.full((2, 3), 0.1), torch.zeros(2), ("a", "b"))
    account = probe.contributions(torch.full((3,), size, dtype=torch.float64), 0, top=1)
    assert account.bias + account.contributions.sum() + account.remainder == account.logit


def test_effective_concepts_counts_non_zero_weights_per_class():
    probe = Probe(torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 3.0]]), torch.zeros(2), ("a", "b"))
    assert probe.effective_concepts() == 1.5


@pytest.mark.parametrize(
    ("weights", "bias", "classes", "message"),
    [
        (torch.zeros(1, 3), torch.zeros(1), ("a",), "at least two distinct classes"),
        (torch.zeros(2, 3), torch.zeros(2), ("a", "a"), "at least two distinct classes"),
        (torch.zeros(2, 3), torch.zeros(2), ("a", "b", "c"), "2 rows for 3 classes"),
        (torch.full((2, 3), torch.nan), torch.zeros(2), ("a", "b"), "NaN or infinity"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(weights, bias, classes, message):
    with pytest.raises(InvalidInput, match=message):
        Probe(weights, bias, classes)


def test_wrong_questions_are_refused():
    probe = make_probe()
    with pytest.raises(InvalidInput, match="have 7 concepts, the probe reads 20"):
        probe.logits(torch.zeros(2, 7))
    with pytest.raises(InvalidInput, match="classes 0 to 2"):
        probe.contributions(torch.zeros(20), 3)
    with pytest.raises(InvalidInput, match="top must be >= 0"):
        probe.contributions(torch.zeros(20), 0, top=-1)
    with pytest.raises(InvalidInput, match="NaN or infinity"):
        probe.contributions(torch.full((20,), torch.nan), 0)
