"""How contrastive training runs."""

from dataclasses import dataclass
from typing import Any, Literal

from dncbm.config import check_types
from dncbm.contrastive.scheduled import LOSSES, ScheduledLoss
from dncbm.contrastive.temperature import PerSample, TemperatureSchedule, tell_length
from dncbm.contrastive.written import read_schedule
from dncbm.data.augment import Augmentation
from dncbm.data.views import Views
from dncbm.errors import InvalidInput, UnknownName
from dncbm.training.photos import PhotoTraining

LEARNS = ("both", "images", "adapters")
_TEMPERATURES = {"nt-xent": "0.1", "clip": "learnable:0.07", "siglip": "learnable:0.1"}


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig(PhotoTraining):
    """How towers are trained by contrast; the defaults are for short runs on few photos."""

    batch_size: int = 128
    """Photos per update, of all workers together; every other one of them is a negative."""
    optimizer: Literal["adam", "adamw"] = "adamw"
    weight_decay: float = 0.01
    warmup: float = 0.05
    adaptive_clipping: float | None = None
    loss: str = "nt-xent"
    """`nt-xent` of two views of a photo; `clip` or `siglip` of a photo and its caption."""
    temperature: str | float = ""
    """A schedule as `dncbm.contrastive.written` reads it; by default 0.1 for `nt-xent`,
    the best of what was measured in short runs, and learnable for the others."""
    chunk_size: int | None = None
    """Photos in memory at once: the gradient cache. None: the whole batch."""
    learns: str = "both"
    """Of an image-text model: `both` towers, `images` alone, or `adapters` on frozen ones."""
    projection: int = 128
    """Width of what `nt-xent` sees."""
    clusters: int = 0
    """k-means clusters whose sizes shift each sample's temperature (MM-TS); 0: no shift."""
    rare: float = 0.05
    """Shift of samples in the smallest cluster."""
    frequent: float = 0.20
    """Shift of samples in the largest cluster."""
    smallest: float | None = None
    """Least share of a photo that a view shows; by default 0.1 for `nt-xent` and 0.9 else."""
    colours: float = 1.0
    """Strength of the colour jitter: 1 is brightness, contrast, saturation 0.4 and hue 0.1."""
    grey: float = 0.2
    """Share of views that turn grey."""
    blur: float = 0.0
    """Share of views that are blurred; 0.5 for photos of 100 pixels and more."""

    def __post_init__(self) -> None:
        check_types(self, "training")
        PhotoTraining.__post_init__(self)  # a class with slots has no super() without arguments
        if self.loss not in LOSSES:
            raise UnknownName("contrastive loss", self.loss, LOSSES)
        if self.learns not in LEARNS:
            raise UnknownName("choice of what learns", self.learns, LEARNS)
        if self.batch_size < 2:
            raise InvalidInput(
                f"batch_size is {self.batch_size}; contrast needs at least 2 photos at once."
            )
        if self.chunk_size is not None and self.chunk_size < 1:
            raise InvalidInput(f"chunk_size is {self.chunk_size}; the rule is at least 1.")
        if self.clusters < 0 or self.projection < 1:
            raise InvalidInput(
                f"clusters is {self.clusters}, projection {self.projection}; the rule is at least "
                "0 clusters and a width of at least 1."
            )
        self.schedule(1)  # what is wrong with it is told before any photo is read

    @property
    def has_captions(self) -> bool:
        """Whether photos are compared with texts."""
        return self.loss != "nt-xent"

    def schedule(self, num_photos: int) -> TemperatureSchedule:
        """The temperature by update, for so many photos.

        Raises:
            InvalidInput: not a schedule, or one with a temperature that is not above 0.
        """
        steps = self.updates(num_photos)
        per_epoch = max(1, num_photos // self.batch_size)
        text = _TEMPERATURES[self.loss] if self.temperature == "" else str(self.temperature)
        base = read_schedule(text, steps=steps, per_epoch=per_epoch, seed=self.seed)
        if self.clusters:
            return PerSample(base, self.rare, self.frequent)
        if not base.lowest > 0:
            raise InvalidInput(
                f"The temperature {text!r} falls to {base.lowest:g}; the rule is above 0. Set "
                "clusters, whose shift is added to it, or take a cosine."
            )
        return base

    def new_loss(self, num_photos: int) -> ScheduledLoss:
        """The loss, with negatives from all workers; a schedule that will be cut is told."""
        schedule = self.schedule(num_photos)
        tell_length(schedule, self.updates(num_photos))
        return LOSSES[self.loss](schedule=schedule, gather_distributed=True)

    def views(self, size: int, **statistics: Any) -> Views:
        """Crops of this size."""
        default = 0.9 if self.has_captions else 0.1
        smallest = default if self.smallest is None else self.smallest
        return Views(size=size, smallest=smallest, **statistics)

    def augmentation(self, views: Views) -> Augmentation:
        """Views for `nt-xent`."""
        most = 0.4 * self.colours
        return Augmentation(
            views=views, brightness=most, contrast=most, saturation=most, hue=0.1 * self.colours,
            grey=self.grey, blur=self.blur,
        )  # fmt: skip
