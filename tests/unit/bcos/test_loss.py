import numpy as np
import pytest
import torch

from dncbm.bcos import loss
from tests.oracles import bcos_loss as oracle


def _draw(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double() * 2


@pytest.mark.parametrize("uniform_off", [True, False])
@pytest.mark.parametrize("soft", [True, False])
def test_class_loss_is_the_oracles(uniform_off: bool, soft: bool) -> None:
    logits = _draw(5, 4).requires_grad_()
    labels = _draw(5, 4, seed=2).softmax(1) if soft else torch.tensor([0, 3, 3, 1, 2])
    found = loss.class_bce(logits, labels, uniform_off=uniform_off)
    expected = oracle.class_bce(logits.detach().numpy(), labels.numpy(), uniform_off)
    assert float(found.detach()) == pytest.approx(expected)
    assert torch.autograd.gradcheck(
        lambda z: loss.class_bce(z, labels, uniform_off=uniform_off), (logits,)
    )


def test_pairwise_loss_is_the_oracles() -> None:
    student, teacher = _draw(4, 6).requires_grad_(), _draw(7, 6, seed=3)
    own = torch.tensor([2, 0, 6, 3])
    found = loss.pairwise_loss(student, teacher, own, scale=3.0, shift=-1.0)
    expected = oracle.pairwise(student.detach().numpy(), teacher.numpy(), own.tolist(), 3.0, -1.0)
    assert float(found.detach()) == pytest.approx(expected)
    plain = loss.pairwise_loss(student, teacher[:4])
    expected = oracle.pairwise(student.detach().numpy(), teacher[:4].numpy(), [0, 1, 2, 3], 10, -10)
    assert float(plain.detach()) == pytest.approx(expected)
    assert torch.autograd.gradcheck(lambda s: loss.pairwise_loss(s, teacher, own), (student,))


def test_cosine_loss_is_the_oracles() -> None:
    student, teacher = _draw(4, 6).requires_grad_(), _draw(4, 6, seed=3)
    found = loss.cosine_loss(student, teacher)
    pairs = zip(student.detach().numpy(), teacher.numpy(), strict=True)
    assert float(found.detach()) == pytest.approx(np.mean([1 - oracle.cosine(*p) for p in pairs]))
    assert float(loss.cosine_loss(teacher, 3 * teacher)) == pytest.approx(0)
    assert torch.autograd.gradcheck(lambda s: loss.cosine_loss(s, teacher), (student,))
