"""Checkpoints: whole or absent, exact, and readable without pickle."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dncbm.errors import InvalidInput
from dncbm.training import checkpoints


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    """Dtypes, shapes (also scalars and views) and nested state come back equal."""
    table = torch.arange(6.0).view(2, 3)
    tensors = {
        "a": table,
        "view": table.T,
        "scalar": torch.tensor(3, dtype=torch.int64),
        "half": torch.ones(2, dtype=torch.float16),
    }
    state = {"step": 7, "rate": 0.1, "list": [1, None, "x"], "nested": {"k": True}}
    checkpoints.save_checkpoint(tmp_path / "deep" / "run.safetensors", tensors, state)
    loaded = checkpoints.load_checkpoint(tmp_path / "deep" / "run.safetensors")
    assert loaded is not None
    assert loaded[1] == state
    assert loaded[0].keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[0][name].dtype == tensor.dtype
        assert torch.equal(loaded[0][name], tensor)


def test_no_file_is_none(tmp_path: Path) -> None:
    assert checkpoints.load_checkpoint(tmp_path / "absent.safetensors") is None


@pytest.mark.parametrize("victim", ["save_file", "sync"])
def test_a_failed_save_keeps_the_last_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    """Disk full while writing or flushing: the former checkpoint stays, no temporary file."""
    path = tmp_path / "run.safetensors"
    checkpoints.save_checkpoint(path, {"x": torch.zeros(2)}, {"step": 1})

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, victim, fail)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save_checkpoint(path, {"x": torch.ones(2)}, {"step": 2})
    monkeypatch.undo()
    loaded = checkpoints.load_checkpoint(path)
    assert loaded is not None
    assert loaded[1] == {"step": 1}
    assert os.listdir(tmp_path) == ["run.safetensors"]


def test_others_may_read_a_checkpoint(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        checkpoints.save_checkpoint(tmp_path / "c", {"x": torch.zeros(2)}, {})
    finally:
        os.umask(before)
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o644


_KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
import torch
from dncbm.training import checkpoints

def half_a_file(tensors, path, metadata):
    whole(tensors, path, metadata=metadata)
    os.truncate(path, Path(path).stat().st_size // 2)
    os.kill(os.getpid(), signal.SIGKILL)

whole, checkpoints.save_file = checkpoints.save_file, half_a_file
checkpoints.save_checkpoint(sys.argv[1], {"a": torch.ones(1000)}, {"step": 2})
"""


def test_a_kill_in_the_middle_of_a_write_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    checkpoints.save_checkpoint(path, {"a": torch.zeros(1000)}, {"step": 1})
    killed = subprocess.run([sys.executable, "-c", _KILLED_WHILE_WRITING, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    loaded = checkpoints.load_checkpoint(path)
    assert loaded is not None
    assert loaded[1] == {"step": 1}
    assert torch.equal(loaded[0]["a"], torch.zeros(1000))


def test_a_state_that_is_no_json_is_refused_before_anything_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    with pytest.raises(TypeError):
        checkpoints.save_checkpoint(path, {}, {"bad": object()})
    assert os.listdir(tmp_path) == []


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    """The message says which file and what to do."""
    path = tmp_path / "run.safetensors"
    path.write_bytes(b"no safetensors")
    with pytest.raises(InvalidInput, match=r"run\.safetensors cannot be read .* Delete it"):
        checkpoints.load_checkpoint(path)


def test_foreign_safetensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(InvalidInput, match="no checkpoint of dncbm"):
        checkpoints.load_checkpoint(path)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_restored_optimizer_goes_on_exactly(tmp_path: Path, kind: str) -> None:
    """Three steps, save, load into fresh objects, three more = six steps, bit for bit."""
    model, optimizer = _fresh(kind)
    _train(model, optimizer, range(3))
    tensors, state = checkpoints.flatten_optimizer(optimizer)
    tensors |= {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    checkpoints.save_checkpoint(tmp_path / "c", tensors, {"optimizer": state})
    _train(model, optimizer, range(3, 6))

    loaded = checkpoints.load_checkpoint(tmp_path / "c")
    assert loaded is not None
    again, its_optimizer = _fresh(kind)
    again.load_state_dict({k[6:]: v for k, v in loaded[0].items() if k.startswith("model.")})
    checkpoints.restore_optimizer(its_optimizer, loaded[0], loaded[1]["optimizer"])
    _train(again, its_optimizer, range(3, 6))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_restored_state_lies_as_its_parameter_does(tmp_path: Path) -> None:
    """Fused updates walk both in memory order: with another order weights get others' state."""

    def updated(checkpoint: bool) -> torch.Tensor:
        torch.manual_seed(0)
        layer = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.1, fused=True)
        for step in range(2):
            x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            layer(x).square().sum().backward()
            if step and checkpoint:
                tensors, state = checkpoints.flatten_optimizer(optimizer)
                checkpoints.save_checkpoint(tmp_path / "run.safetensors", tensors, state)
                saved = checkpoints.load_checkpoint(tmp_path / "run.safetensors")
                assert saved is not None
                checkpoints.restore_optimizer(optimizer, *saved)
            optimizer.step()
        return layer.weight.detach()

    assert torch.equal(updated(True), updated(False))


def test_flattened_state_is_plain_json() -> None:
    model, optimizer = _fresh("adamw")
    _train(model, optimizer, range(1))
    _, state = checkpoints.flatten_optimizer(optimizer)
    assert json.loads(json.dumps(state))["param_groups"][0]["lr"] == 0.1


def test_how_an_update_is_computed_is_not_taken_from_the_file() -> None:
    """A checkpoint of fused kernels resumes on a machine that has none, and the other way."""
    fused = torch.optim.AdamW([nn.Parameter(torch.zeros(2, 2))], lr=0.1, fused=True)
    tensors, state = checkpoints.flatten_optimizer(fused)
    plain = torch.optim.AdamW([nn.Parameter(torch.zeros(2, 2))], lr=0.3)
    checkpoints.restore_optimizer(plain, tensors, state)
    assert plain.param_groups[0]["lr"] == 0.1
    assert not plain.param_groups[0]["fused"]


def test_another_models_optimizer_state_is_refused() -> None:
    """Two parameters do not fit one."""
    _, state = checkpoints.flatten_optimizer(_fresh("sgd")[1])
    other = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(InvalidInput, match="does not fit"):
        checkpoints.restore_optimizer(other, {}, state)


def _fresh(kind: str) -> tuple[nn.Linear, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    if kind == "sgd":
        return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return model, torch.optim.AdamW(model.parameters(), lr=0.1, amsgrad=True)


def _train(model: nn.Linear, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
