"""JumpReLU's straight-through estimates equation by equation; Gated in the paper's letters."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dncbm.errors import InvalidInput
from dncbm.sae import chosen
from dncbm.sae.activations import build_activation
from dncbm.sae.gates import Gated, JumpReLU
from tests.oracles.sae_variants import gated

WIDTH = 0.2
THRESHOLDS = [0.05, 0.5, 2.0]  # the first lies closer to 0 than the kernel reaches
OFFSETS = [-0.3, -0.101, -0.099, -0.01, 0.01, 0.099, 0.101, 0.3]


def _jump() -> tuple[JumpReLU, Tensor]:
    """Pre-activations (8, 3) at the same offsets from each threshold."""
    activation = JumpReLU(3, bandwidth=WIDTH).double()
    thresholds = torch.tensor(THRESHOLDS, dtype=torch.float64)
    activation.log_threshold.data = thresholds.log()
    return activation, (torch.tensor(OFFSETS, dtype=torch.float64)[:, None] + thresholds)


def _kernel(offset: float) -> float:
    return 1.0 if abs(offset) < WIDTH / 2 else 0.0


@pytest.mark.parametrize("per_entry", [False, True])
def test_codes_and_equation_11(per_entry: bool) -> None:
    activation, pre = _jump()
    pre.requires_grad_()
    upstream = torch.randn(pre.shape, dtype=torch.float64)
    concepts = torch.arange(3).repeat(len(OFFSETS))
    if per_entry:
        codes = activation.codes_of(pre.flatten(), concepts).view_as(pre)
    else:
        codes = activation(pre)
    (codes * upstream).sum().backward()
    into_threshold = np.zeros(3)
    for n, offset in enumerate(OFFSETS):
        for c, threshold in enumerate(THRESHOLDS):
            active = offset > 0
            assert float(codes[n, c].detach()) == pytest.approx(
                threshold + offset if active else 0.0
            )
            assert float(pre.grad[n, c]) == (float(upstream[n, c]) if active else 0.0)
            slope = -threshold / WIDTH * _kernel(offset)
            into_threshold[c] += float(upstream[n, c]) * slope
    np.testing.assert_allclose(activation.log_threshold.grad, into_threshold * THRESHOLDS)


@pytest.mark.parametrize("per_entry", [False, True])
def test_the_number_of_active_codes_and_equation_12(per_entry: bool) -> None:
    activation, pre = _jump()
    pre.requires_grad_()
    concepts = torch.arange(3).repeat(len(OFFSETS))
    found = activation.sparsity(*((pre.flatten(), concepts) if per_entry else (pre, None)))
    assert float(found.detach()) == 3 * sum(offset > 0 for offset in OFFSETS)
    (0.7 * found).backward()
    slope = sum(-1 / WIDTH * _kernel(offset) for offset in OFFSETS)
    expected = [0.7 * slope * threshold for threshold in THRESHOLDS]
    np.testing.assert_allclose(activation.log_threshold.grad, expected)
    assert pre.grad is None  # the count says nothing about pre-activations


def test_jumprelu_selects_what_is_active_or_within_the_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chosen, "_SPARSE_BELOW_OTHERWISE", 2.0)
    activation, pre = _jump()
    found = set(activation.select(pre).tolist())
    wanted = {3 * n + c for n, o in enumerate(OFFSETS) for c in range(3) if o > -WIDTH / 2}
    assert found == wanted


def test_rounding_of_the_threshold_loses_no_active_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(chosen._SPARSE_BELOW, torch.bfloat16, 2.0)
    activation = JumpReLU(400, bandwidth=0.001)
    activation.log_threshold.data = torch.linspace(1, 30, 400).log()
    thresholds = activation.log_threshold.detach().exp()
    around = torch.linspace(-0.3, 0.3, 61)[:, None] + thresholds
    pre = around.bfloat16()
    active = (pre.float() > thresholds).flatten().nonzero()[:, 0]
    assert set(active.tolist()) <= set(activation.select(pre).tolist())


def _gated(concepts: int = 6) -> tuple[Gated, dict[str, np.ndarray]]:
    rng = np.random.default_rng(2)
    p = {"W": rng.normal(size=(concepts, 4)), "a": rng.normal(size=concepts)}
    p |= {"b": rng.normal(size=4), "r": rng.normal(size=concepts), "o": rng.normal(size=concepts)}
    activation = Gated(concepts).double()
    activation.log_scale.data = torch.from_numpy(p["r"])
    activation.offset.data = torch.from_numpy(p["o"])
    return activation, p


def test_gated_is_the_papers_function(rng: np.random.Generator) -> None:
    activation, p = _gated()
    y = rng.normal(size=(50, 4))
    pre = torch.from_numpy((y - p["b"]) @ p["W"].T + p["a"])
    expected = gated(p, y)
    codes = activation(pre).detach().numpy()
    np.testing.assert_allclose(codes, expected, atol=1e-12)
    gate_alone = (pre.numpy() > 0) & (codes == 0)
    assert gate_alone.any()  # open gates whose magnitude is 0
    assert ((pre.numpy() <= 0) & (np.exp(p["r"]) * pre.numpy() + p["o"] > 0)).any()


def test_every_bias_of_the_papers_magnitude_is_an_offset(rng: np.random.Generator) -> None:
    """offset = b_mag - exp(r) b_gate has one solution for each b_mag."""
    activation, p = _gated()
    y, b_mag = rng.normal(size=(20, 4)), rng.normal(size=6)
    pre = (y - p["b"]) @ p["W"].T + p["a"]
    activation.offset.data = torch.from_numpy(b_mag - np.exp(p["r"]) * p["a"])
    scaled = (y - p["b"]) @ (np.exp(p["r"])[:, None] * p["W"]).T  # the tied W_mag
    expected = np.where(pre > 0, np.maximum(scaled + b_mag, 0), 0)
    found = activation(torch.from_numpy(pre)).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_the_gates_penalty_and_what_they_reconstruct_with() -> None:
    activation, _ = _gated(2)
    pre = torch.tensor([[1.5, -2.0], [0.25, 3.0]], dtype=torch.float64)
    assert float(activation.sparsity(pre, None)) == 4.75
    assert activation.gate_codes(pre).tolist() == [[1.5, 0.0], [0.25, 3.0]]


@pytest.mark.parametrize("name", ["jumprelu", "gated"])
def test_gradients_repeat_their_bits_with_several_threads(name: str) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        activation = build_activation(name, {"num_concepts": 10})
        stream = torch.Generator().manual_seed(0)
        concepts = torch.randint(10, (200_000,), generator=stream)
        pre = torch.rand(200_000, generator=stream)
        found = set()
        for _ in range(8):
            activation.zero_grad()
            activation.codes_of(pre, concepts).square().sum().backward()
            found.add(b"".join(p.grad.numpy().tobytes() for p in activation.parameters()))
        assert len(found) == 1
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["bandwidth", "threshold"])
def test_impossible_jumps_are_refused(name: str, value: float) -> None:
    with pytest.raises(InvalidInput, match=f"JumpReLU {name} is"):
        JumpReLU(3, **{name: value})


def test_gates_are_rebuilt_from_their_settings() -> None:
    for activation in (JumpReLU(5, bandwidth=0.5, threshold=0.25), Gated(5)):
        again = build_activation(activation.name, activation.settings())
        again.load_state_dict(activation.state_dict())
        assert again.settings() == activation.settings()
        pre = torch.randn(3, 5)
        torch.testing.assert_close(again(pre), activation(pre))
