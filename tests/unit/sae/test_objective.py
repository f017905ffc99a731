import pytest
import torch
from torch import Tensor

from dncbm.sae.activations import Activation, BatchTopK, ReLU, Selecting, TopK
from dncbm.sae.model import SaeModel
from dncbm.sae.objective import BatchCodes, batch_codes
from dncbm.sae.products import Products

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
    return BatchCodes(reconstruction[:, None], codes.sum(), (codes > 0).sum(0))


def _found(model: SaeModel, rows: Tensor) -> BatchCodes:
    return batch_codes(model, rows, model.dictionary, products=Products())


def _gradients(model: SaeModel, codes: BatchCodes) -> dict[str, Tensor]:
    found = codes.reconstructions
    weights = torch.linspace(-1, 1, found.numel(), dtype=torch.float64)
    loss = (found.flatten() * weights).sum() + found.pow(2).sum()
    model.zero_grad()
    (loss + 0.1 * codes.sparsity).backward()
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
    found, expected = _found(model, rows), _dense(model, rows)
    torch.testing.assert_close(found.reconstructions, expected.reconstructions)
    torch.testing.assert_close(found.sparsity, expected.sparsity)
    assert found.fired.tolist() == expected.fired.tolist()
    own, truth = _gradients(model, found), _gradients(model, expected)
    assert own.keys() == truth.keys() == dict(model.named_parameters()).keys()
    for key, value in truth.items():
        torch.testing.assert_close(own[key], value, msg=lambda text, key=key: f"{key}: {text}")


def test_rows_without_any_active_concept_are_the_pre_bias() -> None:
    model = _model(BatchTopK(1))
    rows = torch.cat([_rows() * 5, torch.zeros(2, WIDTH, dtype=torch.float64)])
    with torch.no_grad():
        rows[-2:] = model.pre_bias
        model.encoder_bias -= 0.5
    found = _found(model, rows)
    torch.testing.assert_close(found.reconstructions[-2:, 0], model.pre_bias.expand(2, -1))


def test_no_active_concept_at_all() -> None:
    model = _model(BatchTopK(1), bias=-100.0)
    found = _found(model, _rows())
    torch.testing.assert_close(found.reconstructions[:, 0], model.pre_bias.expand(ROWS, -1))
    assert int(found.fired.sum()) == 0
    assert all(torch.isfinite(value).all() for value in _gradients(model, found).values())


@pytest.mark.parametrize("name", ["topk", "batchtopk"])
def test_selected_positions_are_the_dense_activation_s(name: str) -> None:
    activation = ACTIVATIONS[name]()
    assert isinstance(activation, Selecting)
    pre = _rows() @ torch.randn(WIDTH, CONCEPTS, dtype=torch.float64)
    positions = activation.select(pre)
    rows = positions // CONCEPTS
    assert bool((rows[1:] >= rows[:-1]).all())
    spread = torch.zeros(ROWS * CONCEPTS, dtype=torch.float64)
    spread[positions] = pre.flatten()[positions].relu()
    torch.testing.assert_close(spread.view_as(pre), activation(pre))
