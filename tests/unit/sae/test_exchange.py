import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from dncbm.data.planted import planted_embeddings
from dncbm.errors import InvalidInput
from dncbm.sae import exchange as module
from dncbm.sae.activations import BatchTopK, ReLU, TopK
from dncbm.sae.config import SaeConfig
from dncbm.sae.exchange import Unexplained, exchange, gains_of, match, propose, readers, settle
from dncbm.sae.gates import JumpReLU
from dncbm.sae.model import SaeModel
from dncbm.sae.presets import preset
from dncbm.sae.rows import TensorRows, as_rows, input_statistics
from dncbm.sae.run import TrainingRun
from dncbm.sae.train import train_sae
from dncbm.training.seeding import generator
from tests.oracles import sae_exchange as oracle

WIDTH, CONCEPTS, ROWS = 6, 9, 40


def _model(activation: object, concepts: int = CONCEPTS) -> SaeModel:
    torch.manual_seed(3)
    model = SaeModel(WIDTH, concepts, activation=activation).double()  # type: ignore[arg-type]
    with torch.no_grad():
        model.encoder_bias.normal_(std=0.1)
        model.pre_bias.normal_(std=0.1)
    return model


def _rows() -> torch.Tensor:
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(4))


def _left(seed: int = 5) -> Unexplained:
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(ROWS, WIDTH, generator=draw, dtype=torch.float64) + 0.5
    residuals = torch.randn(ROWS, WIDTH, generator=draw, dtype=torch.float64)
    entry, displaced = torch.rand(2, ROWS, generator=draw, dtype=torch.float64)
    worth = torch.zeros(CONCEPTS, dtype=torch.float64)
    return Unexplained(inputs, residuals, entry, entry * displaced, worth)


def _threshold(activation: BatchTopK) -> BatchTopK:
    activation.threshold.fill_(0.3)
    return activation


def _gates() -> JumpReLU:
    activation = JumpReLU(CONCEPTS, bandwidth=0.1)
    logarithms = torch.linspace(-3.0, 0.0, CONCEPTS).log_softmax(dim=0)
    activation.log_threshold.data = logarithms.double()
    return activation


@pytest.mark.parametrize(
    ("activation", "k", "threshold", "entry"),
    [
        (TopK(3), 3, 0.0, 0.0),
        (TopK(CONCEPTS), CONCEPTS, 0.0, 0.0),
        (_threshold(BatchTopK(2)), None, 0.3, 0.3),
        (ReLU(), None, 0.0, 0.0),
        # a gate keeps the newcomer out, but what enters displaces nothing
        (_gates(), None, 0.0, float(_gates().log_threshold.detach().mean().exp())),
    ],
)
def test_what_is_left_over_is_the_oracles(
    activation: object,
    k: int | None,
    threshold: float,
    entry: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_ENTRIES", 7 * CONCEPTS)  # several parts, the last one short
    model, rows = _model(activation), _rows()
    model.train()
    with torch.no_grad():
        found = module.unexplained(model, TensorRows(rows), torch.arange(ROWS))
        model.eval()
        x = rows.double()
        pre = model.pre_activations(x).numpy()
        output = model(x)
    codes = output.codes.numpy()
    residuals = (x - output.reconstruction).numpy()
    assert not isinstance(activation, BatchTopK) or float(activation.seen) == 0
    np.testing.assert_allclose(found.worth, oracle.worths(pre, codes, k, threshold), atol=1e-6)
    np.testing.assert_allclose(found.entry, oracle.entries(pre, k, entry), atol=1e-7)
    np.testing.assert_allclose(found.displaced, oracle.entries(pre, k, threshold), atol=1e-7)
    np.testing.assert_allclose(found.residuals, residuals - residuals.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(found.inputs, x - model.pre_bias.detach(), atol=1e-12)


@pytest.mark.parametrize("over", [5, 35])
def test_proposals_are_means_of_what_is_left_over(
    over: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK", 3)
    left = _left()
    found = propose(left.residuals, 7, over)
    expected = oracle.proposals(left.residuals.numpy(), 7, over, module.ROUNDS)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_gains_and_readers_are_the_oracles() -> None:
    left, directions = _left(), normalize(_left(6).residuals[:4], dim=1)
    gains = gains_of(left, directions)
    weights, biases = readers(left, directions)
    plain = [part.numpy() for part in left]
    for place, direction in enumerate(directions.numpy()):
        assert float(gains[place]) == pytest.approx(oracle.gain(*plain[1:4], direction))
        row, bias = oracle.reader(plain[0], plain[1], plain[2], direction, module._RIDGE)
        np.testing.assert_allclose(weights[place], row, rtol=1e-9)
        assert float(biases[place]) == pytest.approx(bias)


def test_the_least_worth_gives_way_to_the_largest_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CAP", 0.6)
    worth = torch.tensor([5.0, 0.0, 1.0, 100.0, 3.0])
    directions = normalize(torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0.1, 0], [0, 0, 1]]), dim=1)
    gains = torch.tensor([90.0, 70.0, 80.0, 20.0])
    concepts, places = match(worth, gains, directions)
    # 2 resembles 0, and 20 is less than ten times 3
    assert concepts.tolist() == [1, 2]
    assert places.tolist() == [0, 1]
    concepts, places = match(worth, torch.zeros(4), directions)
    assert concepts.tolist() == places.tolist() == []
    monkeypatch.setattr(module, "CAP", 0.0)
    assert match(worth, gains, directions)[0].tolist() == [1]


