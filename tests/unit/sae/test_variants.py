"""Training of every variant, step by step beside the oracle, on both ways to compute it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from dncbm.sae import chosen
from dncbm.sae.atoms import ArchetypalAtoms
from dncbm.sae.rows import as_rows, input_statistics
from dncbm.sae.train import SaeConfig, TrainingRun
from tests.oracles.sae_variants import Recipe, Training

WIDTH, CONCEPTS, ROWS, BATCH = 4, 8, 38, 12
ALWAYS, NEVER = 2.0, -1.0
"""Shares of active entries below which work per entry is chosen."""

AUX = {"aux_weight": 0.5, "aux_k": 2, "dead_after": BATCH}
BATCHED = {"activation": "batchtopk", "k": 2}
GATED = {"activation": "gated", "l1": 0.1}
JUMP = {"activation": "jumprelu", "l0": 0.3, "bandwidth": 0.15, "k": 2}
CONCEPT_ENDS = {"levels": (0.25, 0.625, 1.0), "k": 2}
RANK_ENDS = {"levels": (0.25, 0.5, 1.0), "levels_by": "rank", "k": 4}

VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {"activation": "relu", "init": "paper", "l1": 0.02},
    "relu-sum": {"activation": "relu", "init": "kaiming", "l1": 0.3, "reduction": "sum"},
    "relu-aux-warmup": {"activation": "relu", "l1": 0.1, "sparsity_warmup": 0.5, **AUX},
    "topk": {"center": True, "scale": True, "init": "data"},
    "topk-aux": AUX,
    "topk-l1": {"l1": 0.05},
    "batchtopk": BATCHED,
    "batchtopk-aux": BATCHED | AUX,
    "gated": GATED,
    "gated-sum-aux-warmup": GATED | AUX | {"reduction": "sum", "sparsity_warmup": 0.4},
    "jumprelu": JUMP,
    "jumprelu-aux-warmup": JUMP | AUX | {"sparsity_warmup": 0.5},
    "concepts": CONCEPT_ENDS | {"center": True},
    "concepts-reverse-aux": BATCHED | CONCEPT_ENDS | AUX | {"levels_weighting": "reverse"},
    "rank": RANK_ENDS,
    "rank-reverse": RANK_ENDS | {"levels_weighting": "reverse", "reduction": "sum"},
    "rank-batchtopk": RANK_ENDS | {"activation": "batchtopk"},
    "archetypal": {"archetypes": 5, "relaxation": 0.02, "lr": 0.05},
    "archetypal-gated-aux": GATED | AUX | {"archetypes": 9},
    "archetypal-concepts": BATCHED | CONCEPT_ENDS | {"archetypes": 6},
}
NAMES = {
    "D": "dictionary",
    "W": "encoder_weight",
    "a": "encoder_bias",
    "b": "pre_bias",
    "r": "activation.log_scale",
    "o": "activation.offset",
    "t": "activation.log_threshold",
}
ONLY_PER_ENTRY = ("topk", "batchtopk")


def _run(changes: dict[str, Any]) -> TrainingRun:
    """A run in float64 whose parameters have left their special starts."""
    values = {"k": 3, "batch_size": BATCH, "epochs": 2, "lr": 0.01, "seed": 3} | changes
    config = SaeConfig(embed_dim=WIDTH, num_concepts=CONCEPTS, precision="float32", **values)
    torch.manual_seed(1)
    rows = as_rows(torch.randn(ROWS, WIDTH) + 0.3)
    run = TrainingRun(rows, config, input_statistics(rows), "cpu")
    run.model.double()
    if isinstance(run.atoms, ArchetypalAtoms):
        run.atoms._points = run.atoms._points.double()
        for part in run.atoms.parameters():
            part.data = part.data.double()
    with torch.no_grad():
        for parameter in run._parameters():
            parameter += 0.1 * torch.randn(parameter.shape, dtype=parameter.dtype)
        if config.aux_weight:  # concepts that never fire
            run.model.encoder_bias[[2, 7]] = -9.0
    run.atoms.after_step()
    return run


def _parameters(run: TrainingRun) -> dict[str, torch.Tensor]:
    """By the oracle's letters."""
    named = dict(run.model.named_parameters())
    found = {letter: named[name] for letter, name in NAMES.items() if name in named}
    if isinstance(run.atoms, ArchetypalAtoms):
        del found["D"]
        found |= dict(zip("MR", run.atoms.parameters(), strict=True))
    return found


