"""Checkpoints: one safetensors file, written whole or not at all, never pickled.

Tensors are the file's tensors; everything else is JSON in its metadata. A process that is
killed at any moment leaves either the previous checkpoint or the new one.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dncbm.errors import InvalidInput
from dncbm.files import hidden, sync

JSON = Any
"""What ``json.dumps`` takes: None, bool, int, float, str, and lists and dicts of these."""

_STATE_KEY = "dncbm_state"
_OWN_CHOICES = ("fused", "foreach")


def save_checkpoint(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], state: Mapping[str, JSON]
) -> None:
    """Replace the checkpoint at ``path`` by ``tensors`` and ``state``, atomically and durably."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # safetensors refuses tensors that share memory; a clone also detaches and packs views.
    packed = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    temporary = hidden(target, "part")
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        save_file(packed, temporary, metadata={_STATE_KEY: json.dumps(dict(state))})
        temporary.chmod(mode)  # safetensors leaves a file that its owner alone can read
        sync(temporary)
        os.replace(temporary, target)
        sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(
    path: str | os.PathLike[str],
) -> tuple[dict[str, Tensor], dict[str, JSON]] | None:
    """The tensors (on the CPU) and the state last saved at ``path``; None if it is absent."""
    target = Path(path)
    if not target.exists():
        return None
    try:
        with safe_open(str(target), framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InvalidInput(
            f"{target} cannot be read as a checkpoint ({error}). Delete it to start anew."
        ) from error
    if _STATE_KEY not in metadata:
        raise InvalidInput(
            f"{target} is a safetensors file, but no checkpoint of dncbm: "
            f"its metadata lacks {_STATE_KEY!r}."
        )
    return tensors, json.loads(metadata[_STATE_KEY])


def flatten_optimizer(
    optimizer: torch.optim.Optimizer, prefix: str = "optimizer"
) -> tuple[dict[str, Tensor], dict[str, JSON]]:
    """The optimizer's state as flat tensors and JSON, ready for :func:`save_checkpoint`.

    How the update is computed (fused, foreach) is the process's own choice and is left out.
    Tensor names are ``{prefix}.{parameter index}.{field}``; the JSON holds the parameter
    groups and every state field that is no tensor.
    """
    full = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, dict[str, JSON]] = {}
    for index, fields in full["state"].items():
        for field, value in fields.items():
            if isinstance(value, Tensor):
                tensors[f"{prefix}.{index}.{field}"] = value
            else:
                scalars.setdefault(str(index), {})[field] = value
    groups = [
        {key: value for key, value in group.items() if key not in _OWN_CHOICES}
        for group in full["param_groups"]
    ]
    return tensors, {"param_groups": groups, "scalars": scalars}


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, JSON],
    prefix: str = "optimizer",
) -> None:
    """Give ``optimizer`` the state that :func:`flatten_optimizer` took; inverse of it.

    ``tensors`` may hold others beside the optimizer's own: only names under ``prefix`` count.
    """
    fields: dict[int, dict[str, Any]] = {
        int(index): dict(values) for index, values in state["scalars"].items()
    }
    for name, tensor in tensors.items():
        if name.startswith(f"{prefix}."):
            index, field = name[len(prefix) + 1 :].split(".", 1)
            fields.setdefault(int(index), {})[field] = tensor
    own = [{key: group.get(key) for key in _OWN_CHOICES} for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict({"state": fields, "param_groups": state["param_groups"]})
    except ValueError as error:
        raise InvalidInput(
            f"The checkpoint's optimizer state does not fit this optimizer: {error}."
        ) from error
    for group, choices in zip(optimizer.param_groups, own, strict=True):
        group.update(choices)
        for parameter in group["params"]:
            _lay_out(optimizer.state[parameter], parameter)


def _lay_out(state: dict[str, Any], parameter: Tensor) -> None:
    """Give state the parameter's memory format: fused updates go through both as they lie.

    A file holds packed rows, and PyTorch takes channels-last weights beside them for the same
    order, which updates each weight with another one's state.
    """
    for field, value in state.items():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            laid = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False)
            state[field] = laid.copy_(value)
