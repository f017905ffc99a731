"""The training loop: it learns, resumes exactly, and averages its weights."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dncbm.contrastive.train import LoopConfig, Trainer
from dncbm.errors import ArtifactMismatch, InvalidInput
from dncbm.training import checkpoints, seeding


class _Stop(Exception):
    """Stands for a kill."""


def _trainer(folder: Path, **changes: int | float) -> Trainer:
    seeding.seed_everything(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    settings: dict[str, int | float] = {
        "steps": 12,
        "warmup": 2,
        "checkpoint_every": 4,
        "log_every": 3,
    }
    config = LoopConfig(**(settings | changes))  # type: ignore[arg-type]
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


def test_on_checkpoint_is_called_after_each_save(tmp_path: Path) -> None:
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