def _oracle(run: TrainingRun) -> Training:
    config, levels, archetypal = run.config, run.levels, isinstance(run.atoms, ArchetypalAtoms)
    points, limit = run.atoms._points.numpy() if archetypal else None, 0.0
    if points is not None:
        limit = run.atoms._limit  # of the points in float32
        assert limit == pytest.approx(config.relaxation * _mean_length(points))
    shared = ("activation", "k", "reduction", "l1", "l0", "bandwidth", "aux_weight", "aux_k")
    falling = {"uniform": (1 / 3, 1 / 3, 1 / 3), "reverse": (3 / 6, 2 / 6, 1 / 6)}
    recipe = Recipe(
        **{name: getattr(config, name) for name in shared},
        ends=() if levels is None else levels.ends,
        by=config.levels_by,
        weights=(1.0,) if levels is None else falling[config.levels_weighting],
        points=points,
        limit=limit,
    )
    start = {letter: p.detach().numpy() for letter, p in _parameters(run).items()}
    return Training(start, recipe, lr=config.lr)


def _mean_length(points: np.ndarray) -> float:
    return float(np.mean([np.sqrt((point**2).sum()) for point in points]))


def _advance(run: TrainingRun, share: float, monkeypatch: pytest.MonkeyPatch) -> float:
    """One step; returns the loss that it noted, which the end of an epoch wipes."""
    monkeypatch.setattr(chosen, "_SPARSE_BELOW_OTHERWISE", share)
    before = float(run.sums[3])
    run.advance()
    return float(run.sums[3]) - before


@pytest.mark.parametrize("variant", VARIANTS)
def test_steps_follow_the_oracle(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {ALWAYS: _run(VARIANTS[variant])}
    config, oracle, helped = runs[ALWAYS].config, _oracle(runs[ALWAYS]), 0
    if config.activation not in ONLY_PER_ENTRY:
        runs[NEVER] = _run(VARIANTS[variant])
    recipe = oracle.recipe
    for step in range(6):
        batch = runs[ALWAYS]._batch()[0].double()
        dead = [c for c, silent in enumerate(oracle.silent_for) if silent > config.dead_after]
        helped += bool(dead)
        steps = config.sparsity_warmup * runs[ALWAYS].total
        factor = min(1.0, (step + 1) / steps) if steps else 1.0
        oracle.recipe = replace(recipe, l1=factor * recipe.l1, l0=factor * recipe.l0)
        loss = oracle(batch.numpy(), dead)
        for share, run in runs.items():
            noted = _advance(run, share, monkeypatch)
            if run.step % run.per_epoch:
                assert noted / len(batch) == pytest.approx(loss, rel=1e-10)
            for letter, parameter in _parameters(run).items():
                about = f"{letter} in step {step}, entries {share}"
                found, expected = parameter.grad, oracle.gradients[letter]
                np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-12, err_msg=about)
                value = parameter.detach().numpy()
                np.testing.assert_allclose(value, oracle.p[letter], atol=1e-9, err_msg=about)
            assert run.rows_since_fired.tolist() == oracle.silent_for
    assert helped or not config.aux_weight


@pytest.mark.parametrize("variant", ["paper", "gated", "jumprelu"])
def test_both_ways_are_taken(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = _run(VARIANTS[variant])
    pre = run.model.pre_activations(run._batch()[0].double()).detach()
    for share, dense in ((ALWAYS, False), (NEVER, True)):
        monkeypatch.setattr(chosen, "_SPARSE_BELOW_OTHERWISE", share)
        assert (run.model.activation.select(pre) is None) == dense


@pytest.mark.parametrize("share", [ALWAYS, NEVER])
@pytest.mark.parametrize("broken", ["encoder_weight", "encoder_bias", "dictionary", "pre_bias"])
@pytest.mark.parametrize("activation", ["relu", "topk", "batchtopk", "jumprelu", "gated"])
def test_no_variant_hides_a_parameter_that_is_no_longer_a_number(
    activation: str, broken: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _run({"activation": activation})
    with torch.no_grad():
        getattr(run.model, broken)[:2] = torch.nan
    with pytest.raises(Exception, match="the loss is nan"):
        _advance(run, share, monkeypatch)
