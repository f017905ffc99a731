"""Two and three processes train as one does: same rows, same steps, same parameters."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from dncbm.sae import chosen
from dncbm.sae.rows import as_rows, input_statistics
from dncbm.sae.train import SaeConfig, TrainingRun, train_sae
from dncbm.training.workers import ALONE, ProcessGroup, Workers, current_workers
from tests.unit.training.processes import launched

WIDTH, CONCEPTS, ROWS, BATCH = 6, 64, 37, 12  # the last batch of an epoch is a single row
STOP, TOTAL = 6, 12

RECIPES: dict[str, dict[str, Any]] = {
    "topk": {"k": 2, "aux_weight": 0.3, "aux_k": 2, "dead_after": BATCH},
    "batchtopk": {"activation": "batchtopk", "k": 3},
    "relu": {"activation": "relu", "l1": 0.05, "resample_every": 1, "epochs": 3},
    "jumprelu": {"activation": "jumprelu", "l0": 0.4, "k": 4, "bandwidth": 0.2},
    "gated": {"activation": "gated", "l1": 0.05, "sparsity_warmup": 0.4},
    "concepts": {"activation": "batchtopk", "k": 3, "levels": (0.25, 1.0)},
    "rank": {"k": 4, "levels": (0.5, 1.0), "levels_by": "rank", "levels_weighting": "reverse"},
    "archetypal": {"k": 3, "archetypes": 8},
    "renewed": {"k": 2, "exchange": (0.5,)},  # just before the stop
}
DENSE = ("relu", "gated")
"""Recipes that are computed by dense products here; the others per active entry."""


def _config(recipe: str) -> SaeConfig:
    values: dict[str, Any] = {"epochs": 3, "batch_size": BATCH, "lr": 0.01, "seed": 5}
    values |= {"embed_dim": WIDTH, "num_concepts": CONCEPTS, "precision": "float32"}
    return SaeConfig(**values | RECIPES[recipe])


def _embeddings() -> torch.Tensor:
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(2)) + 0.3


def _run(recipe: str, workers: Workers) -> TrainingRun:
    """In float64, so that another order of sums cannot be mistaken for an error."""
    rows = as_rows(_embeddings())
    run = TrainingRun(rows, _config(recipe), input_statistics(rows), "cpu", workers)
    run.model.double()
    for parameter in run.atoms.parameters():
        parameter.data = parameter.data.double()
    if recipe == "archetypal":
        run.atoms._points = run.atoms._points.double()
    if recipe == "relu":
        run.model.encoder_bias.data[:2] = -50.0  # dead, to be resampled
    if recipe == "renewed":  # all dead and alike: what the rows show is new
        run.model.encoder_bias.data[:] = -50.0
        run.model.dictionary.data[:] = torch.eye(WIDTH)[0]
    return run


def _advance(run: TrainingRun, recipe: str, until: int) -> TrainingRun:
    chosen._SPARSE_BELOW_OTHERWISE = -1.0 if recipe in DENSE else 2.0
    while run.step < until:
        run.advance()
    return run


def _result(run: TrainingRun) -> dict[str, Any]:
    atoms = {f"atoms.{i}": p.detach() for i, p in enumerate(run.atoms.parameters())}
    return {
        "tensors": {name: t.clone() for name, t in (run.model.state_dict() | atoms).items()},
        "history": run.history,
        "silent": run.rows_since_fired,
    }


def _work(rank: int, size: int, folder: Path) -> None:
    """What each of `size` processes does; the first notes the results."""
    torch.set_num_threads(1)
    meeting = f"file://{folder / f'meeting-{size}'}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
    workers = current_workers()
    results: dict[str, Any] = {"exchange": _exchange(workers)}
    for recipe in RECIPES:
        run = _run(recipe, workers)
        if size == 2:
            _advance(run, recipe, STOP)
            if rank == 0:
                run.save(folder / f"{recipe}.safetensors", recipe)
        results[recipe] = _result(_advance(run, recipe, TOTAL))
        again = _run(recipe, workers)
        if size == 3:  # goes on where two stopped
            again.restore(folder / f"{recipe}.safetensors", recipe)
            assert again.step == STOP
            results[f"{recipe} continued"] = _result(_advance(again, recipe, TOTAL))
    own = folder / f"{size}-{rank}"
    trained = train_sae(_embeddings(), _config("topk"), checkpoint=own / "run.safetensors")
    results["front door"] = trained.model.state_dict()
    torch.save(results, folder / f"results-{size}-{rank}.pt")
    dist.destroy_process_group()


def _exchange(workers: Workers) -> dict[str, Any]:
    """Each of the exchanges once, of values that tell the processes apart."""
    rank, size = workers.rank, workers.size
    sums = [torch.tensor([[1.0, rank]]), torch.tensor(rank), torch.tensor(2.0 * rank)]
    workers.sum_(*sums)
    return {
        "who": (rank, size),
        "share": workers.share(torch.arange(10)).tolist(),
        "none": workers.share(torch.arange(1)).tolist(),
        "sums": [tensor.tolist() for tensor in sums],
        "smallest": float(workers.smallest(torch.tensor(5.0 - rank))),
        "gathered": workers.gather(torch.full((rank,), float(rank))).tolist(),
    }


def launch(folder: Path) -> None:
    """Two processes, then three; forked before anything is computed, so torch is loaded once."""
    torch.optim.Adam([torch.zeros(1)])  # loads torch's compiler, which takes longer than the rest
    for size in (2, 3):
        multiprocessing.start_processes(_work, (size, folder), size, start_method="fork")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the processes left their results and checkpoints."""
    return launched("tests.unit.training.test_workers", tmp_path_factory.mktemp("workers"))


