"""Encoders that were trained here: an image tower on disk, its pixels, and whose texts go with it.

One kind of artifact, `encoder`, for students of a teacher and for what contrastive training made.
It is opened as an encoder by `trained:DIR`, or by DIR alone. The text tower is a reference to an
encoder, with weights of its own where they were trained too; without one there are no texts.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import open_clip
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dncbm.artifacts import (
    MANIFEST,
    Manifest,
    create_artifact,
    load_manifest,
    verify_files,
    write_json,
)
from dncbm.bcos.inputs import ImageModel
from dncbm.bcos.models.network import Network
from dncbm.bcos.store import HISTORY, WEIGHTS, Blueprint, fit, packed, require_finite
from dncbm.encoders.adapter import AdaptedTower
from dncbm.encoders.spec import MINI, parse_spec
from dncbm.errors import ArtifactError, ArtifactMismatch

ENCODER: Final = "encoder"
"""Kind of the artifact, and its name within a directory."""
TRAINED: Final = "trained"
"""Scheme of such encoders."""
TEXTS = "texts.safetensors"
_NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}
"""The smallest text tower that open_clip builds beside an image tower."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextTower:
    """Whose texts lie in the space of the images."""

    encoder: str
    """As `--encoder` takes it."""
    fingerprint: str
    """Of that encoder; another one is refused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedTower:
    """What an `encoder` artifact holds."""

    tower: nn.Module
    """Pixels (n, 3, h, w) to embeddings (n, d); on the CPU, in evaluation mode."""
    embed_dim: int
    preprocess: dict[str, Any]
    """As open_clip has it: size, mean, std, interpolation, resize mode, fill colour, mode."""
    text: TextTower | None
    text_weights: dict[str, Tensor] | None
    """Of everything but the image tower, where they differ from those of `text`."""
    manifest: Manifest


def build_tower(blueprint: Blueprint, embed_dim: int) -> nn.Module:
    """An image tower without trained weights: images (n, 3, h, w) to embeddings (n, d).

    Args:
        blueprint: of the family `encoder` for an image tower of open_clip, named by architecture
            or as `--encoder` takes it (with the argument `adapter`, an adapter of that hidden width
            behind it), else of a classifier whose classes are the d axes.
        embed_dim: d.

    Raises:
        UnknownName: no such architecture.
    """
    if blueprint.family == "encoder":
        tower = blueprint.build(_architecture(blueprint.name, embed_dim))
        hidden = blueprint.arguments.get("adapter")
        return tower if hidden is None else AdaptedTower(tower, embed_dim, int(hidden))
    tower = blueprint.build()
    network = tower.network if isinstance(tower, ImageModel) else tower
    if isinstance(network, Network):
        network.logit_layer.bias = None  # an axis is no yes-or-no question
    return tower


def _architecture(name: str, embed_dim: int) -> nn.Module:
    """The image tower of an architecture, with random weights; texts are not built."""
    known = name != MINI and name.replace("/", "-") in open_clip.list_models()
    spec = None if known else parse_spec(name)
    model_name = name.replace("/", "-") if spec is None else spec.model_name
    config = open_clip.get_model_config(model_name)
    recipe = {}
    if spec is not None and spec.recipe is not None:
        recipe = open_clip.get_pretrained_cfg(spec.model_name, spec.recipe)
    model = open_clip.CLIP(
        embed_dim, config["vision_cfg"] | {"timm_model_pretrained": False}, _NO_TEXT,
        quick_gelu=bool(recipe.get("quick_gelu") or config.get("quick_gelu")),
    )  # fmt: skip
    return model.visual


def save_encoder(  # noqa: PLR0913 - a tower and all that tells what it is
    path: Path, tower: nn.Module, blueprint: Blueprint, *, embed_dim: int,
    preprocess: Mapping[str, Any], text: TextTower | None = None,
    text_weights: Mapping[str, Tensor] | None = None, training: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None, metrics: Mapping[str, Any] | None = None,
    history: list[dict[str, Any]] | None = None,
) -> Manifest:  # fmt: skip
    """Write an `encoder` artifact; returns its manifest.

    Args:
        path: directory to write, atomically.
        tower: what `build_tower` makes of the blueprint, trained.
        blueprint: how to build it.
        embed_dim: width of its embeddings.
        preprocess: see `TrainedTower`.
        text: whose texts lie in the same space; None for images alone.
        text_weights: of that encoder's model but its `visual`, where they were trained too.
        training: settings it was trained with, the seed included.
        inputs: fingerprints by role, such as `{"photos": ..., "teacher": ...}`.
        metrics: measurements on held-out photos.
        history: rows of the training.

    Raises:
        Unavailable: the disk is full or not writable.
        InvalidInput: the weights are not finite.
    """
    state = tower.state_dict()
    require_finite({**state, **(text_weights or {})})
    config = {
        "blueprint": asdict(blueprint), "embed_dim": embed_dim, "preprocess": dict(preprocess),
        "text": None if text is None else asdict(text),
        "training": None if training is None else dict(training),
    }  # fmt: skip
    with create_artifact(path, ENCODER, config=config, inputs=dict(inputs or {})) as draft:
        save_file(packed(state), draft.path / WEIGHTS)
        if text_weights is not None:
            save_file(packed(text_weights), draft.path / TEXTS)
        write_json(draft.path / HISTORY, history or [])
        draft.metrics.update(metrics or {})
    return load_manifest(path, ENCODER)


def load_tower(path: Path) -> TrainedTower:
    """Read an `encoder` artifact.

    Raises:
        ArtifactError: not such an artifact, or damaged.
        ArtifactMismatch: its weights do not fit the tower that is built.
    """
    manifest = load_manifest(path, ENCODER)
    verify_files(path, manifest)
    config = manifest.config
    try:
        blueprint = Blueprint(**config["blueprint"])
        text = None if config["text"] is None else TextTower(**config["text"])
        embed_dim, preprocess = int(config["embed_dim"]), dict(config["preprocess"])
        weights = load_file(path / WEIGHTS)
        texts = load_file(path / TEXTS) if (path / TEXTS).is_file() else None
    except (KeyError, TypeError, SafetensorError) as error:
        raise ArtifactError(f"{path} is damaged: {error}. Make it again.") from error
    with torch.random.fork_rng(devices=[]):  # random weights, of no use
        tower = build_tower(blueprint, embed_dim)
    fit(tower, weights, path)
    return TrainedTower(
        tower=tower.eval().requires_grad_(False), embed_dim=embed_dim, preprocess=preprocess,
        text=text, text_weights=texts, manifest=manifest,
    )  # fmt: skip


def trained_folder(spec: str) -> Path | None:
    """Where the artifact lies that `trained:DIR` or DIR names; None for any other encoder."""
    scheme, _, rest = spec.partition(":")
    is_named = scheme == TRAINED and bool(rest)
    root = Path(rest if is_named else spec).expanduser()
    if spec == MINI:
        return None
    places = (root / ENCODER, root)
    found = [place for place in places if (place / MANIFEST).is_file()]
    return found[0] if found else root if is_named else None


class ImagesAlone(nn.Module):
    """An image tower in the place of a model, without texts."""

    def __init__(self, found: TrainedTower) -> None:
        super().__init__()
        self.visual, self.embed_dim = found.tower, found.embed_dim
        open_clip.set_model_preprocess_cfg(self, dict(found.preprocess))

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Embeddings (n, d) of pixels (n, 3, h, w)."""
        return self.visual(pixels)


def load_texts(model: nn.Module, weights: Mapping[str, Tensor], spec: str) -> None:
    """Give a model other weights beside those of its image tower `visual`.

    Raises:
        ArtifactMismatch: they are not those of its text tower.
    """
    own = {name for name in model.state_dict() if not name.startswith("visual.")}
    wrong = sorted(own ^ weights.keys())
    if wrong:
        raise ArtifactMismatch(
            f"{len(wrong)} text weights of {spec} do not fit its text tower, such as {wrong[0]}. "
            "Make it again."
        )
    model.load_state_dict(dict(weights), strict=False)
