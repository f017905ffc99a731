"""Distilling encoders and bottlenecks: what a batch teaches, figures, resumption, refusals."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from dncbm.bcos.loss import cosine_distance
from dncbm.distillation import loss as losses
from dncbm.distillation.config import Distillation
from dncbm.distillation.embeddings import Bottleneck, _of_concepts, _of_embeddings, distil_encoder
from dncbm.distillation.viewed import Viewed
from dncbm.errors import InvalidInput
from dncbm.probe.model import Probe
from dncbm.sae.activations import TopK
from dncbm.sae.model import SaeModel
from dncbm.training.photos import Run
from tests.unit.distillation.parts import cnn, photos, vit


def _config(**changes: Any) -> Distillation:
    values: dict[str, Any] = {
        "steps": 4, "batch_size": 6, "evaluate_every": 2, "precision": "float32",
    }  # fmt: skip
    return Distillation(**values | changes)


def _behind(width: int = 8) -> Bottleneck:
    torch.manual_seed(3)
    sae = SaeModel(width, 12, activation=TopK(4))
    return Bottleneck(sae, Probe(torch.randn(3, 12), torch.randn(3), ("a", "b", "c")))


def test_a_batch_of_embeddings() -> None:
    found, wanted = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    config = _config(embedding_weight=2.0, relational_weight=3.0)
    named = _of_embeddings(found, wanted, config, has_length=False)
    assert torch.equal(named["embeddings"], 2 * cosine_distance(found, wanted))
    assert torch.equal(named["relations"], 3 * losses.relational_loss(found, wanted))
    named = _of_embeddings(found, wanted, _config(), has_length=True)
    assert torch.equal(named["embeddings"], losses.embedding_loss(found, wanted))
    assert "relations" not in named


def test_a_batch_of_concepts_and_its_gradient() -> None:
    """Logits, and contributions to the teacher's class; nothing of the bottleneck learns."""
    found, wanted = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    found.requires_grad_()
    behind = _behind().to("cpu")
    config = _config(weight=2.0, temperature=3.0)
    named = _of_concepts(found, wanted, behind, config, is_guided=True)
    codes, right = (behind.sae.encode(rows) for rows in (found, wanted))
    best = behind.probe.logits(right).argmax(1)
    parts = [c * behind.probe.weights[best] for c in (codes, right)]
    distance = 1 - functional.cosine_similarity(*parts, dim=1).mean()
    assert named["contributions"].item() == pytest.approx(2 * distance.item(), abs=1e-5)
    pair = [behind.probe.logits(c).float() for c in (codes, right)]
    assert named["logits"].item() == pytest.approx(losses.logit_loss(*pair, 3.0).item(), abs=1e-5)
    named["contributions"].backward()
    assert found.grad is not None
    assert float(found.grad.abs().sum()) > 0
    assert all(p.grad is None and not p.requires_grad for p in behind.sae.parameters())
    assert "contributions" not in _of_concepts(found, wanted, behind, config, is_guided=False)


def test_figures_of_a_student_that_is_its_teacher(tmp_path: Path) -> None:
    teacher, student = cnn(8, seed=2), cnn(8, seed=2)
    for part in student.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 0.0  # running statistics that one update does not move
    config, run = (
        _config(steps=1, learning_rate=1e-12),
        Run(checkpoint=tmp_path / "run.safetensors"),
    )
    texts = functional.normalize(torch.randn(3, 8), dim=1)
    row = distil_encoder(
        student, teacher, photos(), config, run, texts=texts, bottleneck=_behind()
    )[-1]  # fmt: skip
    for name in ("cosine", "agreement", "contribution_similarity", "top_concepts"):
        assert row[f"held_out_{name}"] == pytest.approx(1, abs=1e-4), name
    assert row["held_out_accuracy"] == row["held_out_teacher_accuracy"]
    assert row["held_out_zero_shot"] == row["held_out_teacher_zero_shot"]


def test_a_killed_training_ends_with_the_same_bits(tmp_path: Path) -> None:
    def trained(name: str, die_at: int | None) -> Viewed:
        def dying(step: int, _steps: int) -> None:
            if step == die_at:
                raise KeyboardInterrupt

        student = vit(8, seed=1)
        run = Run(checkpoint=tmp_path / name, on_step=dying)
        distil_encoder(student, cnn(8), photos(), _config(), run, bottleneck=_behind())
        return student

    whole = trained("a.safetensors", None)
    with pytest.raises(KeyboardInterrupt):
        trained("b.safetensors", 3)
    torch.rand(5)
    resumed = trained("b.safetensors", None)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_another_width_is_refused(tmp_path: Path) -> None:
    run = Run(checkpoint=tmp_path / "run.safetensors")
    with pytest.raises(InvalidInput, match=r"width 4, the teacher's 8"):
        distil_encoder(cnn(4), cnn(8), photos(), _config(), run)
