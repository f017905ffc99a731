"""Training with a loss on attributions beside the classification (model guidance).

L = L_class + λ L_guidance (Rao et al. 2023): on every k-th step, attributions of annotated photos
are asked to lie in their masks, which are cropped with the photos. Photos without annotation, and
steps without any, only bring their classification.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dncbm.artifacts import fingerprint
from dncbm.bcos import loss as label_losses
from dncbm.config import check_types
from dncbm.data.views import Views
from dncbm.errors import InvalidInput, UnknownName
from dncbm.guidance.candidates import Candidates
from dncbm.guidance.depths import layer_at
from dncbm.guidance.loss import LOSSES, loss_named
from dncbm.guidance.masks import Pairs, pairs_in_crops
from dncbm.guidance.measure import Measure
from dncbm.guidance.photos import GuidedPhotos
from dncbm.guidance.task import AUTO, Attributor, Classes, Task, guiding_method
from dncbm.training.loop import Row
from dncbm.training.photos import Batch, PhotoTraining, Run, train_on_photos
from dncbm.training.workers import Workers, current_workers

LABEL_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bce": label_losses.binary_cross_entropy,
    "uniform-off-label": label_losses.uniform_off_label_loss,
    "cross-entropy": functional.cross_entropy,
}
"""`bce` for several classes per photo, the others for one; the second as B-cos v2."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GuidedTraining(PhotoTraining):
    """How a network is trained with guidance."""

    learning_rate: float = 1e-4
    """Peak rate; a half cosine leads to 0."""
    adaptive_clipping: float | None = None
    """None clips to one norm of 1."""
    label_loss: str = "bce"
    """One of `LABEL_LOSSES`."""
    loss: str = "energy"
    """One of `dncbm.guidance.loss.LOSSES`."""
    weight: float = 1.0
    """λ. With `reduction="sum"` its effect depends on the batch size; with `mean` it does not."""
    reduction: str = "mean"
    """`mean` or `sum` over the guided maps of a step, of all workers; the papers' code sums."""
    attribution: str = AUTO
    """A differentiable method; `auto` is `bcos` for B-cos networks, else `input_x_gradient`."""
    layer: str = "input"
    """One of `dncbm.guidance.depths.DEPTHS`, or the name of a module."""
    every: int = 1
    """Steps from one guided step to the next."""
    targets: str = "one"
    """Of each photo `one` of its annotated classes at random, or `all`, which costs a pass each."""
    side: str = "inside"
    """Where attribution should lie: `inside`, or `outside` for classes of the background."""
    measured_photos: int = 512
    """Held-out photos with annotation, at most, whose attribution is measured."""
    kept: int = 8
    """Checkpoints of the Pareto front, at most, that stay on the disk."""

    def __post_init__(self) -> None:
        check_types(self, "training")
        PhotoTraining.__post_init__(self)  # a class with slots has no super() without arguments
        if self.label_loss not in LABEL_LOSSES:
            raise UnknownName("loss of labels", self.label_loss, LABEL_LOSSES)
        if self.loss not in LOSSES:
            raise UnknownName("guidance loss", self.loss, LOSSES)
        guiding_method(self.attribution)
        choices = {"reduction": ("mean", "sum"), "targets": ("one", "all")}
        for name, known in (choices | {"side": ("inside", "outside")}).items():
            if getattr(self, name) not in known:
                raise UnknownName(name, getattr(self, name), known)
        for name in ("every", "measured_photos", "kept"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} is {getattr(self, name)}; the rule is at least 1.")
        if not 0 <= self.weight < float("inf"):
            raise InvalidInput(f"weight is {self.weight}; the rule is a number of at least 0.")


