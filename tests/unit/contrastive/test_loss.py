"""Contrastive losses against slow loops, and the edges that formulas leave open."""

import numpy as np
import pytest
import torch
from torch import Tensor

from dncbm.contrastive import loss
from dncbm.errors import InvalidInput
from tests.oracles import contrastive as oracle


@pytest.fixture
def draw() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def _normal(rows: int, columns: int, draw: torch.Generator) -> Tensor:
    return torch.randn(rows, columns, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("groups", [[0, 1, 2, 3, 4, 5], [0, 0, 1, 2, 2, 2], [7, 7, 7, 7, 7, 7]])
def test_multi_positive_loss_equals_the_loop(draw: torch.Generator, groups: list[int]) -> None:
    """Distinct, mixed and equal groups give the loop's value."""
    images, texts = _normal(6, 5, draw), _normal(6, 5, draw)
    got = loss.multi_positive_contrastive_loss(images, texts, torch.tensor(groups), 9.0)
    want = oracle.multi_positive_contrastive_loss(
        images.numpy(), texts.numpy(), np.array(groups), 9.0
    )
    assert got.item() == pytest.approx(want, rel=1e-12)


def test_distinct_groups_are_the_loss_of_clip(draw: torch.Generator) -> None:
    """Without shared texts the loss is the mean of two plain cross-entropies."""
    images, texts = _normal(4, 3, draw), _normal(4, 3, draw)
    cosine = torch.nn.functional.cosine_similarity(images[:, None], texts[None], dim=2)
    own = torch.arange(4)
    entropy = torch.nn.functional.cross_entropy
    want = 0.5 * (entropy(4 * cosine, own) + entropy(4 * cosine.T, own))
    got = loss.multi_positive_contrastive_loss(images, texts, own, 4.0)
    torch.testing.assert_close(got, want)


def test_a_shared_text_is_not_a_negative(draw: torch.Generator) -> None:
    """Two images with one text: perfect embeddings reach the entropy floor only with groups."""
    image = _normal(1, 4, draw)
    embeddings = torch.cat([image, image, -image])
    grouped = loss.multi_positive_contrastive_loss(
        embeddings, embeddings, torch.tensor([0, 0, 1]), 50.0
    )
    # Uniform over two positives has ln 2 nats for two of the three rows.
    assert grouped.item() == pytest.approx(2 / 3 * np.log(2), abs=1e-9)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_soft_label_loss_equals_the_loop(draw: torch.Generator, temperature: float) -> None:
    """KL with a softened teacher is the loop's sum."""
    logits, teacher = _normal(5, 7, draw), 3 * _normal(5, 7, draw)
    got = loss.soft_label_loss(logits, teacher, temperature)
    want = oracle.soft_label_loss(logits.numpy(), teacher.numpy(), temperature)
    assert got.item() == pytest.approx(want, rel=1e-12)


def test_soft_label_loss_is_zero_at_the_teacher(draw: torch.Generator) -> None:
    """The teacher's own softened logits cost nothing; anything else costs something."""
    teacher = _normal(3, 6, draw)
    assert loss.soft_label_loss(teacher / 2, teacher, 2.0).item() == pytest.approx(0, abs=1e-12)
    assert loss.soft_label_loss(teacher, teacher, 2.0).item() > 1e-3


def test_similarity_distillation_equals_the_loop(draw: torch.Generator) -> None:
    """Neighbourhoods among the teacher's rows, row by row."""
    student, teacher = _normal(5, 4, draw), _normal(5, 4, draw)
    got = loss.similarity_distillation_loss(student, teacher, 0.2)
    want = oracle.similarity_distillation_loss(student.numpy(), teacher.numpy(), 0.2)
    assert got.item() == pytest.approx(want, rel=1e-12)


def test_cosine_loss_counts_a_row_of_zeros_as_unrelated() -> None:
    """1 − cosine: 0 for parallel, 2 for opposite, 1 for a row without direction."""
    student = torch.tensor([[2.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert loss.cosine_loss(student, teacher).item() == pytest.approx((0 + 2 + 1) / 3)


def test_cross_entropy_of_no_rows_is_zero() -> None:
    """A batch without labels adds nothing, not NaN."""
    empty = loss.smoothed_cross_entropy(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    assert empty.item() == 0.0


def test_cross_entropy_of_no_rows_stays_where_the_logits_are() -> None:
    """A zero on the processor does not stack with losses on a GPU."""
    logits = torch.zeros(0, 4, device="meta", dtype=torch.float16, requires_grad=True)
    empty = loss.smoothed_cross_entropy(logits, torch.zeros(0, dtype=torch.long, device="meta"))
    assert (empty.device.type, empty.dtype, empty.requires_grad) == ("meta", torch.float16, True)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_must_be_positive(temperature: float) -> None:
    """Both distillation losses name the rule."""
    rows = torch.ones(2, 2)
    for function in (loss.soft_label_loss, loss.similarity_distillation_loss):
        with pytest.raises(InvalidInput, match="temperature is positive"):
            function(rows, rows, temperature)


def test_gradient_pulls_a_pair_together(draw: torch.Generator) -> None:
    """One step down the gradient raises the cosine of the pairs."""
    images = _normal(4, 8, draw).requires_grad_()
    texts = _normal(4, 8, draw)
    loss.multi_positive_contrastive_loss(images, texts, torch.arange(4), 5.0).backward()
    assert images.grad is not None
    after = images.detach() - 0.5 * images.grad
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(after, texts).mean() > cosine(images.detach(), texts).mean()
