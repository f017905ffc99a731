"""The training loop: it learns, resumes exactly, and averages its weights."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from dncbm.errors import ArtifactMismatch, InvalidInput
from dncbm.training import checkpoints, seeding
from dncbm.training.loop import LoopConfig, Trainer
from dncbm.training.workers import ALONE, Workers, current_workers


class _Stop(Exception):
    """Stands for a kill."""


def _trainer(folder: Path, **changes: Any) -> Trainer:
    seeding.seed_everything(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    settings: dict[str, Any] = {
        "steps": 12,
        "warmup": 2,
        "checkpoint_every": 4,
        "log_every": 3,
    }
    config = LoopConfig(**(settings | changes))
    return Trainer(module, config, folder / "run.safetensors")


def _losses(trainer: Trainer, stop_at: int | None = None):  # type: ignore[no-untyped-def]
    def losses_of(step: int, draw: torch.Generator) -> dict[str, Tensor]:
        if step == stop_at:
            raise _Stop
        x = torch.randn(16, 4, generator=draw)
        return {"error": (trainer.module(x)[:, 0] - x.sum(1)).square().mean()}

    return losses_of


def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    """Stopped between two checkpoints and started again = never stopped, bit for bit."""
    whole = _trainer(tmp_path / "whole")
    whole.fit(_losses(whole))
    first = _trainer(tmp_path / "parts")
    with pytest.raises(_Stop):
        first.fit(_losses(first, stop_at=7))
    second = _trainer(tmp_path / "parts")
    second.fit(_losses(second))
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(tensor, second.module.state_dict()[name]), name
        assert torch.equal(whole.average[name], second.average[name]), name


def test_a_longer_run_goes_on_where_a_shorter_one_ended(tmp_path: Path) -> None:
    """The number of steps is the one thing that is changed on purpose."""
    short = _trainer(tmp_path)
    short.fit(_losses(short))
    longer = _trainer(tmp_path, steps=20)
    assert longer.resume()
    assert longer.step == 12


def test_a_checkpoint_of_another_seed_or_module_is_refused(tmp_path: Path) -> None:
    """Resuming would mix two runs; the message names file and difference."""
    first = _trainer(tmp_path)
    first.fit(_losses(first))
    with pytest.raises(ArtifactMismatch, match=r"run\.safetensors .* seed 0, this one has seed 1"):
        _trainer(tmp_path, seed=1).resume()
    for module, message in (
        (nn.Sequential(nn.Linear(4, 9)), r"its 0\.bias has shape \(8,\), this module's \(9,\)"),
        (nn.Sequential(nn.Linear(4, 8)), r"its 1\.bias has shape \(8,\), this module's None"),
    ):
        with pytest.raises(ArtifactMismatch, match=message):
            Trainer(module, LoopConfig(steps=2), first.checkpoint).resume()


def test_a_checkpoint_that_names_no_seed_is_resumed(tmp_path: Path) -> None:
    """Earlier ones did not write it down."""
    first = _trainer(tmp_path)
    first.fit(_losses(first))
    saved = checkpoints.load_checkpoint(first.checkpoint)
    assert saved is not None
    del saved[1]["seed"]
    checkpoints.save_checkpoint(first.checkpoint, *saved)
    assert _trainer(tmp_path, seed=1).resume()


def test_it_learns(tmp_path: Path) -> None:
    """The loss of a linear rule falls to a third and less."""
    seen: list[float] = []
    trainer = _trainer(tmp_path, steps=300, learning_rate=0.02)
    inner = _losses(trainer)

    def losses_of(step: int, draw: torch.Generator) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = inner(step, draw)
        seen.append(losses["error"].item())
        return losses

    trainer.fit(losses_of)
    assert sum(seen[-20:]) < sum(seen[:20]) / 3


def test_on_checkpoint_is_called_before_each_save(tmp_path: Path) -> None:
    """Every `checkpoint_every` steps and at the end."""
    steps: list[int] = []
    trainer = _trainer(tmp_path, steps=10)
    trainer.fit(_losses(trainer), steps.append)
    assert steps == [4, 8, 10]
    assert trainer.checkpoint.exists()


def test_the_average_lags_behind_and_counts_are_copied(tmp_path: Path) -> None:
    """Averages differ from the last weights; integer buffers do not."""
    trainer = _trainer(tmp_path)
    trainer.fit(_losses(trainer))
    state = trainer.module.state_dict()
    assert not torch.equal(trainer.average["0.weight"], state["0.weight"])
    assert torch.equal(trainer.average["1.num_batches_tracked"], state["1.num_batches_tracked"])


def test_norms_and_biases_have_no_weight_decay(tmp_path: Path) -> None:
    """Only weights with two or more axes decay."""
    groups = _trainer(tmp_path).optimizer.param_groups
    assert [g["weight_decay"] for g in groups] == [0.05, 0.0]
    assert {p.ndim for p in groups[0]["params"]} == {2}
    assert {p.ndim for p in groups[1]["params"]} == {1}


@pytest.mark.parametrize(
    ("change", "message"),
    [({"steps": 0}, "at least 1"), ({"average_decay": 1.0}, r"average_decay lies in \[0, 1\)")],
)
def test_bad_settings_are_refused(change: dict[str, float], message: str) -> None:
    """The message names the rule and the value."""
    with pytest.raises(InvalidInput, match=message):
        LoopConfig(**({"steps": 5} | change))  # type: ignore[arg-type]


@pytest.mark.parametrize("clipping", [None, 0.01])
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_every_choice_resumes_exactly(
    tmp_path: Path, clipping: float | None, optimizer: str
) -> None:
    """Weights, optimizer and history of a killed and an uninterrupted run are equal bits."""
    choices: dict[str, Any] = {"adaptive_clipping": clipping, "optimizer": optimizer}
    whole = _trainer(tmp_path / "whole", **choices)
    rows = whole.fit(_losses(whole))
    first = _trainer(tmp_path / "parts", **choices)
    with pytest.raises(_Stop):
        first.fit(_losses(first, stop_at=10))
    second = _trainer(tmp_path / "parts", **choices)
    assert second.fit(_losses(second)) == rows
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(tensor, second.module.state_dict()[name]), name


def test_the_history_has_a_row_per_interval(tmp_path: Path) -> None:
    """Step, mean losses and the rate; the mean is that of the updates since the row before."""
    seen: list[float] = []
    trainer = _trainer(tmp_path, steps=7)
    inner = _losses(trainer)

    def losses_of(step: int, draw: torch.Generator) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = inner(step, draw)
        seen.append(losses["error"].item())
        return losses

    rows = trainer.fit(losses_of)
    assert [row["step"] for row in rows] == [3, 6, 7]
    assert [row["error"] for row in rows] == pytest.approx(
        [sum(seen[:3]) / 3, sum(seen[3:6]) / 3, seen[6]]
    )
    assert rows[0]["learning_rate"] > rows[-1]["learning_rate"] > 0


def test_figures_of_checkpoints_are_rows_and_are_resumed(tmp_path: Path) -> None:
    """What was measured at a checkpoint is in it."""
    trainer = _trainer(tmp_path, steps=8, log_every=8)
    trainer.fit(_losses(trainer), lambda step: {"accuracy": step / 10})
    again = _trainer(tmp_path, steps=8)
    rows = again.fit(_losses(again))
    assert [row.get("accuracy") for row in rows] == [0.4, None, 0.8]


def test_callbacks_come_before_each_update_and_progress_after(tmp_path: Path) -> None:
    """A value that is annealed is set before the step that uses it."""
    steps: list[int] = []
    told: list[tuple[str, int, int]] = []
    trainer = _trainer(tmp_path, steps=3)
    trainer.fit(_losses(trainer), on_step=steps.append, progress=lambda *a: told.append(a))
    assert steps == [0, 1, 2]
    assert told == [("train", done, 3) for done in range(4)]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run_before_it_spoils_weights(
    tmp_path: Path, value: float
) -> None:
    """The message names step and loss; the weights are those before the step."""
    trainer = _trainer(tmp_path)
    inner = _losses(trainer)
    before: dict[str, Tensor] = {}

    def losses_of(step: int, draw: torch.Generator) -> dict[str, Tensor]:
        if step == 5:
            before.update({k: v.detach().clone() for k, v in trainer.module.named_parameters()})
        return {"error": inner(step, draw)["error"] * (value if step == 5 else 1.0)}

    with pytest.raises(InvalidInput, match=r"step 5: error is (nan|inf), which is not a finite"):
        trainer.fit(losses_of)
    for name, tensor in trainer.module.named_parameters():
        assert torch.equal(tensor, before[name]), name


def test_a_checkpoint_of_another_purpose_is_refused(tmp_path: Path) -> None:
    """Other data under the same file name would mix two runs."""
    first = _trainer(tmp_path, steps=2)
    first.purpose = "these photos"
    first.fit(_losses(first))
    with pytest.raises(ArtifactMismatch, match="other data or with other settings"):
        _trainer(tmp_path, steps=2).resume()


def test_the_averaged_module_is_restored(tmp_path: Path) -> None:
    """Averaged weights and eval mode inside; own weights and the mode of each part behind."""
    trainer = _trainer(tmp_path)
    trainer.fit(_losses(trainer))
    parts = list(trainer.module.children())
    parts[1].eval()  # a part that is frozen
    own = {name: tensor.clone() for name, tensor in trainer.module.state_dict().items()}
    with trainer.averaged() as module:
        assert not any(part.training for part in module.modules())
        assert torch.equal(module.state_dict()["0.weight"], trainer.average["0.weight"])
    assert [part.training for part in parts] == [True, False, True]
    for name, tensor in trainer.module.state_dict().items():
        assert torch.equal(tensor, own[name]), name


def test_decay_can_be_chosen_by_name(tmp_path: Path) -> None:
    """Biases alone decay, say."""
    trainer = Trainer(
        nn.Linear(2, 2), LoopConfig(steps=1), tmp_path / "run.safetensors",
        decay_of=lambda name, _: 0.5 if name == "bias" else 0.0,
    )  # fmt: skip
    assert [(g["weight_decay"], len(g["params"])) for g in trainer.optimizer.param_groups] == [
        (0.5, 1),
        (0.0, 1),
    ]


def _work(rank: int, size: int, folder: Path) -> None:
    """What each worker does: a share of every batch, resumed in the middle."""
    torch.set_num_threads(1)
    meeting = f"file://{folder / 'meeting'}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
    torch.save(_shared_run(folder, current_workers()), folder / f"{rank}.pt")
    dist.destroy_process_group()


def _shared_run(folder: Path, workers: Workers) -> dict[str, Any]:
    """Two short runs of a network without batch norms, and one step of one with them."""
    torch.manual_seed(workers.rank)  # the first worker's weights count
    module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    for steps in (5, 12):
        config = LoopConfig(
            steps=steps, warmup=2, log_every=3, checkpoint_every=5, adaptive_clipping=0.05
        )
        trainer = Trainer(module, config, folder / "run.safetensors", workers=workers)
        trainer.fit(lambda step, draw: _share_of_loss(module, workers, draw))
    norm = nn.BatchNorm1d(4).double()
    config = LoopConfig(steps=1, average_decay=0.0)
    Trainer(norm, config, folder / "norm.safetensors", workers=workers).fit(
        lambda step, draw: _share_of_loss(norm, workers, draw)
    )
    return {
        "module": module.state_dict(),
        "history": trainer.history,
        "mean": norm.running_mean,
        "written": [(folder / f"{name}.safetensors").exists() for name in ("run", "norm")],
    }


def _share_of_loss(module: nn.Module, workers: Workers, draw: torch.Generator) -> dict[str, Tensor]:
    rows = torch.randn(15, 4, generator=draw, dtype=torch.float64)
    x = rows[workers.share(torch.arange(15))]
    return {"error": (module(x)[:, 0] - x.sum(1)).square().sum() / 15}


def test_two_workers_train_as_one(tmp_path: Path) -> None:
    """Same batch, same weights and history, and one who writes; averaged batch norms."""
    if not dist.is_available() or not dist.is_gloo_available() or sys.platform != "linux":
        pytest.skip("needs torch.distributed with gloo, and processes that fork")
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    alone = _shared_run(tmp_path / "one", ALONE)
    root = str(Path(__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": root, "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-c", LAUNCH, str(tmp_path / "two")]
    done = subprocess.run(
        command, env=environment, cwd=root, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [torch.load(tmp_path / "two" / f"{i}.pt", weights_only=False) for i in range(2)]
    for one in found:
        for name, tensor in alone["module"].items():
            torch.testing.assert_close(one["module"][name], tensor, rtol=1e-9, atol=1e-12)
        for mine, theirs in zip(one["history"], alone["history"], strict=True):
            assert mine == pytest.approx(theirs, rel=1e-9)
        assert torch.equal(one["mean"], found[0]["mean"])
    # shares of 8 and 7 rows count the same, so the mean is near that of all rows, not equal
    torch.testing.assert_close(found[0]["mean"], alone["mean"], rtol=0, atol=0.02)


LAUNCH = """
import sys
from pathlib import Path
import torch
import torch.multiprocessing as multiprocessing
from tests.unit.training.test_loop import _work
torch.optim.Adam([torch.zeros(1)])  # loads torch's compiler before the fork
multiprocessing.start_processes(_work, (2, Path(sys.argv[1])), 2, start_method="fork")
"""
