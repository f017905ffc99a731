"""Training B-cos networks: classifiers on labels, students on the embeddings of a frozen teacher.

Both run on the library's one loop (`dncbm.training.loop`): they resume exactly after a kill, and
run on a GPU, in bfloat16 and with several workers. The recipe is that of B-cos v2 (Adam without
weight decay, adaptive clipping, cosine to 0), which B-cosification kept.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from dncbm.bcos import loss as losses
from dncbm.config import check_types
from dncbm.data.views import Views
from dncbm.errors import InvalidInput, UnknownName
from dncbm.training.loop import LoopConfig, Row, Trainer
from dncbm.training.prefetch import Prefetched
from dncbm.training.progress import Progress, no_progress
from dncbm.training.seeding import generator
from dncbm.training.workers import Workers, current_workers

LABEL_LOSSES = ("uniform-off-label", "bce", "cross-entropy")
TEACHER_LOSSES = ("pairwise", "cosine")
_EVALUATED_AT_ONCE = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """How a B-cos network is trained; defaults are those of B-cos v2 for short runs."""

    epochs: float = 10.0
    """Passes over the training photos."""
    steps: int | None = None
    """Updates, in place of `epochs`."""
    batch_size: int = 64
    """Photos per update, of all workers together."""
    learning_rate: float = 1e-3
    """Peak rate; a half cosine leads to 0. 1e-4 is usual where weights are trained already."""
    warmup: float = 0.0
    """Share of the updates during which the rate rises."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """`adamw` where something decays."""
    weight_decay: float = 0.0
    """Of weights with two or more axes."""
    bias_decay: float = 0.0
    """Of biases: B-cosification's gradual way to be rid of them."""
    adaptive_clipping: float | None = 0.01
    """Longest gradient of a unit as a share of its length; None clips to one norm of 1."""
    loss: str = "uniform-off-label"
    """One of `LABEL_LOSSES` or of `TEACHER_LOSSES`."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of products: bfloat16 only where the device multiplies it."""
    average_decay: float = 0.0
    """Per-step decay of the running average of the weights that is kept; 0 keeps the last ones."""
    evaluate_every: int | None = None
    """Updates between two evaluations and checkpoints; None: an epoch, but from 50 to 500."""
    seed: int = 0
    """Fixes the order of the photos and their crops."""

    def __post_init__(self) -> None:
        check_types(self, "training")
        if self.loss not in LABEL_LOSSES + TEACHER_LOSSES:
            raise UnknownName("loss", self.loss, LABEL_LOSSES + TEACHER_LOSSES)
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


def train_classifier(
    network: nn.Module, photos: Photos, views: Views, config: TrainingConfig, run: Run
) -> list[Row]:
    """Train a network on labels, in place; B-cos or not, from scratch or B-cosified.

    Args:
        network: (n, 3, h, w) of `views` to logits (n, K).
        photos: with labels.
        views: the pixels that the network takes.
        config: with one of `LABEL_LOSSES`.
        run: where, and from which checkpoint on.

    Returns:
        The history: losses, and `accuracy` on the held-out photos at each checkpoint.

    Raises:
        InvalidInput: no labels, labels beyond the network's classes, or a loss that broke.
        ArtifactMismatch: the checkpoint is of another run.
    """
    if config.loss not in LABEL_LOSSES:
        raise UnknownName("loss of labels", config.loss, LABEL_LOSSES)
    photos.truth(photos.train[:1])
    loss = _LABEL_LOSSES[config.loss]

    def loss_of(pixels: Tensor, rows: "_Share") -> dict[str, Tensor]:
        logits = network(pixels)
        targets = losses.one_hot(photos.truth(rows.own), logits.shape[1])
        return {config.loss: loss(logits.float(), targets.to(logits.device))}

    def measure() -> Row:
        return {"accuracy": accuracy(network, photos, views, run.device)}

    return _train(network, photos, views, config, run, loss_of, measure)