def _results(folder: Path, size: int, rank: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / f"results-{size}-{rank}.pt", weights_only=True)
    return found


def _close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["tensors"].keys() == expected["tensors"].keys()
    for name, tensor in expected["tensors"].items():
        exact = 1e-9 if tensor.dtype == torch.float64 else 1e-6  # BatchTopK's counters
        torch.testing.assert_close(
            found["tensors"][name],
            tensor,
            rtol=exact,
            atol=exact,
            msg=lambda m, n=name: f"{n}: {m}",
        )
    assert found["silent"].tolist() == expected["silent"].tolist()
    for mine, theirs in zip(found["history"], expected["history"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-6)


@pytest.fixture
def one_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restores the share of active entries that runs in this process set."""
    monkeypatch.setattr(chosen, "_SPARSE_BELOW_OTHERWISE", chosen._SPARSE_BELOW_OTHERWISE)


@pytest.mark.parametrize("recipe", RECIPES)
def test_several_workers_equal_one(recipe: str, folder: Path, one_path: None) -> None:
    alone = _result(_advance(_run(recipe, ALONE), recipe, TOTAL))
    if recipe == "relu":
        assert sum(entry["resampled"] for entry in alone["history"]) > 0
    if recipe == "topk":
        assert sum(entry["auxiliary"] for entry in alone["history"]) > 0
    if recipe == "renewed":
        assert int((alone["tensors"]["encoder_bias"] > -40.0).sum()) == 1
    for size in (2, 3):
        _close(_results(folder, size)[recipe], alone)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_goes_on_with_another_number_of_workers(
    recipe: str, folder: Path, tmp_path: Path, one_path: None
) -> None:
    whole = _results(folder, 2)[recipe]
    _close(_results(folder, 3)[f"{recipe} continued"], whole)
    path = tmp_path / "run.safetensors"
    shutil.copy(folder / f"{recipe}.safetensors", path)
    run = _run(recipe, ALONE)
    run.restore(path, recipe)
    assert run.step == STOP
    _close(_result(_advance(run, recipe, TOTAL)), whole)


@pytest.mark.parametrize("size", [2, 3])
def test_all_workers_hold_the_same_bits(size: int, folder: Path) -> None:
    first = _results(folder, size)
    for rank in range(1, size):
        other = _results(folder, size, rank)
        for recipe in RECIPES:
            for name, tensor in first[recipe]["tensors"].items():
                assert torch.equal(other[recipe]["tensors"][name], tensor), (recipe, name)


@pytest.mark.parametrize("size", [2, 3])
def test_training_by_the_front_door_equals_one_and_the_first_alone_writes(
    size: int, folder: Path
) -> None:
    alone = train_sae(_embeddings(), _config("topk")).model.state_dict()
    for rank in range(size):
        for name, tensor in _results(folder, size, rank)["front door"].items():
            torch.testing.assert_close(tensor, alone[name], rtol=1e-4, atol=1e-5)
        assert (folder / f"{size}-{rank}" / "run.safetensors").exists() == (rank == 0)


@pytest.mark.parametrize("size", [2, 3])
def test_exchanges(size: int, folder: Path) -> None:
    found = [_results(folder, size, rank)["exchange"] for rank in range(size)]
    assert [one["who"] for one in found] == [(rank, size) for rank in range(size)]
    assert sum((one["share"] for one in found), []) == list(range(10))
    assert max(len(one["share"]) for one in found) - min(len(one["share"]) for one in found) <= 1
    assert sum((one["none"] for one in found), []) == [0]
    total = size * (size - 1) / 2
    for one in found:
        assert one["sums"] == [[[size, total]], total, 2 * total]
        assert one["smallest"] == 5.0 - (size - 1)
        assert one["gathered"] == [1.0, 2.0, 2.0][: int(total)]


def test_one_process_exchanges_nothing() -> None:
    assert current_workers() is ALONE
    assert isinstance(ALONE, Workers)
    values = torch.tensor([1.0, 2.0])
    ALONE.sum_(values)
    assert values.tolist() == [1.0, 2.0]
    for same in (ALONE.share(values), ALONE.gather(values), ALONE.smallest(values)):
        assert same is values


def test_types_travel_in_the_order_that_all_processes_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A set of types is ordered by addresses, which differ from process to process."""
    sent: list[torch.dtype] = []
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 1)
    monkeypatch.setattr(dist, "all_reduce", lambda packed: sent.append(packed.dtype))
    types = [getattr(torch, name) for name in ("float32", "int64", "float64", "int32", "bfloat16")]
    for order in (types, types[::-1], types[2:] + types[:2]):
        sent.clear()
        ProcessGroup().sum_(*(torch.zeros(2, dtype=dtype) for dtype in (*order, *types)))
        assert sent == order
