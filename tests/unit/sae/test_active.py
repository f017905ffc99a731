import pytest
import torch
from torch import Tensor

from dncbm.sae.activations import Activation, BatchTopK, ReLU, Selecting, TopK
from dncbm.sae.active import BatchCodes, active_codes, batch_codes
from dncbm.sae.model import SaeModel

ROWS, WIDTH, CONCEPTS = 7, 5, 12


def _model(activation: Activation, *, bias: float = 0.0) -> SaeModel:
    torch.manual_seed(3)
    model = SaeModel(WIDTH, CONCEPTS, activation=activation).double()
    with torch.no_grad():
        model.encoder_weight += 0.1 * torch.randn(CONCEPTS, WIDTH, dtype=torch.float64)
        model.encoder_bias += bias + 0.1 * torch.randn(CONCEPTS, dtype=torch.float64)
        model.pre_bias += 0.1 * torch.randn(WIDTH, dtype=torch.float64)
    return model.train()


def _rows() -> Tensor:
    return torch.randn(ROWS, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _dense(model: SaeModel, rows: Tensor) -> BatchCodes:
    """The same three things through dense codes and plain autograd."""
    codes = model.activation(model.pre_activations(rows))
    reconstruction = codes @ model.dictionary + model.pre_bias
    return BatchCodes(reconstruction, codes.sum() / len(rows), (codes > 0).sum(0))


def _gradients(model: SaeModel, codes: BatchCodes) -> dict[str, Tensor]:
    weights = torch.linspace(-1, 1, codes.reconstruction.numel(), dtype=torch.float64)
    loss = (codes.reconstruction.flatten() * weights).sum() + codes.reconstruction.pow(2).sum()
    model.zero_grad()
    (loss + 0.7 * codes.l1).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


ACTIVATIONS = {
    "topk": lambda: TopK(3),
    "topk keeps negatives out": lambda: TopK(CONCEPTS),
    "batchtopk": lambda: BatchTopK(2),
    "relu": ReLU,
}


@pytest.mark.parametrize("bias", [0.0, -0.6])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_batch_and_its_gradients_equal_the_dense_ones(name: str, bias: float) -> None:
    model, rows = _model(ACTIVATIONS[name](), bias=bias), _rows()
    found, expected = batch_codes(model, rows), _dense(model, rows)
    torch.testing.assert_close(found.reconstruction, expected.reconstruction)
    torch.testing.assert_close(found.l1, expected.l1)
    assert found.fired.tolist() == expected.fired.tolist()
    own, truth = _gradients(model, found), _gradients(model, expected)
    assert own.keys() == truth.keys() == dict(model.named_parameters()).keys()
    for key, value in truth.items():
        torch.testing.assert_close(own[key], value, msg=lambda text, key=key: f"{key}: {text}")


def test_rows_without_any_active_concept_are_the_pre_bias() -> None:
    activation = BatchTopK(1)
    model = _model(activation)
    rows = torch.cat([_rows() * 5, torch.zeros(2, WIDTH, dtype=torch.float64)])
    with torch.no_grad():
        rows[-2:] = model.pre_bias
        model.encoder_bias -= 0.5
    codes = active_codes(model, activation, rows)
    assert not set(codes.rows.tolist()) & {ROWS, ROWS + 1}
    found = batch_codes(model, rows)
    torch.testing.assert_close(found.reconstruction[-2:], model.pre_bias.expand(2, -1))


def test_no_active_concept_at_all() -> None:
    model = _model(BatchTopK(1), bias=-100.0)
    found = batch_codes(model, _rows())
    torch.testing.assert_close(found.reconstruction, model.pre_bias.expand(ROWS, -1))
    assert int(found.fired.sum()) == 0
    assert all(torch.isfinite(value).all() for value in _gradients(model, found).values())


@pytest.mark.parametrize("name", ["topk", "batchtopk"])
def test_selected_positions_are_the_dense_activation_s(name: str) -> None:
    activation = ACTIVATIONS[name]()
    assert isinstance(activation, Selecting)
    assert not isinstance(ReLU(), Selecting)
    pre = _rows() @ torch.randn(WIDTH, CONCEPTS, dtype=torch.float64)
    positions = activation.select(pre)
    rows = positions // CONCEPTS
    assert bool((rows[1:] >= rows[:-1]).all())
    spread = torch.zeros(ROWS * CONCEPTS, dtype=torch.float64)
    spread[positions] = pre.flatten()[positions].relu()
    torch.testing.assert_close(spread.view_as(pre), activation(pre))
