"""What contrastive training on images and on pairs share: photos, shifts, figures at the end."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from dncbm.artifacts import fingerprint
from dncbm.contrastive.clusters import cluster_sizes
from dncbm.contrastive.config import PretrainConfig
from dncbm.contrastive.evaluate import evaluate
from dncbm.contrastive.longtail import exponential_rows
from dncbm.contrastive.networks import ViewsNetwork
from dncbm.contrastive.recipe import PAIRS, PretrainRecipe
from dncbm.contrastive.temperature import size_shifts
from dncbm.contrastive.train import features, labelled, spread
from dncbm.data.captions import CaptionedPhotos
from dncbm.data.pixels import Pixels, decoded
from dncbm.data.sources import ImageSource
from dncbm.data.views import Views
from dncbm.encoders.clip import Encoder, load_encoder
from dncbm.encoders.preprocess import Preprocess
from dncbm.encoders.trained import ENCODER
from dncbm.encoders.untrained import SCRATCH
from dncbm.errors import InvalidInput
from dncbm.training.loop import Row
from dncbm.training.photos import Photos, Run
from dncbm.training.progress import Progress
from dncbm.training.workers import current_workers
from pipelines.embed import split_records
from pipelines.workspace import Workspace

_STAGE: Final = "pretrain"
_STATISTICS: dict[str, Any] = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
_MOST_PROBED = 10_000
"""Training photos, evenly spaced, that the figures at the end are measured on at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What a training runs on."""

    recipe: PretrainRecipe
    config: PretrainConfig
    workspace: Workspace
    source: ImageSource
    device: str
    progress: Progress

    @property
    def path(self) -> Path:
        """The artifact."""
        return self.workspace.root / ENCODER

    @property
    def choices(self) -> dict[str, Any]:
        """What decides the result besides the inputs."""
        recipe = self.recipe
        return {
            **asdict(self.config), "model": recipe.named_model(self.config), "size": recipe.size,
            "long_tail": recipe.long_tail, "network": dict(recipe.network),
            "split_seed": recipe.seed,
        }  # fmt: skip

    def run(self, inputs: Mapping[str, str]) -> Run:
        """Where training resumes."""
        mark = fingerprint([self.choices, dict(inputs)])
        return Run(
            checkpoint=self.workspace.checkpoint(f"{_STAGE}-{mark[:12]}"), device=self.device,
            purpose=mark, progress=self.progress,
        )  # fmt: skip


def square_pixels(size: int) -> dict[str, Any]:
    """The pixels of a new tower: the middle square, ImageNet's statistics."""
    return {
        "size": size, "mode": "RGB", "interpolation": "bicubic", "resize_mode": "shortest",
        "fill_color": 0, **_STATISTICS,
    }  # fmt: skip


def views_of(
    config: PretrainConfig, preprocess: Mapping[str, Any], recipe: PretrainRecipe
) -> Views:
    """Crops of the pixels that the model takes.

    Raises:
        InvalidInput: another size is asked for, or they are not square.
    """
    size = preprocess["size"]
    sizes = {size} if isinstance(size, int) else set(size)
    if len(sizes) > 1 or recipe.size not in (None, *sizes):
        raise InvalidInput(
            f"The model takes pixels of {size}, and no others. Leave --size out, or take another "
            "model."
        )
    statistics = {name: tuple(preprocess[name]) for name in ("mean", "std")}
    return config.views(sizes.pop(), **statistics)


def open_photos(
    setting: Setting, preprocess: Mapping[str, Any], captions: CaptionedPhotos | None = None
) -> Photos:
    """Decoded photos with training rows, long-tailed where that is asked for, and labels."""
    pixels = _decoded(setting, preprocess)
    rows = pixels.usable()
    if captions is not None:
        rows = rows[np.array([bool(captions.texts[row]) for row in rows], dtype=bool)]
    dealt = np.array(split_records(setting.source, setting.recipe.seed))
    train, held_out = (rows[dealt[rows] == name] for name in ("train", "test"))
    labels = _labels([record.label for record in pixels.records])
    if setting.recipe.long_tail is not None:
        if labels is None:
            raise InvalidInput("A long tail needs labels. Put each class into a folder.")
        chosen = exponential_rows(labels[train], setting.recipe.long_tail, seed=setting.recipe.seed)
        train = train[chosen]
    if labels is not None and captions is None:
        known = set(labels[train].tolist()) - {-1}
        held_out = held_out[np.isin(labels[held_out], sorted(known))]
    return Photos(images=pixels.images, train=train, held_out=held_out, labels=labels)


