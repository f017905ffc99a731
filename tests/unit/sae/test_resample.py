import numpy as np
import pytest
import torch

from dncbm.sae.activations import ReLU
from dncbm.sae.gates import Gated, JumpReLU
from dncbm.sae.model import SaeModel
from dncbm.sae.resample import draw_inputs, draw_weights, revive
from dncbm.sae.rows import TensorRows
from dncbm.training.seeding import generator
from tests.oracles import sae as oracle


@pytest.fixture
def model() -> SaeModel:
    made = SaeModel(5, 8, activation=ReLU())
    with torch.no_grad():
        made.encoder_weight.normal_()
        made.encoder_bias.normal_()
        made.pre_bias.normal_()
    return made


def _stepped(model: SaeModel) -> torch.optim.Adam:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=True)
    output = model(torch.randn(20, 5))
    (output.codes.square().sum() + output.reconstruction.square().sum()).backward()
    optimizer.step()
    return optimizer


def test_draw_weights_are_squared_losses() -> None:
    losses = torch.rand(9, dtype=torch.float64)
    np.testing.assert_allclose(draw_weights(losses).numpy(), oracle.draw_weights(losses.numpy()))


def test_draw_follows_the_losses_of_the_model(model: SaeModel) -> None:
    x = torch.randn(30, 5)
    drawn = draw_inputs(
        model,
        TensorRows(x),
        count=4,
        candidates=819_200,
        l1=0.3,
        reduction="mean",
        generator=generator(1, "test"),
    )
    stream = generator(1, "test")
    order = torch.randperm(30, generator=stream)
    output = model(x[order])
    losses = [
        oracle.reconstruction(row[None], rebuilt[None], "mean") + 0.3 * oracle.sparsity(code[None])
        for row, rebuilt, code in zip(
            x[order].double().numpy(),
            output.reconstruction.detach().double().numpy(),
            output.codes.detach().double().numpy(),
            strict=True,
        )
    ]
    weights = torch.from_numpy(oracle.draw_weights(np.array(losses)))
    expected = x[order][torch.multinomial(weights, 4, generator=stream)]
    torch.testing.assert_close(drawn, expected)
    assert len(drawn.unique(dim=0)) == 4


def test_draw_gives_what_there_is(model: SaeModel) -> None:
    options = {"candidates": 3, "l1": 0.0, "reduction": "sum", "generator": generator(1)}
    rows = TensorRows(torch.randn(30, 5))
    assert len(draw_inputs(model, rows, count=7, **options)) == 3  # type: ignore[arg-type]
    with torch.no_grad():
        model.dictionary.zero_()
        model.pre_bias.zero_()
    nothing = TensorRows(torch.zeros(4, 5))
    assert len(draw_inputs(model, nothing, count=7, **options)) == 0  # type: ignore[arg-type]


def test_revive_writes_the_rows_that_the_oracle_writes(model: SaeModel) -> None:
    dead = torch.zeros(8, dtype=torch.bool)
    dead[[1, 4, 6]] = True
    inputs = torch.randn(3, 5)
    names = ("encoder_weight", "encoder_bias", "dictionary")
    before = [getattr(model, name).detach().double().numpy().copy() for name in names]
    expected = oracle.revive(*before, [1, 4, 6], inputs.double().numpy())
    revived = revive(model, _stepped_without_change(model), dead, inputs)
    assert revived.tolist() == [1, 4, 6]
    for name, wanted in zip(names, expected, strict=True):
        np.testing.assert_allclose(getattr(model, name).detach().numpy(), wanted, atol=1e-6)


def _stepped_without_change(model: SaeModel) -> torch.optim.Adam:
    return torch.optim.Adam(model.parameters(), lr=0.01)


def test_revive_makes_adam_forget_these_rows_and_no_others(model: SaeModel) -> None:
    optimizer = _stepped(model)
    dead = torch.zeros(8, dtype=torch.bool)
    dead[[2, 5]] = True
    keep = ~dead
    parameters = (model.dictionary, model.encoder_weight, model.encoder_bias)
    before = {p: {n: s.clone() for n, s in optimizer.state[p].items()} for p in model.parameters()}
    revive(model, optimizer, dead, torch.randn(2, 5))
    for parameter in parameters:
        for name in ("exp_avg", "exp_avg_sq"):
            moment = optimizer.state[parameter][name]
            assert not moment[dead].any()
            torch.testing.assert_close(moment[keep], before[parameter][name][keep])
            assert before[parameter][name][dead].any()
    for name, value in optimizer.state[model.pre_bias].items():
        torch.testing.assert_close(value, before[model.pre_bias][name])


def test_revive_with_too_few_inputs_or_nothing_alive(model: SaeModel) -> None:
    optimizer = _stepped(model)
    everything = torch.ones(8, dtype=torch.bool)
    length = float(model.encoder_weight.detach().norm(dim=-1).mean())
    assert revive(model, optimizer, everything, torch.randn(3, 5)).tolist() == [0, 1, 2]
    lengths = model.encoder_weight.detach()[:3].norm(dim=-1)
    np.testing.assert_allclose(lengths.numpy(), 0.2 * length, rtol=1e-5)


@pytest.mark.parametrize("activation", [JumpReLU(6, threshold=0.2), Gated(6)])
def test_gates_of_revived_concepts_start_anew(activation: JumpReLU | Gated) -> None:
    model = SaeModel(4, 6, activation=activation)
    first = [parameter.detach().clone() for parameter in activation.parameters()]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    (sum(parameter.sum() for parameter in model.parameters())).backward()
    optimizer.step()
    dead = torch.tensor([False, True, False, True, False, False])
    revive(model, optimizer, dead, torch.randn(2, 4))
    for parameter, start in zip(activation.parameters(), first, strict=True):
        assert torch.equal(parameter.detach()[dead], start[dead])
        assert bool((parameter.detach()[~dead] != start[~dead]).all())
        moments = optimizer.state[parameter]["exp_avg"]
        assert bool((moments[dead] == 0).all())
        assert bool((moments[~dead] != 0).all())
