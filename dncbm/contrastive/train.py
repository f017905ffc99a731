"""Contrastive training on the library's one loop: two views of a photo, or a photo and a caption.

Both resume exactly after a kill: what each step draws comes from its own stream. Under several
workers negatives come from all of them, and gradients go to all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from dncbm.contrastive.config import PretrainConfig
from dncbm.contrastive.evaluate import Labelled, nearest_classes, per_class
from dncbm.contrastive.gradient_cache import embedded
from dncbm.contrastive.networks import PairsNetwork, ViewsNetwork
from dncbm.data.augment import Augmentation
from dncbm.data.views import Views
from dncbm.errors import InvalidInput
from dncbm.training.loop import Row
from dncbm.training.photos import Batch, Photos, Run, train_on_photos, whole
from dncbm.training.seeding import seeded_by

MEASURED = 2000
"""Training photos at most that held-out ones are compared with, evenly spaced."""
_RECALL_AT = (1, 5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Captions:
    """Token rows of all photos: those of photo i are `first[i]` to `first[i + 1]`."""

    tokens: Int[Tensor, "c t"]
    first: Int[Tensor, " n1"]

    @classmethod
    def of(cls, tokens: Sequence[Tensor]) -> "Captions":
        """Of the tokens (m, t) of each photo's captions."""
        counts = torch.tensor([0, *(len(rows) for rows in tokens)])
        return cls(tokens=torch.cat(list(tokens)), first=counts.cumsum(0))

    def drawn(self, rows: np.ndarray, u: Float[Tensor, " m"]) -> Int[Tensor, "m t"]:
        """One caption of each photo, by a number in [0, 1) each.

        Raises:
            InvalidInput: a photo without one.
        """
        index = torch.from_numpy(np.asarray(rows))
        begin, end = self.first[index], self.first[index + 1]
        if bool((begin == end).any()):
            raise InvalidInput("A photo has no caption. Leave it out, or give it one.")
        return self.tokens[begin + (u * (end - begin)).long()]


def train_views(
    network: ViewsNetwork, photos: Photos, augmentation: Augmentation, config: PretrainConfig,
    run: Run, *, shifts: Float[Tensor, " n"] | None = None,
) -> list[Row]:  # fmt: skip
    """Train a tower, in place, to tell two views of each photo from those of all others.

    Args:
        network: tower, head and loss.
        photos: labels, where there are any, only serve to measure.
        augmentation: how views are made.
        config: how long, and in which chunks.
        run: where, and from which checkpoint on.
        shifts: of the temperature of each row of `photos`, where it differs by sample.

    Returns:
        The history: losses, and on labelled held-out photos at each checkpoint `knn_1` and
        `knn_10`, means over classes.

    Raises:
        InvalidInput: one photo, or a loss that broke.
        ArtifactMismatch: the checkpoint is of another run.
    """
    _require_two(photos)

    def losses_of(batch: Batch) -> dict[str, Tensor]:
        own = slice(batch.first, batch.first + len(batch.rows))
        views = [augmentation.draw(len(batch.all_rows), batch.draw)[own] for _ in range(2)]

        def embed(part: slice) -> tuple[Tensor, ...]:
            pixels = [augmentation.apply(batch.levels[part], view[part]) for view in views]
            projections: Tensor = network(torch.cat(pixels))
            return projections.chunk(2)

        network.loss.set_step(batch.step)
        with seeded_by(batch.draw, run.device):
            first, second = embedded(network, embed, len(batch.rows), config.chunk_size)
        return {config.loss: network.loss(first, second, _of(shifts, batch.rows))}

    def measure() -> Row:
        return neighbours(network.tower, photos, augmentation.views, run.device)

    return train_on_photos(network, photos, augmentation.views, config, run, losses_of, measure)


