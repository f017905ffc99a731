import math

import numpy as np
import pytest
import torch

from dncbm.sae.activations import ReLU
from dncbm.sae.init import initialize, set_standardization
from dncbm.sae.model import SaeModel
from dncbm.sae.rows import as_rows, input_statistics
from dncbm.training.seeding import generator


def _initialized(init: str, x: torch.Tensor, concepts: int = 64) -> SaeModel:
    model = SaeModel(x.shape[1], concepts, activation=ReLU())
    initialize(model, as_rows(x), init=init, generator=generator(1))  # type: ignore[arg-type]
    return model


@pytest.mark.parametrize(
    ("init", "weight_bound", "bias_bound"),
    [
        ("paper", math.sqrt(6 / (64 * 16)), 1 / math.sqrt(64)),
        ("kaiming", math.sqrt(6 / 16), 1 / math.sqrt(16)),
    ],
)
def test_encoder_bounds(init: str, weight_bound: float, bias_bound: float) -> None:
    model = _initialized(init, torch.randn(10, 16))
    weights, bias = model.encoder_weight.detach().abs(), model.encoder_bias.detach().abs()
    assert 0.95 * weight_bound < float(weights.max()) <= weight_bound
    assert 0.8 * bias_bound < float(bias.max()) <= bias_bound
    assert float(weights.mean()) == pytest.approx(weight_bound / 2, rel=0.1)
    assert not model.pre_bias.any()


@pytest.mark.parametrize("init", ["paper", "kaiming", "tied", "data"])
def test_dictionary_rows_have_unit_length(init: str) -> None:
    model = _initialized(init, torch.randn(10, 16))
    np.testing.assert_allclose(model.dictionary.detach().norm(dim=-1).numpy(), 1, rtol=1e-5)


def test_data_directions_are_distinct_training_rows() -> None:
    x = torch.randn(10, 16)
    model = _initialized("data", x, concepts=30)
    cosines = torch.nn.functional.normalize(x, dim=-1) @ model.dictionary.detach()[:10].T
    best = cosines.max(dim=1)
    np.testing.assert_allclose(best.values.numpy(), 1, rtol=1e-5)
    assert sorted(best.indices.tolist()) == list(range(10))
    assert torch.equal(model.encoder_weight, model.dictionary)


def test_rows_without_length_leave_random_directions() -> None:
    model = _initialized("data", torch.zeros(10, 16))
    np.testing.assert_allclose(model.dictionary.detach().norm(dim=-1).numpy(), 1, rtol=1e-5)


def test_standardisation() -> None:
    x = 3 * torch.randn(500, 16) + 5
    model = SaeModel(16, 4, activation=ReLU())
    set_standardization(model, input_statistics(as_rows(x)), center=True, scale=True)
    y = model.standardize(x)
    np.testing.assert_allclose(y.mean(dim=0).numpy(), 0, atol=1e-5)
    assert float(y.square().mean()) == pytest.approx(1, rel=1e-4)
    set_standardization(
        model, input_statistics(as_rows(x[:1].expand(5, 16))), center=True, scale=True
    )
    assert torch.isfinite(model.standardize(x)).all()
