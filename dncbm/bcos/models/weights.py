"""Trained weights from a file or a URL that the user names."""

import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TypeVar
from urllib.error import URLError
from urllib.parse import urlparse
from zipfile import BadZipFile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dncbm.bcos.inputs import ImageModel
from dncbm.bcos.layers import BcosConv2d, BcosLinear
from dncbm.errors import InvalidInput, Unavailable

M = TypeVar("M", bound=nn.Module)
State = Mapping[str, Tensor]

_PREFIXES = ("", "model.", "model.model.", "module.", "network.", "ema.module.")
"""Under which trainers keep a network: bare, Lightning's, B-cosification's, DDP's, an
`ImageModel`'s, a moving average."""
_SHOWN = 3


def load_weights(model: M, source: str | Path, *, progress: bool = True) -> M:
    """Fill a network, in place, with the weights of a checkpoint; all of them or none.

    Takes the files of B-cos v2 as they are, checkpoints of trainers (weights under `state_dict` or
    `model`, with a prefix), and names without the level `.linear.`. Nothing in a file is executed.
    A network made on torch's `meta` device takes over the tensors of the file.

    Args:
        model: from `create_model`, or an `ImageModel` of one.
        source: a `.pth`, `.pt`, `.ckpt` or `.safetensors` file, or an http(s) URL of one, which is
            kept in torch's cache; a hash at the end of its name (`resnet_18-68b4160fff.pth`) is
            checked.
        progress: show how a download gets on.

    Returns:
        The model itself.

    Raises:
        InvalidInput: no such file, no weights in it, or weights of another network.
        Unavailable: the URL cannot be fetched.
    """
    network = model.network if isinstance(model, ImageModel) else model
    path = _fetched(str(source), progress) if _is_url(source) else Path(source)
    state = _named(network, _read(path), str(source))
    network.load_state_dict(state, assign=next(network.parameters()).is_meta)
    return model


def _is_url(source: str | Path) -> bool:
    return isinstance(source, str) and urlparse(source).scheme in ("http", "https")


def _fetched(url: str, progress: bool) -> Path:
    """The file behind a URL, downloaded once."""
    name = Path(urlparse(url).path).name
    if not name:
        raise InvalidInput(f"The URL {url!r} names no file; the rule is the address of one.")
    target = Path(torch.hub.get_dir()) / "checkpoints" / name
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = re.search(r"-([0-9a-f]{8,64})\.\w+$", name)
    try:
        torch.hub.download_url_to_file(
            url, str(target), hash_prefix=digest and digest[1], progress=progress
        )
    except (URLError, OSError, RuntimeError) as error:
        raise Unavailable(
            f"{url} cannot be fetched: {error}. Download it yourself and give the file."
        ) from error
    return target


def _read(path: Path) -> State:
    """What a file holds, without running any code of it."""
    if not path.is_file():
        raise InvalidInput(
            f"There is no file {str(path)!r}; the rule is a checkpoint or an http(s) URL of one."
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (
        UnpicklingError,
        SafetensorError,
        BadZipFile,
        RuntimeError,
        EOFError,
        ValueError,
    ) as error:
        first = str(error).strip().partition("\n")[0]
        raise InvalidInput(
            f"{str(path)!r} cannot be read as weights alone: {first} The rule is a state dict of "
            "tensors, saved by torch.save or safetensors. Save model.state_dict() anew."
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not any(isinstance(v, Tensor) for v in found.values()):
        raise InvalidInput(f"{str(path)!r} holds no state dict; the rule is tensors by name.")
    return {key: value for key, value in found.items() if isinstance(value, Tensor)}


def _named(network: nn.Module, state: State, source: str) -> dict[str, Tensor]:
    """The weights by the network's own names."""
    wanted = network.state_dict()
    aliases = _flat_names(network)
    readings = []
    for prefix in _PREFIXES:
        inner = {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
        # a flat name can be another layer's full one
        readings.append(
            {key if key in wanted else aliases.get(key, key): inner[key] for key in inner}
        )
    best = max(readings, key=lambda found: len(found.keys() & wanted.keys()))
    _require_same(network, wanted, best, source)
    return best


def _flat_names(network: nn.Module) -> dict[str, str]:
    """`conv1.weight` for `conv1.linear.weight`."""
    layers = [n for n, m in network.named_modules() if isinstance(m, BcosConv2d | BcosLinear)]
    return {f"{n}.{kind}": f"{n}.linear.{kind}" for n in layers for kind in ("weight", "bias")}


def _require_same(network: nn.Module, wanted: State, found: State, source: str) -> None:
    shapes = {
        key: f"{key} {tuple(found[key].shape)} for {tuple(wanted[key].shape)}"
        for key in wanted
        if key in found and found[key].shape != wanted[key].shape
    }
    faults = {
        "missing": [key for key in wanted if key not in found],
        "unexpected": [key for key in found if key not in wanted],
        "of another shape": list(shapes.values()),
        "not finite": [key for key, value in found.items() if not value.isfinite().all()],
    }
    told = [f"{len(keys)} {fault} ({_some(keys)})" for fault, keys in faults.items() if keys]
    if told:
        raise InvalidInput(
            f"The weights of {source} are not those of this {type(network).__name__}: "
            f"{'; '.join(told)}. The rule is finite tensors of the same names and shapes. "
            f"{_advice(network, shapes)}"
        )


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:_SHOWN]) + (", …" if len(keys) > _SHOWN else "")


def _advice(network: nn.Module, shapes: Mapping[str, str]) -> str:
    head = getattr(network, "head_path", None)
    if head is not None and shapes and all(key.startswith(f"{head}.") for key in shapes):
        return (
            "Only the head differs: create the network with the number of classes of the file, "
            "load, then call replace_head."
        )
    return "Create the network by the name, in_chans and options it was trained with."