def train_pairs(
    network: PairsNetwork, photos: Photos, captions: Captions, views: Views,
    config: PretrainConfig, run: Run, *, shifts: Float[Tensor, " n"] | None = None,
) -> list[Row]:  # fmt: skip
    """Train two towers, in place, to bring each photo to its caption and away from all others.

    Args:
        network: both towers and the loss.
        photos: labels, where there are any, only serve to measure.
        captions: one or more for each photo; each step draws one.
        views: how crops are drawn and normalised.
        config: how long, and in which chunks.
        run: where, and from which checkpoint on.
        shifts: of the temperature of each row of `photos`, where it differs by sample.

    Returns:
        The history: losses, and on held-out photos at each checkpoint `recall_1` and `recall_5`
        (of the first caption by its photo among all, and the other way, averaged).

    Raises:
        InvalidInput: one photo, a photo without caption, or a loss that broke.
        ArtifactMismatch: the checkpoint is of another run.
    """
    _require_two(photos)

    def losses_of(batch: Batch) -> dict[str, Tensor]:
        own = slice(batch.first, batch.first + len(batch.rows))
        u = torch.rand(len(batch.all_rows), generator=batch.draw)[own]
        tokens = captions.drawn(batch.rows, u).to(batch.levels.device)

        def embed(part: slice) -> tuple[Tensor, ...]:
            pixels = views.cropped(batch.levels[part], batch.boxes[part])
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            return network.images(pixels), network.texts(tokens[part])

        network.loss.set_step(batch.step)
        with seeded_by(batch.draw, run.device):
            images, texts = embedded(network, embed, len(batch.rows), config.chunk_size)
        return {config.loss: network.loss(images, texts, _of(shifts, batch.rows))}

    def measure() -> Row:
        return recall(network, photos, captions, views, run.device)

    return train_on_photos(network, photos, views, config, run, losses_of, measure)


@torch.inference_mode()
def features(
    tower: nn.Module, photos: Photos, rows: np.ndarray, views: Views, device: str
) -> Float[np.ndarray, "m d"]:
    """Embeddings of whole photos, float32 on the CPU."""
    parts = [tower(pixels).float().cpu() for _, pixels in whole(photos, views, device, rows)]
    return torch.cat(parts).numpy()


def labelled(
    tower: nn.Module, photos: Photos, rows: np.ndarray, views: Views, device: str
) -> Labelled:
    """Unit embeddings of photos with their classes."""
    found = features(tower, photos, rows, views, device)
    return Labelled(features=found, labels=photos.truth(rows).numpy()).unit()


def neighbours(tower: nn.Module, photos: Photos, views: Views, device: str) -> Row:
    """kNN@1 and @10 of held-out photos among training photos; {} without labels."""
    if photos.labels is None or len(photos.held_out) == 0:
        return {}
    known = photos.train[np.asarray(photos.labels)[photos.train] >= 0]
    if len(known) == 0:
        return {}
    bank = labelled(tower, photos, spread(known, MEASURED), views, device)
    asked = labelled(tower, photos, photos.held_out, views, device)
    return {
        f"knn_{k}": float(np.mean(list(per_class(guess, asked.labels).values())))
        for k, guess in nearest_classes(bank, asked.features).items()
    }


@torch.inference_mode()
def recall(
    network: PairsNetwork, photos: Photos, captions: Captions, views: Views, device: str
) -> Row:
    """Share of held-out photos and captions that find each other; {} without photos."""
    rows = spread(photos.held_out, MEASURED)
    if len(rows) == 0:
        return {}
    images, texts = [], []
    for part, pixels in whole(photos, views, device, rows):
        tokens = captions.drawn(part, torch.zeros(len(part))).to(device)
        images.append(functional.normalize(network.images(pixels).float(), dim=1))
        texts.append(functional.normalize(network.texts(tokens).float(), dim=1))
    cosines = torch.cat(images) @ torch.cat(texts).T
    right = cosines.diagonal()
    ranks = [(cosines > right[:, None]).sum(1), (cosines > right[None, :]).sum(0)]
    return {
        f"recall_{k}": sum(float((found < k).float().mean()) for found in ranks) / 2
        for k in _RECALL_AT
    }


def _of(shifts: Tensor | None, rows: np.ndarray) -> Tensor | None:
    return None if shifts is None else shifts[torch.from_numpy(np.asarray(rows))]


def spread(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many, evenly spaced."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]


def _require_two(photos: Photos) -> None:
    if len(photos.train) < 2:
        raise InvalidInput("There is one photo to train on; contrast needs at least 2.")
