"""All numbers that decide a training run, checked once."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dncbm.config import check_types
from dncbm.errors import InvalidInput, UnknownName
from dncbm.sae.activations import ACTIVATIONS, Activation, build_activation
from dncbm.sae.init import Init
from dncbm.sae.levels import By, Levels, Weighting
from dncbm.sae.loss import Reduction
from dncbm.training.precision import PRECISIONS

_CHOICES = {
    "activation": tuple(ACTIVATIONS),
    "reduction": ("mean", "sum"),
    "init": ("paper", "kaiming", "tied", "data"),
    "schedule": ("constant", "cosine", "held"),
    "precision": PRECISIONS,
    "levels_by": ("concepts", "rank"),
    "levels_weighting": ("uniform", "reverse"),
}
_POSITIVE = ("embed_dim", "num_concepts", "k", "epochs", "batch_size", "lr", "aux_k", "bandwidth")
_NOT_NEGATIVE = (
    "l1",
    "l0",
    "sparsity_warmup",
    "archetypes",
    "relaxation",
    "aux_weight",
    "dead_after",
    "warmup",
    "resample_every",
    "resample_rows",
    "max_steps",
    "seed",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SaeConfig:
    """One training run; `preset` makes good ones."""

    embed_dim: int
    """Width of the embeddings."""
    num_concepts: int
    """Rows of the dictionary."""
    activation: str = "topk"
    """`relu`, `topk`, `batchtopk`, `jumprelu` or `gated`."""
    k: int = 32
    """Codes kept per row by `topk` and `batchtopk`, the mean number that `jumprelu` aims at;
    `relu` and `gated` ignore it."""
    normalize: bool = False
    """Divide each embedding by its length first."""
    center: bool = False
    """Subtract the mean embedding."""
    scale: bool = False
    """Divide by one number, so that the mean square of a coordinate is 1."""
    biases: bool = True
    """Learn the biases. Without them (and without `center`) codes are linear in the embedding
    where they are active, as concepts inside a B-cos network must be."""
    init: Init = "tied"
    """Start of encoder and dictionary, see `dncbm.sae.init`."""
    reduction: Reduction = "mean"
    """Of the squared error over the width."""
    l1: float = 0.0
    """Weight of the sum of a row's codes; of its open gates for `gated`."""
    l0: float = 0.0
    """Weight of `jumprelu`'s penalty (mean number of active codes / k - 1)²."""
    sparsity_warmup: float = 0.0
    """Share of the steps over which the sparsity penalty grows linearly to its weight."""
    bandwidth: float = 0.03
    """Width of `jumprelu`'s kernel, in the units of standardised embeddings."""
    levels: Sequence[float] = ()
    """Matryoshka: where nested reconstructions end, as shares of the dictionary or of k, see
    `levels_by`; the last is 1.0. Empty: one level."""
    levels_by: By = "concepts"
    """`concepts`, or `rank` (MSAE)."""
    levels_weighting: Weighting = "uniform"
    """Of the levels' errors: `uniform`, or `reverse` (falling with the level)."""
    archetypes: int = 0
    """Data points that dictionary rows are mixtures of (Archetypal SAE); 0 = free rows."""
    relaxation: float = 1.0
    """How far such a row may leave its mixture, in mean lengths of the points."""
    aux_weight: float = 0.0
    """Weight of the auxiliary loss of dead concepts; 0 switches it off."""
    aux_k: int = 256
    """Dead concepts that take part in the auxiliary loss, per row."""
    dead_after: int = 0
    """Rows without a firing after which a concept counts as dead for the auxiliary loss."""
    resample_every: int = 0
    """Epochs between resamplings of dead concepts; 0 = never. None takes place when fewer
    than this many epochs and one would remain."""
    resample_rows: int = 819_200
    """Rows whose loss is computed for resampling, at most."""
    exchange: Sequence[float] = ()
    """Shares of the steps after which concepts that explain least give way to directions that
    would explain more, see `dncbm.sae.exchange`; each between 0 and 1, ascending."""
    epochs: int = 1
    """Passes over all rows."""
    max_steps: int = 0
    """Stop after so many steps; 0 = no limit."""
    batch_size: int = 4096
    """Rows per step; the last batch of an epoch may be smaller."""
    lr: float = 5e-4
    """Adam's learning rate."""
    schedule: str = "constant"
    """`constant`; `cosine`: linear warm-up, then half a cosine down to 0; `held`: warm-up, then
    constant, then straight down to 0 over the last fifth."""
    warmup: int = 0
    """Steps of linear warm-up (not with `constant`)."""
    precision: str = "auto"
    """Of the large matrix products: `float32`, `bfloat16`, or `auto`, which takes bfloat16 where
    the hardware multiplies it. Parameters and Adam stay float32."""
    seed: int = 49
    """Of initialisation, order of rows and resampling."""

    def __post_init__(self) -> None:
        check_types(self, "SAE")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise UnknownName(f"SAE {name}", str(getattr(self, name)), known)
        for name in _POSITIVE:
            _require(self, name, above=0.0)
        for name in _NOT_NEGATIVE:
            _require(self, name, above=None)
        if self.activation not in ("relu", "gated") and self.k > self.num_concepts:
            raise InvalidInput(
                f"k is {self.k}, but there are only {self.num_concepts} concepts. Lower k or "
                "raise num_concepts."
            )

        object.__setattr__(self, "levels", tuple(float(end) for end in self.levels))
        if not all(math.isfinite(end) for end in self.levels):
            raise InvalidInput(f"SAE levels is {list(self.levels)}; each end must be finite.")
        if self.sparsity_warmup > 1:
            raise InvalidInput(
                f"SAE sparsity_warmup is {self.sparsity_warmup}; it is a share of the steps, at "
                "most 1."
            )
        self.build_levels()
        self._check_exchange()
        if not self.biases and (self.center or self.exchange):
            raise InvalidInput(
                "An SAE without biases neither subtracts a mean nor exchanges concepts, which "
                "brings biases. Set center to False and exchange to ()."
            )
        if self.archetypes and self.resample_every:
            raise InvalidInput(
                "Resampling gives dead concepts free directions, which mixtures of archetypes "
                "are not. Set resample_every to 0 or archetypes to 0."
            )

    def _check_exchange(self) -> None:
        shares = tuple(float(share) for share in self.exchange)
        object.__setattr__(self, "exchange", shares)
        if any(not a < b < 1 for a, b in zip((0.0, *shares), shares, strict=False)):
            raise InvalidInput(
                f"SAE exchange is {list(shares)}; the rule is shares of the steps between 0 and "
                "1, ascending."
            )
        if shares and self.archetypes:
            raise InvalidInput(
                "An exchange brings free directions, which mixtures of archetypes are not. Set "
                "exchange to () or archetypes to 0."
            )

    def steps_per_epoch(self, num_rows: int) -> int:
        """Batches in one pass over `num_rows` rows, the last one possibly smaller."""
        return -(-num_rows // self.batch_size)

    def total_steps(self, num_rows: int) -> int:
        """Steps of the whole run on `num_rows` rows."""
        steps = self.epochs * self.steps_per_epoch(num_rows)
        return min(steps, self.max_steps) if self.max_steps else steps

    def build_activation(self) -> Activation:
        """A fresh activation of the configured kind."""
        settings: dict[str, dict[str, int | float]] = {
            "topk": {"k": self.k},
            "batchtopk": {"k": self.k},
            "jumprelu": {"num_concepts": self.num_concepts, "bandwidth": self.bandwidth},
            "gated": {"num_concepts": self.num_concepts},
        }
        return build_activation(self.activation, settings.get(self.activation, {}))

    def build_levels(self) -> Levels | None:
        """Nested reconstructions, where configured.

        Raises:
            InvalidInput: ends that do not fit, or an activation that has none.
        """
        if not self.levels:
            return None
        if self.activation not in ("topk", "batchtopk"):
            raise InvalidInput(
                f"SAE levels need the activation topk or batchtopk, not {self.activation!r}. "
                "Change activation, or leave levels empty."
            )
        if self.levels[-1] != 1.0:
            raise InvalidInput(
                f"SAE levels end at {self.levels[-1]:g}; the last end must be 1.0, the whole."
            )
        if any(b <= a for a, b in zip((0.0, *self.levels), self.levels, strict=False)):
            raise InvalidInput(
                f"SAE levels end at {list(self.levels)}; the rule is shares above 0, ascending."
            )
        whole = self.k if self.levels_by == "rank" else self.num_concepts
        ends = sorted({max(1, round(share * whole)) for share in self.levels})
        return Levels(self.levels_by, tuple(ends), self.levels_weighting)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for manifests; `SaeConfig(**values)` is the way back."""
        return asdict(self) | {"levels": list(self.levels), "exchange": list(self.exchange)}


def _require(config: SaeConfig, name: str, *, above: float | None) -> None:
    value = getattr(config, name)
    fine = math.isfinite(value) and (value >= 0 if above is None else value > above)
    if not fine:
        rule = ">= 0" if above is None else "> 0"
        raise InvalidInput(f"SAE {name} is {value}; the rule is {rule}.")