def _missing_one() -> tuple[SaeModel, torch.Tensor, torch.Tensor]:
    """A perfect dictionary but for one concept, whose row points nowhere."""
    drawn = torch.randn(32, 24, generator=torch.Generator().manual_seed(1))
    truth = torch.linalg.qr(drawn).Q.T.contiguous()  # nothing but the gap is left over
    embeddings, _ = planted_embeddings(truth, 4000, active=(2, 4), noise=0.05, seed=1)
    model = SaeModel(32, 24, activation=TopK(4))
    with torch.no_grad():
        model.dictionary.copy_(truth)
        model.encoder_weight.copy_(truth)
        lost = normalize(torch.randn(32, generator=torch.Generator().manual_seed(0)), dim=0)
        model.dictionary[7], model.encoder_weight[7] = lost, lost
        model.encoder_bias[7] = -50.0
    return model, truth, embeddings


@torch.no_grad()
def _error(model: SaeModel, rows: torch.Tensor) -> float:
    return float((rows - model(rows).reconstruction).square().mean())


@pytest.mark.parametrize("dense", [0.0, 3.0], ids=["plain", "beside a dense direction"])
def test_a_direction_without_a_concept_is_found(dense: float) -> None:
    model, truth, embeddings = _missing_one()
    # a large common direction, not at right angles to the missing one
    common = normalize(truth[7] + truth[3], dim=0)
    strength = torch.randn(len(embeddings), 1, generator=torch.Generator().manual_seed(2)) + 4.0
    with torch.no_grad():
        rows = embeddings + dense * strength * common
        if dense:
            model.dictionary[0], model.encoder_weight[0] = common, common
    before = _error(model, rows)
    changed = exchange(model, TensorRows(rows), k=4, generator=generator(1, "test"))
    assert changed.tolist() == [7]
    assert _error(model, rows) < 0.95 * before
    if not dense:
        assert float(model.dictionary.detach()[7] @ truth[7]) > 0.95


def test_a_dictionary_that_misses_nothing_stays_as_it_is() -> None:
    model, truth, embeddings = _missing_one()
    with torch.no_grad():
        model.dictionary[7], model.encoder_weight[7], model.encoder_bias[7] = truth[7], truth[7], 0
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert not len(exchange(model, TensorRows(embeddings), k=4, generator=generator(1, "test")))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("rows", [1, 15])
def test_too_few_rows_change_nothing(rows: int) -> None:
    model = _model(TopK(2)).float()
    assert not len(exchange(model, TensorRows(_rows()[:rows]), k=2, generator=generator(1, "t")))


def test_noise_is_not_taken_for_a_concept() -> None:
    model, _, embeddings = _missing_one()
    noise = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        model.encoder_bias[:] = -50.0
    assert not len(exchange(model, TensorRows(noise), k=4, generator=generator(1, "test")))


def test_a_direction_that_a_concept_has_is_not_new() -> None:
    model, truth, embeddings = _missing_one()
    with torch.no_grad():  # there, but read in half the strength: steps mend that
        model.dictionary[7], model.encoder_weight[7], model.encoder_bias[7] = (
            truth[7], 0.5 * truth[7], 0.0,
        )  # fmt: skip
        model.dictionary[8] = model.encoder_weight[8] = truth[8]
        model.encoder_bias[5] = -50.0
        model.dictionary[5] = truth[7]
        rows = embeddings - (embeddings @ truth[5])[:, None] * truth[5]
    assert not len(exchange(model, TensorRows(rows), k=4, generator=generator(1, "test")))


