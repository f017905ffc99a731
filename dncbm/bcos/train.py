"""Training of B-cos networks: classes with labels, or a teacher's embeddings without.

Photos are bytes (n, 3, h, w), in memory or mapped from a file; each step draws its own from the
seed and the step, so a resumed run goes on bit by bit.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional

from dncbm.bcos.loss import class_bce, cosine_loss, pairwise_loss
from dncbm.errors import InvalidInput, UnknownName
from dncbm.training.loop import LoopConfig, Trainer
from dncbm.training.precision import product_dtype
from dncbm.training.seeding import generator

Pixels = UInt8[np.ndarray, "n 3 h w"]
Watch = Callable[[int], None]
CLASS_LOSSES = ("bce", "cross-entropy")
TEACHER_LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "pairwise": pairwise_loss,
    "cosine": cosine_loss,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How to train; the defaults are B-cos v2's, fitted to small data."""

    epochs: int
    """Passes over the photos."""
    batch_size: int = 128
    learning_rate: float = 1e-3
    """Of Adam, reached after the warm-up; half a cosine leads to 0."""
    weight_decay: float = 0.0
    warmup_epochs: float = 1.0
    loss: str = "bce"
    """`bce` or `cross-entropy` with labels; `pairwise` or `cosine` with a teacher."""
    clipping: str = "adaptive"
    """Of gradients: `adaptive`, or by `norm`."""
    shift: int = 0
    """Photos are moved by up to so many pixels, with black beyond the border."""
    crop: tuple[int, float] | None = None
    """Side of random crops, and the smallest share of the photo that they show."""
    flip: bool = True
    """Every other photo is mirrored."""
    precision: str = "float32"
    """Of products: `float32`, `bfloat16` or `auto`."""
    device: str = "cpu"
    seed: int = 0
    checkpoint_every: int = 500
    """Steps."""

    def steps(self, photos: int) -> int:
        """Of the whole run; the rest of an epoch that fills no batch is left out."""
        return self.epochs * (photos // self.batch_size)

    def loop(self, photos: int) -> LoopConfig:
        """The settings of the loop."""
        per_epoch = photos // self.batch_size
        return LoopConfig(
            steps=self.steps(photos),
            learning_rate=self.learning_rate,
            final_learning_rate=0.0,
            warmup=round(self.warmup_epochs * per_epoch),
            weight_decay=self.weight_decay,
            clipping=self.clipping,
            betas=(0.9, 0.999),
            average_decay=0.0,
            log_every=per_epoch,
            checkpoint_every=self.checkpoint_every,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Normalise:
    """Bytes to what a network takes: shares of white, minus the mean, over the deviation."""

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __call__(self, photos: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """Pixels."""
        mean, std = (
            torch.tensor(part, device=photos.device)[:, None, None]
            for part in (self.mean, self.std)
        )
        pixels = (photos.float() / 255 - mean) / std
        return pixels.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPhotos:
    """What is learned from."""

    pixels: Pixels
    """Bytes, in memory or mapped from a file."""
    prepare: Callable[[Tensor], Tensor] = Normalise()
    """Bytes to what the networks take."""
    labels: Int64[Tensor, "n"] | None = None
    """Classes; not needed with a teacher."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Where a run keeps its state, and who hears of it."""

    checkpoint: Path
    """File from which a killed run goes on."""
    watch: Watch | None = None
    """Called with the step at each checkpoint; the network is in training mode."""
    on_step: Watch | None = None
    """Called with the step before each, for values that are annealed."""


def train_classifier(
    model: nn.Module, photos: TrainingPhotos, config: TrainConfig, run: Run
) -> nn.Module:
    """Train `model`, prepared pixels to logits, in place on classes; goes on where `run` stopped.

    Raises:
        InvalidInput: fewer photos than a batch, labels that do not fit, or divergence.
        UnknownName: the loss is neither `bce` nor `cross-entropy`.
    """
    if config.loss not in CLASS_LOSSES:
        raise UnknownName("class loss", config.loss, CLASS_LOSSES)
    labels = photos.labels
    if labels is None or len(labels) != len(photos.pixels):
        count = "no" if labels is None else len(labels)
        raise InvalidInput(
            f"There are {len(photos.pixels)} photos and {count} labels; each photo needs one."
        )
    loss = class_bce if config.loss == "bce" else functional.cross_entropy

    def loss_of(rows: Tensor, pixels: Tensor) -> Tensor:
        return loss(model(pixels).float(), labels[rows].to(pixels.device))

    return _train(model, photos, config, run, loss_of)


def train_student(
    student: nn.Module, teacher: nn.Module, photos: TrainingPhotos, config: TrainConfig, run: Run
) -> nn.Module:
    """Train `student` in place to embed photos as the frozen `teacher` does; needs no labels.

    Both see the same pixels.

    Raises:
        InvalidInput: fewer photos than a batch, or divergence.
        UnknownName: the loss is neither `pairwise` nor `cosine`.
    """
    if config.loss not in TEACHER_LOSSES:
        raise UnknownName("teacher loss", config.loss, TEACHER_LOSSES)
    loss, frozen = TEACHER_LOSSES[config.loss], teacher.to(config.device).eval()

    def loss_of(_rows: Tensor, pixels: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = frozen(pixels).float()
        return loss(student(pixels).float(), wanted)

    return _train(student, photos, config, run, loss_of)


def _train(
    model: nn.Module, photos: TrainingPhotos, config: TrainConfig, run: Run,
    loss_of: Callable[[Tensor, Tensor], Tensor],
) -> nn.Module:  # fmt: skip
    count = len(photos.pixels)
    if count < config.batch_size:
        raise InvalidInput(
            f"There are {count} photos, fewer than one batch of {config.batch_size}. Give more "
            "photos or a smaller batch_size."
        )
    model.to(config.device).to(memory_format=torch.channels_last)
    model.train()
    dtype = product_dtype(config.precision, config.device)
    kind = torch.device(config.device).type

    def losses_of(step: int, draw: torch.Generator) -> dict[str, Tensor]:
        if run.on_step is not None:
            run.on_step(step)
        rows = batch_rows(step, count, config)
        chosen = torch.from_numpy(photos.pixels[rows.numpy()])
        pixels = photos.prepare(augmented(chosen, config, draw).to(config.device))
        with torch.autocast(kind, dtype or torch.bfloat16, enabled=dtype is not None):
            return {"loss": loss_of(rows, pixels)}

    Trainer(model, config.loop(count), run.checkpoint).fit(losses_of, run.watch)
    return model.eval()


def batch_rows(step: int, photos: int, config: TrainConfig) -> Int64[Tensor, "b"]:
    """Which photos a step sees: each epoch in an order of its own."""
    per_epoch = photos // config.batch_size
    epoch, place = divmod(step, per_epoch)
    order = torch.randperm(photos, generator=generator(config.seed, "epoch", epoch))
    return order[place * config.batch_size : (place + 1) * config.batch_size]


def augmented(
    photos: UInt8[Tensor, "n 3 h w"], config: TrainConfig, draw: torch.Generator
) -> UInt8[Tensor, "n 3 y x"]:
    """Moved, cropped and mirrored at random."""
    if config.shift:
        photos = _shifted(photos, config.shift, draw)
    if config.crop is not None:
        photos = _cropped(photos, *config.crop, draw)
    if not config.flip:
        return photos
    mirrored = torch.rand(len(photos), generator=draw) < 0.5
    return torch.where(mirrored[:, None, None, None], photos.flip(-1), photos)


def _shifted(photos: Tensor, most: int, draw: torch.Generator) -> Tensor:
    count, channels, high, wide = photos.shape
    padded = functional.pad(photos, (most,) * 4)
    top, left = torch.randint(0, 2 * most + 1, (2, count, 1), generator=draw)
    rows, columns = top + torch.arange(high), left + torch.arange(wide)
    image = torch.arange(count)[:, None, None, None]
    channel = torch.arange(channels)[None, :, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _cropped(photos: Tensor, side: int, least: float, draw: torch.Generator) -> Tensor:
    """Squares of a random size and place, all brought to one side."""
    count, _, high, wide = photos.shape
    share = (least + (1 - least) * torch.rand(count, generator=draw)).sqrt()
    whole = torch.tensor([wide, high]) / min(high, wide)
    scale = share[:, None] / whole  # of the photo, as grid_sample counts: -1 to 1
    centre = (2 * torch.rand(count, 2, generator=draw) - 1) * (1 - scale)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale[:, 0], scale[:, 1], centre
    grid = functional.affine_grid(theta, [count, 3, side, side], align_corners=False)
    crops = functional.grid_sample(
        photos.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    return crops.round().clamp(0, 255).to(torch.uint8)