def _labels(names: Sequence[str | None]) -> np.ndarray | None:
    """Index of each photo's class, -1 where unknown; None for fewer than two classes."""
    classes = sorted({name for name in names if name is not None})
    if len(classes) < 2:
        return None
    index = {name: place for place, name in enumerate(classes)}
    return np.array([-1 if name is None else index[name] for name in names])


def _decoded(setting: Setting, preprocess: Mapping[str, Any]) -> Pixels:
    """The photos at the tower's size; the first worker decodes, the others find them done."""
    size = preprocess["size"]
    how: dict[str, Any] = {
        "size": size if isinstance(size, int) else size[0],
        "resize": Preprocess(dict(preprocess)).resize, "geometry": dict(preprocess),
    }  # fmt: skip
    workers = current_workers()
    if workers.rank == 0:
        decoded(setting.source, setting.workspace.work, progress=setting.progress, **how)
    workers.smallest(torch.zeros((), device=setting.device))
    return decoded(setting.source, setting.workspace.work, **how)


def shifts_of_images(
    setting: Setting, network: ViewsNetwork, photos: Photos, views: Views, *, trained: bool
) -> torch.Tensor | None:
    """By clusters of what the starting tower says; None where no clusters are asked for.

    Raises:
        InvalidInput: the tower is not trained.
    """
    config = setting.config
    if not config.clusters:
        return None
    if not trained:
        raise InvalidInput(
            "clusters are of embeddings, and a new tower has none that mean anything. Give a "
            "trained encoder as --model, or leave clusters out."
        )
    found = features(network.tower.eval(), photos, photos.train, views, "cpu")
    return _shifts(setting, found, photos)


def shifts_of_texts(
    setting: Setting, encoder: Encoder, captions: CaptionedPhotos, photos: Photos
) -> torch.Tensor | None:
    """By clusters of the texts: those of the model, or of `mini` where it begins anew."""
    if not setting.config.clusters:
        return None
    is_new = encoder.spec.startswith(f"{SCRATCH}:")
    source = load_encoder(PAIRS, device="cpu", precision="fp32") if is_new else encoder
    found = source.encode_texts([captions.texts[row][0] for row in photos.train]).numpy()
    return _shifts(setting, found, photos)


def _shifts(setting: Setting, found: np.ndarray, photos: Photos) -> torch.Tensor:
    """A shift for each row of the photos; those that are not trained on have none."""
    config = setting.config
    sizes = cluster_sizes(found, config.clusters, seed=config.seed)
    shifts = torch.zeros(len(photos.images))
    shifts[torch.from_numpy(photos.train)] = size_shifts(
        sizes.tolist(), config.rare, config.frequent
    )
    return shifts


def final_metrics(
    tower: nn.Module, photos: Photos, views: Views, setting: Setting, history: list[Row]
) -> Row:
    """Held-out figures at the end: the last of the history and, with labels, the protocol's."""
    found = {k: v for row in history for k, v in row.items() if k.startswith("held_out_")}
    found |= {"train_photos": len(photos.train), "held_out_photos": len(photos.held_out)}
    if photos.labels is None or len(photos.held_out) == 0:
        return found
    labels = np.asarray(photos.labels)
    rows = [
        part[labels[part] >= 0] for part in (spread(photos.train, _MOST_PROBED), photos.held_out)
    ]
    known = np.isin(labels[rows[1]], labels[rows[0]])
    if len(rows[0]) == 0 or not known.any():
        return found
    train = labelled(tower, photos, rows[0], views, setting.device)
    test = labelled(tower, photos, rows[1][known], views, setting.device)
    return found | evaluate(train, test, seed=setting.recipe.seed)