@pytest.mark.parametrize("steps", [0, 1, 40])
def test_rows_without_variance_and_few_steps_are_no_error(steps: int) -> None:
    config = _config(init="tied", exchange=(0.01, 0.5, 0.99), max_steps=steps)
    found = train_sae(torch.ones(2048, 32), config)
    assert all(bool(torch.isfinite(value).all()) for value in found.model.state_dict().values())


def test_no_exchange_before_the_first_step_or_after_the_last() -> None:
    rows = as_rows(torch.randn(2048, 32, generator=torch.Generator().manual_seed(1)))
    config = _config(exchange=(0.001, 0.5, 0.999))
    run = TrainingRun(rows, config, input_statistics(rows), "cpu")
    assert run.exchanges == {round(0.5 * run.total)}


def test_presets_leave_out_exchanges_that_do_not_fit() -> None:
    shape = {"embed_dim": 16, "num_rows": 4096, "num_concepts": 32}
    assert preset("default", **shape).exchange
    assert preset("default", **shape, archetypes=8).exchange == ()
    assert preset("default", **shape, activation="relu").exchange == ()
    assert preset("default", **shape, activation="relu", exchange=(0.5,)).exchange == (0.5,)


def test_first_steps_of_newcomers_are_of_the_usual_size() -> None:
    """After two steps Adam divides by 1 - 0.999², so new moments hold that share too."""
    model = _model(JumpReLU(CONCEPTS, bandwidth=0.3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        output = model(torch.randn(20, WIDTH, dtype=torch.float64))
        (output.codes.square().sum() + output.reconstruction.square().sum()).backward()
        optimizer.step()
    moments = {n: optimizer.state[p]["exp_avg_sq"].clone() for n, p in model.named_parameters()}
    new, others = torch.tensor([2, 5]), torch.tensor([0, 1, 3, 4, 6, 7, 8])
    settle(model, optimizer, new)
    for name, parameter in model.named_parameters():
        if name == "pre_bias":
            continue
        state, gradient = optimizer.state[parameter], parameter.grad
        assert gradient is not None
        assert not state["exp_avg"][new].any()
        assert torch.equal(state["exp_avg_sq"][others], moments[name][others])
        usual = moments[name][others].mean(dim=0)
        for concept in new.tolist():
            own = gradient[concept].square().mean() * (1 - 0.999**2)
            expected = torch.maximum(own, usual)
            torch.testing.assert_close(state["exp_avg_sq"][concept], expected.expand_as(usual))


def test_gates_of_newcomers_are_those_of_the_others() -> None:
    model, _, embeddings = _missing_one()
    gated = SaeModel(32, 24, activation=JumpReLU(24, bandwidth=0.3))
    gated.load_state_dict(model.state_dict(), strict=False)
    gates = gated.activation.log_threshold  # type: ignore[union-attr]
    with torch.no_grad():
        gates.uniform_(-3.0, -1.0)
        others = torch.cat([gates[:7], gates[8:]]).mean()
    assert exchange(gated, TensorRows(embeddings), k=4, generator=generator(1, "t")).tolist() == [7]
    torch.testing.assert_close(gates[7].detach(), others)


def _config(**changes: object) -> SaeConfig:
    values: dict[str, object] = {"embed_dim": 32, "num_concepts": 24, "k": 4, "batch_size": 500}
    values |= {"epochs": 5, "lr": 0.003, "exchange": (0.3, 0.5), "init": "data", "seed": 2}
    return SaeConfig(**values | changes)  # type: ignore[arg-type]


def test_training_exchanges_after_the_asked_shares_of_steps() -> None:
    model, truth, embeddings = _missing_one()
    rows = as_rows(embeddings)
    run = TrainingRun(rows, _config(), input_statistics(rows), "cpu")
    assert run.exchanges == {12, 20}
    run.model.load_state_dict(model.state_dict())
    for _ in range(12):
        run.advance()
    assert run.newcomers.nonzero()[:, 0].tolist() == [7]
    assert int(run.rows_since_fired[7]) == 0
    run.advance()
    assert not run.newcomers.any()
    for _ in range(27):
        run.advance()
    found = normalize(run.model.dictionary.detach(), dim=1)
    assert float((found @ truth[7]).max()) > 0.95


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exchange": (0.5, 0.4)}, r"exchange is \[0.5, 0.4\]; the rule is shares"),
        ({"exchange": (0.0,)}, "between 0 and 1"),
        ({"exchange": (1.0,)}, "between 0 and 1"),
        ({"archetypes": 5}, "mixtures of archetypes"),
    ],
)
def test_bad_shares_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        _config(**changes)