def train_student(
    student: nn.Module, teacher: nn.Module, photos: Photos, views: Views,
    config: TrainingConfig, run: Run, *, texts: Float[Tensor, "K D"] | None = None,
) -> list[Row]:  # fmt: skip
    """Train a student, in place, to give each photo the embedding that the teacher gives it.

    No label is needed. Teacher and student see the same crops; the teacher is frozen, in eval mode.

    Args:
        student: (n, 3, h, w) of `views` to embeddings (n, D).
        teacher: likewise.
        photos: labels, where there are any, only serve to measure zero-shot accuracy.
        views: the pixels that the teacher was trained on.
        config: with one of `TEACHER_LOSSES`.
        run: where, and from which checkpoint on.
        texts: unit embeddings of the class names, to measure zero-shot accuracy with.

    Returns:
        The history: losses, and on the held-out photos at each checkpoint `cosine` (mean to the
        teacher) and with `texts` also `zero_shot` and `teacher_zero_shot` accuracy.

    Raises:
        InvalidInput: another width than the teacher's, or a loss that broke.
        ArtifactMismatch: the checkpoint is of another run.
    """
    if config.loss not in TEACHER_LOSSES:
        raise UnknownName("loss to a teacher", config.loss, TEACHER_LOSSES)
    teacher = teacher.to(run.device).eval().requires_grad_(False)
    workers = current_workers()

    def loss_of(pixels: Tensor, rows: "_Share") -> dict[str, Tensor]:
        with torch.no_grad():
            wanted = teacher(pixels).float()
        found = student(pixels)
        _require_width(found, wanted)
        if config.loss == "cosine":
            return {"cosine_distance": losses.cosine_distance(found, wanted)}
        everyone = _gathered(wanted, workers)
        return {"pairwise": losses.pairwise_sigmoid_loss(found, everyone, first=rows.first)}

    def measure() -> Row:
        return agreement(student, teacher, photos, views, run.device, texts=texts)

    return _train(student, photos, views, config, run, loss_of, measure)


@torch.inference_mode()
def accuracy(network: nn.Module, photos: Photos, views: Views, device: str) -> float | None:
    """Share of the held-out photos whose largest logit is their class; None without photos."""
    right = 0
    for rows, pixels in _whole(photos, views, device):
        right += int((network(pixels).argmax(1).cpu() == photos.truth(rows)).sum())
    return right / len(photos.held_out) if len(photos.held_out) else None


@torch.inference_mode()
def agreement(
    student: nn.Module, teacher: nn.Module, photos: Photos, views: Views, device: str, *,
    texts: Float[Tensor, "K D"] | None = None,
) -> Row:  # fmt: skip
    """How near the student comes to its teacher on held-out photos; {} without photos."""
    if len(photos.held_out) == 0:
        return {}
    sums: dict[str, float] = {"cosine": 0.0}
    for rows, pixels in _whole(photos, views, device):
        found, wanted = student(pixels).float(), teacher(pixels).float()
        sums["cosine"] += float(functional.cosine_similarity(found, wanted).sum())
        if texts is not None and photos.labels is not None:
            for name, values in (("zero_shot", found), ("teacher_zero_shot", wanted)):
                best = (values.cpu() @ texts.T).argmax(1)
                sums[name] = sums.get(name, 0.0) + int((best == photos.truth(rows)).sum())
    return {name: total / len(photos.held_out) for name, total in sums.items()}


@dataclass(frozen=True, slots=True)
class _Share:
    """The rows of a step, and those of this worker among them."""

    all: np.ndarray
    own: np.ndarray
    first: int
    """Place of the first own row among all."""


