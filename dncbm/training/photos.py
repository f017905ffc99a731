"""Training on photos: what every method that learns from decoded photos shares.

Rows are read ahead by threads, each epoch shows every photo once in an order of its own, crops are
drawn on the step's own stream, workers share a batch, and held-out figures stand in the history. A
method brings its losses and its measure, nothing else.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from dncbm.data.views import Boxes, Views
from dncbm.errors import InvalidInput
from dncbm.training.loop import LoopConfig, Row, Trainer
from dncbm.training.prefetch import Prefetched
from dncbm.training.progress import Progress, no_progress
from dncbm.training.seeding import generator
from dncbm.training.workers import Workers, current_workers

EVALUATED_AT_ONCE = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoTraining:
    """How long and how fast to learn from photos."""

    epochs: float = 10.0
    """Passes over the training photos."""
    steps: int | None = None
    """Updates, in place of `epochs`."""
    batch_size: int = 64
    """Photos per update, of all workers together."""
    learning_rate: float = 1e-3
    """Peak rate; a half cosine leads to 0."""
    warmup: float = 0.0
    """Share of the updates during which the rate rises."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """`adamw` where something decays."""
    weight_decay: float = 0.0
    """Of weights with two or more axes."""
    adaptive_clipping: float | None = 0.01
    """Longest gradient of a unit as a share of its length; None clips to one norm of 1."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of products: bfloat16 only where the device multiplies it."""
    average_decay: float = 0.0
    """Per-step decay of the running average of the weights that is kept; 0 keeps the last ones."""
    evaluate_every: int | None = None
    """Updates between two evaluations and checkpoints; None: an epoch, but from 50 to 500."""
    seed: int = 0
    """Fixes the order of the photos and their crops."""

    def __post_init__(self) -> None:
        for name in ("epochs", "steps", "batch_size", "learning_rate", "evaluate_every"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidInput(f"{name} is {value}; the rule is a number above 0.")
        if not 0 <= self.warmup < 1:
            raise InvalidInput(f"warmup is {self.warmup}; the rule is a share in [0, 1).")

    def updates(self, num_photos: int) -> int:
        """Of the whole run over so many photos."""
        per_epoch = max(1, num_photos // self.batch_size)
        return self.steps or max(1, round(self.epochs * per_epoch))

    def decay_of(self, name: str, parameter: nn.Parameter) -> float:
        """Weight decay of a parameter."""
        return self.weight_decay if parameter.ndim >= 2 else 0.0

    def loop(self, num_photos: int) -> LoopConfig:
        """The loop's settings for so many photos."""
        steps = self.updates(num_photos)
        per_epoch = max(1, num_photos // self.batch_size)
        every = self.evaluate_every or min(max(per_epoch, 50), 500)
        return LoopConfig(
            steps=steps, learning_rate=self.learning_rate, final_learning_rate=0.0,
            warmup=round(self.warmup * steps), optimizer=self.optimizer, betas=(0.9, 0.999),
            weight_decay=self.weight_decay, adaptive_clipping=self.adaptive_clipping,
            precision=self.precision, average_decay=self.average_decay,
            log_every=min(every, 50), checkpoint_every=every, seed=self.seed,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Photos:
    """What is learned from and what is held out, as rows of decoded photos."""

    images: UInt8[Tensor | np.ndarray, "n 3 h w"]
    """In memory or mapped from a file."""
    train: Int[np.ndarray, " t"]
    held_out: Int[np.ndarray, " v"] = field(default_factory=lambda: np.zeros(0, dtype=int))
    labels: Int[np.ndarray, " n"] | None = None
    """Class of each row; None where nobody said."""

    def __post_init__(self) -> None:
        if len(self.train) == 0:
            raise InvalidInput("There is no photo to train on. Give a folder with photos.")

    def read(self, rows: np.ndarray) -> UInt8[Tensor, "m 3 h w"]:
        """Some rows, copied."""
        if isinstance(self.images, Tensor):
            return self.images[torch.from_numpy(rows)]
        return torch.from_numpy(np.ascontiguousarray(self.images[rows]))

    def truth(self, rows: np.ndarray) -> Int[Tensor, " m"]:
        """Labels of some rows.

        Raises:
            InvalidInput: there are none.
        """
        if self.labels is None:
            raise InvalidInput("These photos have no labels. Put each class into a folder.")
        return torch.from_numpy(np.asarray(self.labels)[rows]).long()


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Where a training runs and who is told."""

    checkpoint: Path
    """Resumed from and written to."""
    device: str = "cpu"
    purpose: str = ""
    """Fingerprint of photos, starting weights and settings; another's checkpoint is refused."""
    on_step: Callable[[int, int], None] | None = None
    """Called with (step, all steps) before each update, to anneal B say."""
    progress: Progress = no_progress


@dataclass(frozen=True, slots=True)
class Batch:
    """What a worker learns from in one step."""

    step: int
    rows: np.ndarray
    """Of this worker."""
    all_rows: np.ndarray
    """Of all workers, this one's among them."""
    first: int
    """Place of the first own row among all."""
    levels: UInt8[Tensor, "m 3 h w"]
    """The own photos, whole, on the device."""
    boxes: Boxes
    """A crop of each own photo."""
    draw: torch.Generator
    """The step's stream, the same in all workers: draw for all rows, then take the own ones."""
    views: Views

    def pixels(self) -> Float[Tensor, "m 3 size size"]:
        """The crops, channels last: what vector units and tensor cores want."""
        found = self.views.cropped(self.levels, self.boxes)
        return found.contiguous(memory_format=torch.channels_last)


Losses = Callable[[Batch], Mapping[str, Tensor]]
"""Named losses of a batch, each a mean over the worker's own rows."""


def train_on_photos(
    network: nn.Module, photos: Photos, views: Views, config: PhotoTraining, run: Run,
    losses_of: Losses, measure: Callable[[], Row],
) -> list[Row]:  # fmt: skip
    """Train a network, in place, on crops of photos; it ends in eval mode with averaged weights.

    Args:
        network: holds all that learns.
        photos: read by row.
        views: how crops are drawn and normalised.
        config: how long and how fast.
        run: where, and from which checkpoint on.
        losses_of: what to minimise; the network is in training mode.
        measure: figures of the network in eval mode, at each checkpoint; they stand in the history
            as `held_out_...`.

    Returns:
        The history, resumed parts included.

    Raises:
        InvalidInput: a loss that is not finite, or more workers than rows of a batch.
        ArtifactMismatch: the checkpoint is of another run.
    """
    workers = current_workers()
    batches = Batches(photos, config, workers)
    settings = replace(config, batch_size=batches.size).loop(len(photos.train))
    trainer = Trainer(
        network, settings, run.checkpoint, purpose=run.purpose, decay_of=config.decay_of,
        device=run.device, workers=workers,
    )  # fmt: skip
    reader = Prefetched(batches.read, settings.steps)

    def weighed(step: int, draw: torch.Generator) -> dict[str, Tensor]:
        share, levels = reader[step]
        boxes = views.draw(len(share.all), draw)[share.first : share.first + len(share.own)]
        on_device = levels.to(run.device, non_blocking=True)
        batch = Batch(step, share.own, share.all, share.first, on_device, boxes, draw, views)
        weight = len(share.own) / len(share.all)
        return {name: value * weight for name, value in losses_of(batch).items()}

    def judged(step: int) -> Row:
        with trainer.averaged():
            return {f"held_out_{name}": value for name, value in measure().items()}

    network.to(memory_format=torch.channels_last)
    network.train()
    try:
        history = trainer.fit(
            weighed, judged, on_step=_counted(run.on_step, settings.steps), progress=run.progress
        )
    finally:
        reader.close()
    network.load_state_dict(trainer.average)
    network.eval()
    return history


@torch.inference_mode()
def accuracy(network: nn.Module, photos: Photos, views: Views, device: str) -> float | None:
    """Share of the held-out photos whose largest logit is their class; None without photos."""
    right = 0
    for rows, pixels in whole(photos, views, device):
        right += int((network(pixels).argmax(1).cpu() == photos.truth(rows)).sum())
    return right / len(photos.held_out) if len(photos.held_out) else None


def whole(
    photos: Photos, views: Views, device: str, rows: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, Float[Tensor, "m 3 size size"]]]:
    """Rows, by default the held-out ones, and their pixels without crops, a batch at a time."""
    wanted = photos.held_out if rows is None else rows
    for start in range(0, len(wanted), EVALUATED_AT_ONCE):
        part = wanted[start : start + EVALUATED_AT_ONCE]
        yield part, views.whole(photos.read(part).to(device))


@dataclass(frozen=True, slots=True)
class Share:
    """The rows of a step, and those of this worker among them."""

    all: np.ndarray
    own: np.ndarray
    first: int
    """Place of the first own row among all."""


class Batches:
    """Which rows each step learns from: every epoch all photos once, in an order of its own."""

    def __init__(self, photos: Photos, config: PhotoTraining, workers: Workers) -> None:
        self.photos, self.seed, self.workers = photos, config.seed, workers
        self.size = min(config.batch_size, len(photos.train))
        self.per_epoch = len(photos.train) // self.size
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, dtype=int))
        if self.size < workers.size:
            raise InvalidInput(
                f"A batch of {self.size} photos cannot be shared by {workers.size} workers. Take "
                "a larger batch or fewer workers."
            )

    def share(self, step: int) -> Share:
        """The step's rows; a pure function of the step."""
        epoch, place = divmod(step, self.per_epoch)
        known, order = self._order
        if known != epoch:
            stream = generator(self.seed, "order", epoch)
            order = torch.randperm(len(self.photos.train), generator=stream).numpy()
            self._order = (epoch, order)  # at once, as threads share it
        rows = self.photos.train[order[place * self.size : (place + 1) * self.size]]
        places = self.workers.share(torch.arange(len(rows)))
        return Share(rows, rows[places.numpy()], int(places[0]))

    def read(self, step: int) -> tuple[Share, UInt8[Tensor, "m 3 h w"]]:
        """The step's own rows and their photos."""
        share = self.share(step)
        return share, self.photos.read(share.own)


def gathered(rows: Float[Tensor, "m D"], workers: Workers) -> Float[Tensor, "n D"]:
    """All workers' rows, without gradients to the others'."""
    return workers.gather(rows.flatten()).view(-1, rows.shape[1])


def _counted(
    on_step: Callable[[int, int], None] | None, steps: int
) -> Callable[[int], None] | None:
    return None if on_step is None else lambda step: on_step(step, steps)