def train_guided(
    network: nn.Module, data: GuidedPhotos, views: Views, config: GuidedTraining, run: Run,
    *, task: Task | None = None,
) -> tuple[list[Row], Candidates]:  # fmt: skip
    """Train a network, in place, to decide well for reasons that lie in the masks.

    Args:
        network: (n, 3, h, w) of `views` to what `task` takes.
        data: photos with classes and masks.
        views: how photos and masks are cropped.
        config: losses, and how long.
        run: where, and from which checkpoint on; candidates lie beside it.
        task: what of the output is decided and guided; by default all outputs are classes.

    Returns:
        The history, with figures of held-out photos at each checkpoint, and the checkpoints that
        were kept: the weights before training, the last, the best classification, and the Pareto
        front of classification, EPG and IoU.

    Raises:
        UnknownName: no such layer.
        InvalidInput: no annotated training photo, an attribution that this network has not, or a
            loss that broke.
        ArtifactMismatch: the checkpoint is of another run.
    """
    task = task or Classes()
    method, layer = guiding_method(config.attribution, network), layer_at(network, config.layer)
    attributor = Attributor(network, task, method, layer)
    if not np.isin(data.photos.train, data.masks.rows).any():
        raise InvalidInput(
            "No training photo has a box or a mask of a class. Compare the names of the photos "
            "and of their classes with those in the annotations."
        )
    losses = _Losses(attributor, data, config, current_workers())
    folder = run.checkpoint.with_name(f"{run.checkpoint.stem}-candidates")
    candidates = Candidates.open(folder, run.purpose or fingerprint(asdict(config)), config.kept)
    step = [0]
    measure = Measure(
        attributor=attributor, data=data, views=views, device=run.device,
        multiple=config.label_loss == "bce", outside=config.side == "outside",
        most=config.measured_photos,
    )  # fmt: skip

    def counted(now: int, steps: int) -> None:
        step[0] = now + 1
        if run.on_step is not None:
            run.on_step(now, steps)

    def judged() -> Row:
        found = measure()
        if found and current_workers().rank == 0:
            candidates.add(step[0], found, network)
        return found

    network.to(run.device)
    if candidates.is_empty() and not run.checkpoint.exists():
        network.eval()
        judged()
    history = train_on_photos(
        network, data.photos, views, config, replace(run, on_step=counted), losses, judged
    )
    return history, candidates


@dataclass(frozen=True, slots=True, eq=False)
class _Losses:
    """Losses of a batch."""

    attributor: Attributor
    data: GuidedPhotos
    config: GuidedTraining
    workers: Workers

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        pixels, task = batch.pixels(), self.attributor.task
        guided = batch.step % self.config.every == 0
        pairs = self._pairs(batch) if guided else None
        if pairs is None:
            output, found = self.attributor.network(pixels), pixels.new_zeros(())
        else:
            targets, signed = pairs.targets.to(pixels.device), self.config.loss == "energy"
            output, maps = self.attributor.trained(pixels, targets, signed=signed)
            loss = loss_named(self.config.loss)
            masks = pairs.masks.to(pixels.device)[:, None]
            found = loss(pairs.maps(maps), masks, reduction="sum")
        wanted = self.data.wanted(batch.rows).to(pixels.device)
        label = LABEL_LOSSES[self.config.label_loss](task.logits(output).float(), wanted)
        losses = {self.config.label_loss: label} | task.losses(output, pixels)
        if guided:
            losses[self.config.loss] = self.config.weight * self._shared(found, pairs, batch)
        return losses

    def _pairs(self, batch: Batch) -> Pairs | None:
        draws = None
        if self.config.targets == "one":
            every = torch.rand(len(batch.all_rows), generator=batch.draw)
            draws = every[batch.first : batch.first + len(batch.rows)]
        return pairs_in_crops(
            self.data.masks, batch.rows, batch.views, batch.boxes,
            outside=self.config.side == "outside", draws=draws,
        )  # fmt: skip

    def _shared(self, total: Tensor, pairs: Pairs | None, batch: Batch) -> Tensor:
        """The part of this worker: the loop weighs it by its rows and adds up all workers'."""
        weight = len(batch.all_rows) / len(batch.rows)
        if self.config.reduction == "sum":
            return total * weight
        count = torch.tensor(0.0 if pairs is None else len(pairs.places), device=total.device)
        self.workers.sum_(count)
        return total * (weight / count.clamp_min(1))
