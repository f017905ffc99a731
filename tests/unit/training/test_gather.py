"""Two processes with uneven shares give the loss and gradients of one, for every loss."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import nn

from dncbm.contrastive.gradient_cache import embedded
from dncbm.contrastive.scheduled import LOSSES
from dncbm.contrastive.temperature import Learnable, PerSample
from dncbm.training.gather import gather_rows
from dncbm.training.workers import ALONE, Workers, current_workers
from tests.unit.training.processes import launched

ROWS = 7
CASES = [(name, chunk) for name in LOSSES for chunk in (None, 2)]


def _step(name: str, chunk: int | None, workers: Workers) -> dict[str, Any]:
    """Loss and gradients, summed over workers as the training loop sums them."""
    torch.manual_seed(3)
    network = nn.Linear(4, 3).double()
    loss = LOSSES[name](schedule=PerSample(Learnable(0.3)), gather_distributed=True).double()
    data = torch.randn(2, ROWS, 4, dtype=torch.float64)
    own = workers.share(torch.arange(ROWS))
    shift = torch.linspace(0.05, 0.2, ROWS, dtype=torch.float64)[own]

    def embed(part: slice) -> tuple[torch.Tensor, ...]:
        return network(data[0, own[part]]), network(data[1, own[part]])

    value = loss(*embedded(network, embed, len(own), chunk), shift) * len(own) / ROWS
    value.backward()
    gradients = [p.grad for p in (*network.parameters(), *loss.parameters())]
    total = value.detach().clone()
    workers.sum_(total, *gradients)  # type: ignore[arg-type]
    return {"loss": total, "gradients": gradients}


def _work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder / 'meeting'}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    workers = current_workers()
    results: dict[str, Any] = {f"{n} {c}": _step(n, c, workers) for n, c in CASES}
    rows = torch.full((rank + 1, 2), float(rank), requires_grad=True)
    found, first = gather_rows(rows, workers)
    (found.sum(1) * torch.tensor([1.0, 2.0, 4.0]) * (rank + 1)).sum().backward()
    results["gathered"] = (found.tolist(), first, rows.grad.tolist())  # type: ignore[union-attr]
    torch.save(results, folder / f"results-{rank}.pt")
    dist.destroy_process_group()


def launch(folder: Path) -> None:
    """Forked before anything is computed, so torch is loaded once."""
    torch.optim.Adam([torch.zeros(1)])
    multiprocessing.start_processes(_work, (folder,), 2, start_method="fork")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = launched("tests.unit.training.test_gather", tmp_path_factory.mktemp("gather"))
    return [torch.load(folder / f"results-{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize(("name", "chunk"), CASES)
def test_two_workers_equal_one(name: str, chunk: int | None, results: list[dict[str, Any]]) -> None:
    alone = _step(name, None, ALONE)
    for found in results:
        torch.testing.assert_close(found[f"{name} {chunk}"]["loss"], alone["loss"])
        for mine, theirs in zip(
            found[f"{name} {chunk}"]["gradients"], alone["gradients"], strict=True
        ):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_gradients_are_summed_over_workers(results: list[dict[str, Any]]) -> None:
    """Each row's weight is 1, 2, 4 in both workers, whose losses count once and twice."""
    for rank, first, gradients in ((0, 0, [[3.0, 3.0]]), (1, 1, [[6.0, 6.0], [12.0, 12.0]])):
        rows, place, own = results[rank]["gathered"]
        assert rows == [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]
        assert place == first
        assert own == gradients


def test_one_worker_keeps_its_rows() -> None:
    rows = torch.ones(3, 2)
    assert gather_rows(rows, ALONE) == (rows, 0)