class _Batches:
    """Which rows each step learns from: every epoch all photos once, in an order of its own."""

    def __init__(self, photos: Photos, config: TrainingConfig, workers: Workers) -> None:
        self.photos, self.seed, self.workers = photos, config.seed, workers
        self.size = min(config.batch_size, len(photos.train))
        self.per_epoch = len(photos.train) // self.size
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, dtype=int))
        if self.size < workers.size:
            raise InvalidInput(
                f"A batch of {self.size} photos cannot be shared by {workers.size} workers. Take "
                "a larger batch or fewer workers."
            )

    def share(self, step: int) -> _Share:
        """The step's rows; a pure function of the step."""
        epoch, place = divmod(step, self.per_epoch)
        known, order = self._order
        if known != epoch:
            stream = generator(self.seed, "order", epoch)
            order = torch.randperm(len(self.photos.train), generator=stream).numpy()
            self._order = (epoch, order)  # at once, as threads share it
        rows = self.photos.train[order[place * self.size : (place + 1) * self.size]]
        places = self.workers.share(torch.arange(len(rows)))
        return _Share(rows, rows[places.numpy()], int(places[0]))

    def read(self, step: int) -> tuple[_Share, Tensor]:
        """The step's own rows and their photos."""
        share = self.share(step)
        return share, self.photos.read(share.own)


def _train(
    network: nn.Module, photos: Photos, views: Views, config: TrainingConfig, run: Run,
    loss_of: Callable[[Tensor, _Share], dict[str, Tensor]], measure: Callable[[], Row],
) -> list[Row]:  # fmt: skip
    """The loop over crops: `loss_of` is a mean over a worker's own rows."""
    workers = current_workers()
    batches = _Batches(photos, config, workers)
    settings = replace(config, batch_size=batches.size).loop(len(photos.train))
    trainer = Trainer(
        network, settings, run.checkpoint, purpose=run.purpose, decay_of=_decay_of(config),
        device=run.device, workers=workers,
    )  # fmt: skip
    reader = Prefetched(batches.read, settings.steps)

    def losses_of(step: int, draw: torch.Generator) -> dict[str, Tensor]:
        share, levels = reader[step]
        boxes = views.draw(len(share.all), draw)
        own = boxes[share.first : share.first + len(share.own)]
        pixels = views.cropped(levels.to(run.device, non_blocking=True), own)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        weight = len(share.own) / len(share.all)
        return {name: value * weight for name, value in loss_of(pixels, share).items()}

    def judged(step: int) -> Row:
        with trainer.averaged():
            return {f"held_out_{name}": value for name, value in measure().items()}

    # channels last: what vector units and tensor cores want, and no transposition per layer
    network.to(memory_format=torch.channels_last)
    network.train()
    try:
        history = trainer.fit(
            losses_of, judged, on_step=_counted(run.on_step, settings.steps), progress=run.progress
        )
    finally:
        reader.close()
    network.load_state_dict(trainer.average)
    network.eval()
    return history


def _counted(
    on_step: Callable[[int, int], None] | None, steps: int
) -> Callable[[int], None] | None:
    return None if on_step is None else lambda step: on_step(step, steps)


def _decay_of(config: TrainingConfig) -> Callable[[str, nn.Parameter], float]:
    def decay(name: str, parameter: nn.Parameter) -> float:
        if name.rpartition(".")[2] == "bias":
            return config.bias_decay
        return config.weight_decay if parameter.ndim >= 2 else 0.0

    return decay


def _whole(photos: Photos, views: Views, device: str) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Held-out rows and their pixels, a batch at a time."""
    for start in range(0, len(photos.held_out), _EVALUATED_AT_ONCE):
        rows = photos.held_out[start : start + _EVALUATED_AT_ONCE]
        yield rows, views.whole(photos.read(rows).to(device))


def _gathered(rows: Float[Tensor, "m D"], workers: Workers) -> Float[Tensor, "n D"]:
    """All workers' rows, as negatives for each."""
    return workers.gather(rows.flatten()).view(-1, rows.shape[1])


def _require_width(found: Tensor, wanted: Tensor) -> None:
    if found.shape != wanted.shape:
        raise InvalidInput(
            f"The student's embeddings have shape {tuple(found.shape)}, the teacher's "
            f"{tuple(wanted.shape)}; the rule is one width. Convert the teacher's own tower, or "
            "give the student a head of that width."
        )


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits, targets)


_LABEL_LOSSES: dict[str, Any] = {
    "uniform-off-label": losses.uniform_off_label_loss,
    "bce": losses.binary_cross_entropy,
    "cross-entropy": _cross_entropy,
}
