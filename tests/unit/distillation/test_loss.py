"""Losses against slow oracles in float64, and what they refuse."""

import numpy as np
import pytest
import torch

from dncbm.distillation import loss as losses
from dncbm.distillation.embeddings import top_overlap
from dncbm.errors import InvalidInput
from tests.oracles import distillation as oracle


def _pair(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, *shape, generator=draw, dtype=torch.float64)
    return 3 * first, 3 * second


@pytest.mark.parametrize("temperature", [0.5, 1.0, 5.0])
def test_logits(temperature: float) -> None:
    student, teacher = _pair(6, 5)
    for ours, slow in (
        (losses.logit_loss, oracle.logit_loss),
        (losses.multi_label_loss, oracle.multi_label_loss),
    ):
        found = float(ours(student, teacher, temperature))
        assert found == pytest.approx(slow(student.numpy(), teacher.numpy(), temperature), 1e-12)
        assert float(ours(teacher, teacher, temperature)) == pytest.approx(0, abs=1e-12)


def test_sure_answers_of_several_labels_are_clamped() -> None:
    student, teacher = (
        torch.tensor([[60.0, -60.0]]).double(),
        torch.tensor([[-60.0, 60.0]]).double(),
    )
    wanted = oracle.multi_label_loss(student.numpy(), teacher.numpy(), 1.0)
    assert float(losses.multi_label_loss(student, teacher)) == pytest.approx(wanted, 1e-9)


def test_explanations_embeddings_and_relations() -> None:
    student, teacher = _pair(4, 2, 3, 3)
    student[1] = 0
    for first, second in ((student, teacher), (1e-12 * student, teacher)):
        found = float(losses.explanation_loss(first, second))
        assert found == pytest.approx(oracle.explanation_loss(student.numpy(), teacher.numpy()))
    assert float(losses.explanation_loss(teacher, 7 * teacher)) == pytest.approx(0, abs=1e-12)
    student, teacher = _pair(7, 5)
    for name in ("embedding_loss", "relational_loss"):
        found = float(getattr(losses, name)(student, teacher))
        wanted = getattr(oracle, name)(student.numpy(), teacher.numpy())
        assert found == pytest.approx(wanted, 1e-12)
        assert float(getattr(losses, name)(teacher, teacher)) == pytest.approx(0, abs=1e-12)
    far = torch.eye(4).double() * torch.tensor([1.0, -1, 1, -1]).double()
    near = torch.tensor([[1.0, 0], [1, 1e-3], [1, -1e-3], [-1, 0]]).double()
    found = float(losses.relational_loss(near, far))
    assert found == pytest.approx(oracle.relational_loss(near.numpy(), far.numpy()), 1e-9)


def test_a_map_of_zeros_sends_no_broken_gradient_back() -> None:
    maps = torch.zeros(2, 1, 3, 3, requires_grad=True)
    losses.explanation_loss(maps, torch.ones(2, 1, 3, 3)).backward()
    assert maps.grad is not None
    assert torch.isfinite(maps.grad).all()


def test_contributions_and_their_overlap() -> None:
    codes, right = _pair(5, 8)
    weights, classes = _pair(3, 8)[0], torch.tensor([0, 2, 1, 1, 0])
    found = losses.contributions(codes, weights, classes)
    wanted = [[c * w for c, w in zip(codes[n], weights[k], strict=True)] for n, k in
              enumerate(classes.tolist())]  # fmt: skip
    assert np.allclose(found.numpy(), np.array(wanted))
    shares = top_overlap(codes, right, 3).tolist()
    assert shares == pytest.approx(oracle.top_overlap(codes.numpy(), right.numpy(), 3))


def test_refused() -> None:
    student, teacher = _pair(4, 3)
    for name in ("logit_loss", "multi_label_loss"):
        with pytest.raises(InvalidInput, match="temperature is 0"):
            getattr(losses, name)(student, teacher, 0.0)
        with pytest.raises(InvalidInput, match="one shape"):
            getattr(losses, name)(student, teacher[:, :2])
    with pytest.raises(InvalidInput, match="one shape"):
        losses.explanation_loss(student, teacher[:, :2])
    with pytest.raises(InvalidInput, match="at least 2"):
        losses.relational_loss(student[:1], teacher[:1])
