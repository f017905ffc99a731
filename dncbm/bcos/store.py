"""Trained networks on disk: weights, and how the network around them is built anew.

B-cos networks are artifacts of kind `bcos`, guided ones, B-cos or not, of kind `guided`.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dncbm.artifacts import (
    Manifest,
    create_artifact,
    load_manifest,
    read_json,
    verify_files,
    write_json,
)
from dncbm.bcos.convert import ConvertOptions, convert
from dncbm.bcos.inputs import ImageModel
from dncbm.bcos.models.zoo import create_model
from dncbm.bcos.originals import build_classifier
from dncbm.data.views import Views
from dncbm.errors import ArtifactError, ArtifactMismatch, InvalidInput

WEIGHTS = "model.safetensors"
HISTORY = "history.json"

Family = Literal["scratch", "torchvision", "timm", "encoder"]
NetworkKind = Literal["bcos", "guided"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Blueprint:
    """How a network is built, without its weights."""

    family: Family
    """`scratch`: one of ours, B-cos or its ordinary twin; `torchvision`, `timm`: theirs;
    `encoder`: an image tower."""
    name: str
    """Architecture, or what `--encoder` takes."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """For `create_model` or for the original's builder, such as `num_classes`."""
    conversion: Mapping[str, Any] | None = None
    """Fields of `ConvertOptions` where the network was B-cosified."""

    def build(self, original: nn.Module | None = None) -> nn.Module:
        """The network; images (n, 3, h, w) go in.

        Args:
            original: the image tower, for the family `encoder`. It is not changed.

        Raises:
            InvalidInput: the tower is missing.
        """
        if self.family == "scratch":
            made = create_model(self.name, **self.arguments)
            return ImageModel(made, encoding="inverse") if made.is_bcos else made
        if self.family == "encoder":
            if original is None:
                raise InvalidInput(
                    f"This network was made of the image tower of {self.name}, which is needed to "
                    "build it. Open it as an encoder: bcos:DIR."
                )
            network = deepcopy(original)
        else:
            network, _ = build_classifier(self.family, self.name, **self.arguments)
        if self.conversion is None:
            return network
        options = {**self.conversion, "b_mode": self._b_mode(), "check": False}
        return convert(network, ConvertOptions(**options))

    def _b_mode(self) -> str:
        """B has risen to its end once a network is stored."""
        mode = str((self.conversion or {}).get("b_mode", "fixed"))
        return "fixed" if mode == "annealed" else mode


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedBcos:
    """A stored network with its recipe."""

    network: nn.Module
    """Of images (n, 3, h, w) as `views` makes them; on the CPU, in evaluation mode."""
    views: Views
    classes: tuple[str, ...]
    """Class of each logit; empty for an encoder."""
    blueprint: Blueprint
    manifest: Manifest
    history: list[dict[str, Any]]


def save_bcos(  # noqa: PLR0913 - a network and all that tells what it is
    path: Path, network: nn.Module, blueprint: Blueprint, views: Views, *,
    classes: tuple[str, ...] = (), training: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None, metrics: Mapping[str, Any] | None = None,
    history: list[dict[str, Any]] | None = None, kind: NetworkKind = "bcos",
) -> Manifest:  # fmt: skip
    """Write an artifact of a network; returns its manifest.

    Args:
        path: directory to write, atomically.
        network: what `blueprint` builds, trained.
        blueprint: how to build it.
        views: the pixels that it takes.
        classes: names by logit.
        training: settings it was trained with, the seed included.
        inputs: fingerprints by role, for example `{"photos": ..., "teacher": ...}`.
        metrics: measurements on held-out photos.
        history: rows of the training.
        kind: of the artifact.

    Raises:
        Unavailable: the disk is full or not writable.
        InvalidInput: the weights are not finite.
    """
    state = network.state_dict()
    broken = sorted(name for name, tensor in state.items() if not torch.isfinite(tensor).all())
    if broken:
        raise InvalidInput(
            f"{len(broken)} weights are not finite numbers, such as {broken[0]}; the network will "
            "not be saved. Train it again with a lower learning rate."
        )
    config = {
        "blueprint": asdict(blueprint),
        "views": asdict(views),
        "classes": list(classes),
        "training": None if training is None else dict(training),
    }
    with create_artifact(path, kind, config=config, inputs=dict(inputs or {})) as draft:
        save_file(_packed(state), draft.path / WEIGHTS)
        write_json(draft.path / HISTORY, history or [])
        draft.metrics.update(metrics or {})
    return load_manifest(path, kind)


def load_bcos(
    path: Path, *, original: nn.Module | None = None, kind: NetworkKind = "bcos"
) -> LoadedBcos:
    """Read an artifact of a network.

    Args:
        path: directory.
        original: the image tower that it was made of, for an encoder's.
        kind: of the artifact.

    Raises:
        ArtifactError: not such an artifact, or damaged.
        ArtifactMismatch: its weights do not fit the network that is built.
        InvalidInput: an encoder's tower is needed.
    """
    manifest = load_manifest(path, kind)
    verify_files(path, manifest)
    config = manifest.config
    try:
        blueprint = Blueprint(**config["blueprint"])
        views = Views(**{k: _tuple(v) for k, v in config["views"].items()})
        weights = load_file(path / WEIGHTS)
    except (KeyError, TypeError, SafetensorError) as error:
        raise ArtifactError(f"{path} is damaged: {error}. Make it again.") from error
    network = blueprint.build(original)
    _fit(network, weights, path)
    return LoadedBcos(
        network=network.eval().requires_grad_(False), views=views,
        classes=tuple(config["classes"]), blueprint=blueprint, manifest=manifest,
        history=read_json(path / HISTORY),
    )  # fmt: skip


def blueprint_of(path: Path, kind: NetworkKind = "bcos") -> Blueprint:
    """How the network at `path` is built, without reading it."""
    return Blueprint(**load_manifest(path, kind).config["blueprint"])


def _fit(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    wrong = sorted(n for n in own.keys() | theirs.keys() if own.get(n) != theirs.get(n))
    if wrong:
        name = wrong[0]
        raise ArtifactMismatch(
            f"{len(wrong)} weights of {path} do not fit the network: {name} has shape "
            f"{theirs.get(name)} there and {own.get(name)} here. Use the dncbm, and for an "
            "encoder the tower, that it was made with."
        )
    network.load_state_dict(weights)


def _packed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies, as the format refuses tensors that share memory."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
