"""Guided concepts: attribution of their codes moves, embeddings stay near, the forbidden go."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dncbm.errors import InvalidInput
from dncbm.guidance.concepts import ConceptTask, contributions, forbidden_penalty
from dncbm.guidance.train import GuidedTraining, train_guided
from dncbm.probe.interventions import trained_without, without
from dncbm.probe.model import Probe
from dncbm.probe.train import ProbeConfig
from dncbm.sae.activations import ReLU
from dncbm.sae.model import SaeModel
from dncbm.training.photos import Run
from tests.unit.guidance.scene import WHOLE, scene

D, C, K = 6, 5, 3


def _tower() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8 * 36, D),
    )  # fmt: skip


def _parts() -> tuple[SaeModel, Probe]:
    draw = torch.Generator().manual_seed(0)
    sae = SaeModel(D, C, activation=ReLU(), normalize=True)
    with torch.no_grad():
        sae.encoder_weight.copy_(torch.randn(C, D, generator=draw))
        sae.encoder_bias.fill_(1.5)
    weights = torch.randn(K, C, generator=draw)
    return sae, Probe(weights, torch.zeros(K), ("a", "b", "c"))


def _task(**changes: Any) -> ConceptTask:
    sae, probe = _parts()
    return ConceptTask(sae, probe, [1, 2, 3], _tower(), **changes)


def test_logits_and_codes_are_those_of_the_bottleneck() -> None:
    """Of the embedding, with forbidden concepts at exactly zero weight."""
    sae, probe = _parts()
    embeddings = torch.randn(7, D)
    codes = sae.encode(embeddings)
    torch.testing.assert_close(_task().guided(embeddings), codes[:, [1, 2, 3]])
    wanted = without(probe, [4]).logits(codes).float()
    torch.testing.assert_close(_task(forbidden=[4]).logits(embeddings), wanted)
    torch.testing.assert_close(_task().logits(embeddings), probe.logits(codes).float())


def test_the_penalty_is_what_concepts_add_to_logits() -> None:
    """Term by term in float64."""
    _, probe = _parts()
    codes = torch.rand(4, 2, dtype=torch.float64)
    found = forbidden_penalty(codes, probe, [0, 3])
    for n in range(4):
        total = 0.0
        for place, concept in enumerate((0, 3)):
            for k in range(K):
                total += abs(float(codes[n, place]) * float(probe.weights[k, concept])) / K
        assert found[n].item() == pytest.approx(total, rel=1e-12)
    assert contributions(codes, probe, [0, 3]).shape == (4, 2, K)


def _trained(tmp_path: Path, weight: float, **changes: Any) -> dict[int, dict[str, Any]]:
    config = GuidedTraining(
        steps=40, batch_size=16, learning_rate=0.005, evaluate_every=20, weight=weight,
        label_loss="cross-entropy",
    )  # fmt: skip
    run = Run(checkpoint=tmp_path / f"{weight:g}-{len(changes)}")
    _, found = train_guided(_tower(), scene(), WHOLE, config, run, task=_task(**changes))
    return found.figures


def test_the_attribution_of_a_concept_moves_into_its_boxes(tmp_path: Path) -> None:
    """Against the same training without guidance; embeddings stay near to the teacher's."""
    plain, guided = _trained(tmp_path, 0.0), _trained(tmp_path, 3.0)
    assert guided[40]["epg"] > plain[40]["epg"] + 0.1
    assert plain[0] == guided[0]
    assert guided[0]["cosine"] == pytest.approx(1, abs=1e-5)
    near = _trained(tmp_path, 3.0, teacher_weight=30.0)
    assert near[40]["cosine"] > guided[40]["cosine"]
    assert 0 < guided[40]["active"] <= 1


def test_a_forbidden_concept_is_shown_less(tmp_path: Path) -> None:
    """By the penalty; no logit has it anyway, as its weight is zero."""
    found = _trained(tmp_path, 0.0, forbidden=[4], forbidden_weight=5.0)
    assert found[40]["forbidden"] < 0.5 * found[0]["forbidden"]


def test_heads_fitted_without_concepts_have_no_weight_there() -> None:
    """Exactly, in the dense head and in the sparse ones; the rest is fitted as usual."""
    draw = np.random.default_rng(0)
    labels = np.arange(90) % 3
    codes = np.maximum(draw.normal(size=(90, C)), 0).astype(np.float32)
    codes[np.arange(90), labels] += 2
    splits = {"train": codes[:60], "validation": codes[60:]}
    truth = {"train": labels[:60], "validation": labels[60:]}
    config = ProbeConfig(necs=(2,), path_points=5)
    found = trained_without([0, 4], splits, truth, ("a", "b", "c"), config)
    for head in found.heads().values():
        assert not head.weights[:, [0, 4]].any()
        assert head.num_concepts == C
    assert found.probe.weights.any()
    with pytest.raises(InvalidInput, match="All 5 concepts are removed"):
        trained_without(range(C), splits, truth, ("a", "b", "c"), config)


def test_what_means_nothing_is_refused() -> None:
    sae, probe = _parts()
    with pytest.raises(InvalidInput, match="guided and forbidden"):
        _task(forbidden=[2])
    with pytest.raises(InvalidInput, match="No concept is guided"):
        ConceptTask(sae, probe, [], _tower())
    with pytest.raises(InvalidInput, match="Concept 9 does not exist"):
        ConceptTask(sae, probe, [9], _tower())
