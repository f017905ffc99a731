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


def some_groups(seed, c=20):
    return np.random.default_rng(seed).integers(0, 6, c)


@pytest.mark.parametrize("top", [0, 1, 3, 20])
def test_account_of_groups_sums_to_the_logit_in_any_order_after_json(top):
    for seed in range(100):
        check_sum_after_json(seed, top, groups=some_groups(seed))


def check_sum_after_json(seed, top, groups=None):
    probe = make_probe(seed=seed)
    account = probe.contributions(make_row(20, seed), seed % 3, top=top, groups=groups)
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


@pytest.mark.parametrize("seed", range(10))
def test_groups_agree_with_exact_fractions(seed):
    probe, row, groups = make_probe(seed=seed), make_row(20, seed), some_groups(seed)
    account = probe.contributions(row, 1, top=20, groups=groups)
    codes, weights = row.double(), probe.weights[1].double()
    truth = oracle.exact_groups(codes, weights, groups)
    scale = float(abs(probe.bias[1]) + (codes * weights).abs().sum())
    # a product under half a step of the grid contributes nothing
    seen = {group for group, (total, _) in truth.items() if abs(total) > 1e-14 * scale}
    assert seen <= set(groups[account.concepts].tolist())
    assert len(set(groups[account.concepts].tolist())) == len(account.concepts)
    assert account.logit == probe.contributions(row, 1, top=20).logit
    sizes = np.abs(account.contributions)
    assert (np.diff(sizes) <= 0).all()
    for place, concept in enumerate(account.concepts.tolist()):
        total, members = truth[groups[concept]]
        listed = list(account.members[place])
        assert listed == members[: len(listed)]
        assert concept == members[0]
        assert abs(account.contributions[place] - float(total)) <= 20e-15 * scale
        assert account.codes[place] == pytest.approx(sum(codes[listed].tolist()), rel=1e-14)
        assert account.codes[place] * account.weights[place] == pytest.approx(
            float(total), abs=40e-15 * scale
        )


def test_groups_of_one_concept_each_change_nothing():
    probe, row = make_probe(), make_row(20, 3)
    one_by_one = probe.contributions(row, 2, top=7)
    grouped = probe.contributions(row, 2, top=7, groups=np.arange(20)[::-1])
    for part in ("concepts", "codes", "weights", "contributions"):
        np.testing.assert_array_equal(getattr(one_by_one, part), getattr(grouped, part))
    assert one_by_one.members == grouped.members == tuple((c,) for c in one_by_one.concepts)
    assert one_by_one.remainder == grouped.remainder


def test_a_group_is_the_sum_of_those_that_contribute():
    weights = torch.tensor([[1.0, -4.0, 2.0, 0.0, 0.5], [0.0] * 5])
    probe = Probe(weights, torch.tensor([0.25, 0.0]), ("a", "b"))
    row = torch.tensor([3.0, 0.0, 2.0, 9.0, 1.0])
    account = probe.contributions(row, 0, groups=np.array([7, 7, 7, 7, 2]))
    assert account.members == ((2, 0), (4,))
    assert account.concepts.tolist() == [2, 4]
    assert account.contributions.tolist() == [7.0, 0.5]
    assert account.codes.tolist() == [5.0, 1.0]
    assert account.weights.tolist() == [1.4, 0.5]


def test_a_group_that_cancels_is_not_listed():
    probe = Probe(torch.tensor([[2.0, -1.0, 0.5], [0.0] * 3]), torch.zeros(2), ("a", "b"))
    account = probe.contributions(torch.tensor([1.0, 2.0, 1.0]), 0, groups=np.array([0, 0, 2]))
    assert account.concepts.tolist() == [2]
    assert (account.remainder, account.logit) == (0.0, 0.5)


@pytest.mark.parametrize("size", [0.0, 1e-300, 1e-45, 1e30])
def test_account_of_extreme_codes_is_exact(size):
    probe = Probe(torch.full((2, 3), 0.1), torch.zeros(2), ("a", "b"))
    row = torch.full((3,), size, dtype=torch.float64)
    for groups in (None, np.zeros(3, dtype=int)):
        account = probe.contributions(row, 0, top=1, groups=groups)
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
    huge = Probe(torch.full((2, 1), 1e200, dtype=torch.float64), torch.zeros(2), ("a", "b"))
    with pytest.raises(InvalidInput, match="too large for a sum"):
        huge.contributions(torch.tensor([1e200], dtype=torch.float64), 0)
    with pytest.raises(InvalidInput, match="NaN or infinity"):
        probe.contributions(torch.full((20,), torch.nan), 0)
    with pytest.raises(InvalidInput, match="has 7 numbers, the probe reads 20 concepts"):
        probe.contributions(torch.zeros(20), 0, groups=np.arange(7))
    with pytest.raises(InvalidInput, match="A code is -1; codes of groups must be at least 0"):
        probe.contributions(torch.full((20,), -1.0), 0, groups=np.arange(20))
