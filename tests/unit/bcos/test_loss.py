"""Losses against their formulas term by term, their gradients, and their edges."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from dncbm.bcos import loss
from dncbm.bcos.layers import logit_bias
from dncbm.errors import InvalidInput
from tests.oracles import bcos_loss as oracle


@pytest.fixture
def draw() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def _normal(rows: int, columns: int, draw: torch.Generator, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(rows, columns, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("floor", [False, True])
def test_cross_entropies_equal_the_loop(draw: torch.Generator, soft: bool, floor: bool) -> None:
    """Hard and mixed targets, also at logits where a sigmoid is 0 or 1 in floats."""
    logits = _normal(5, 7, draw, 30.0)
    targets = loss.one_hot(torch.tensor([0, 6, 3, 3, 1]), 7).double()
    if soft:
        targets = 0.7 * targets + 0.3 * targets.roll(1, 0)
    function = loss.uniform_off_label_loss if floor else loss.binary_cross_entropy
    want = oracle.binary_cross_entropy(logits.numpy(), targets.numpy(), floor=floor)
    assert function(logits, targets).item() == pytest.approx(want, rel=1e-12)
    torch.autograd.gradcheck(partial(function, targets=targets), (logits / 30).requires_grad_())


def test_off_labels_want_one_in_k_and_start_there() -> None:
    """Logits at the networks' own bias are where off-labels want to be: no gradient."""
    logits = torch.full((1, 5), logit_bias(5), dtype=torch.float64, requires_grad=True)
    loss.uniform_off_label_loss(logits, loss.one_hot(torch.tensor([2]), 5)).backward()
    assert logits.grad is not None
    wanted = torch.zeros(1, 5, dtype=torch.float64)
    wanted[0, 2] = (1 / 5 - 1) / 5
    torch.testing.assert_close(logits.grad, wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("rows", "first"), [(6, 0), (3, 0), (2, 4)])
@pytest.mark.parametrize(("scale", "bias"), [(10.0, -10.0), (3.0, 0.5)])
def test_pairwise_loss_equals_the_loop(
    draw: torch.Generator, rows: int, first: int, scale: float, bias: float
) -> None:
    """A whole batch, and a worker's share among the rows of all."""
    student, teacher = _normal(rows, 4, draw, 3.0), _normal(6, 4, draw, 0.2)
    function = partial(
        loss.pairwise_sigmoid_loss, teacher=teacher, first=first, scale=scale, bias=bias
    )
    want = oracle.pairwise_sigmoid(student.numpy(), teacher.numpy(), first, scale, bias)
    assert function(student).item() == pytest.approx(want, rel=1e-12)
    torch.autograd.gradcheck(function, student.requires_grad_())


def test_shares_of_workers_add_up(draw: torch.Generator) -> None:
    """With all of the teacher's rows, the shares' losses by their sizes are the batch's."""
    student, teacher = _normal(7, 4, draw), _normal(7, 4, draw)
    parts = [(0, student[:4]), (4, student[4:])]
    total = sum(
        loss.pairwise_sigmoid_loss(rows, teacher, first=first) * len(rows) / 7
        for first, rows in parts
    )
    torch.testing.assert_close(torch.as_tensor(total), loss.pairwise_sigmoid_loss(student, teacher))


def test_cosine_distance_equals_the_loop(draw: torch.Generator) -> None:
    """0 at the teacher, whatever the lengths; 2 opposite; the loop's value between."""
    student, teacher = _normal(5, 4, draw), _normal(5, 4, draw)
    want = oracle.cosine_distance(student.numpy(), teacher.numpy())
    assert loss.cosine_distance(student, teacher).item() == pytest.approx(want, rel=1e-12)
    assert loss.cosine_distance(3 * teacher, teacher).item() == pytest.approx(0, abs=1e-12)
    assert loss.cosine_distance(-teacher, teacher).item() == pytest.approx(2)
    torch.autograd.gradcheck(
        partial(loss.cosine_distance, teacher=teacher), student.requires_grad_()
    )


def test_lower_precision_is_compared_in_float32(draw: torch.Generator) -> None:
    """Under autocast embeddings are bfloat16, whose cosines would have two digits."""
    rows = _normal(4, 8, draw).bfloat16()
    assert loss.cosine_distance(rows, rows).dtype == torch.float32
    assert loss.cosine_distance(rows, rows).item() == pytest.approx(0, abs=1e-6)


def test_bad_shapes_and_labels_are_refused() -> None:
    """What, the value and the rule; never a broadcast that gives a wrong number."""
    with pytest.raises(InvalidInput, match=r"shapes \(2, 3\) and \(2, 1\)"):
        loss.binary_cross_entropy(torch.zeros(2, 3), torch.zeros(2, 1))
    with pytest.raises(InvalidInput, match=r"3 rows begin at row 1 of the teacher's 3"):
        loss.pairwise_sigmoid_loss(torch.ones(3, 2), torch.ones(3, 2), first=1)
    with pytest.raises(InvalidInput, match=r"Labels lie in 0 \.\. 3; the rule is 0 \.\. 2"):
        loss.one_hot(torch.tensor([0, 3]), 3)
    assert loss.one_hot(torch.zeros(0, dtype=torch.long), 3).shape == (0, 3)
    assert math.isfinite(loss.cosine_distance(torch.zeros(1, 2), torch.ones(1, 2)).item())
