"""One B-cosification as a value."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

from dncbm.bcos.convert import ConvertOptions
from dncbm.bcos.layers import logit_bias
from dncbm.bcos.originals import FAMILIES
from dncbm.bcos.train import LABEL_LOSSES, TEACHER_LOSSES, TrainingConfig
from dncbm.config import check_types, checked_fields
from dncbm.errors import InvalidInput, UnknownName

SCRATCH: Final = "scratch"
_DEFAULTS: dict[str, dict[str, Any]] = {
    "encoder": {"loss": "pairwise", "learning_rate": 1e-4},
    "classifier": {"loss": "uniform-off-label", "learning_rate": 1e-4},
    SCRATCH: {"loss": "uniform-off-label", "learning_rate": 1e-3},
}
"""Where weights are trained already, the recipe's rate is a tenth of that from scratch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BcosRecipe:
    """All choices of one B-cosification."""

    model: str
    """An encoder as `--encoder` takes it, `torchvision:NAME[@FILE]`, `timm:NAME[@FILE]`, or
    `scratch:NAME` for a B-cos network without trained weights."""
    teacher: str | None = None
    """Encoder to learn from; None: the model itself."""
    data: str | None = None
    dataset: str | None = None
    b: float = 2.0
    """Exponent B of the layers."""
    size: int | None = None
    """Height and width of the pixels; None: what the model takes."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `TrainingConfig`."""
    convert: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `ConvertOptions`."""
    seed: int = 0
    device: str = "auto"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "BcosRecipe":
        """The recipe with these fields, as JSON and TOML have them.

        Raises:
            UnknownName: a field that no recipe has.
            InvalidInput: no model, a value of another type, or one that breaks a rule.
        """
        if "model" not in values:
            raise InvalidInput("No model is given. Name the network to convert: model = 'mini'.")
        return cls(**checked_fields(cls, values, "recipe"))

    def __post_init__(self) -> None:
        check_types(self)
        if self.size is not None and self.size < 1:
            raise InvalidInput(f"size is {self.size}; it must be at least 1.")

    @property
    def kind(self) -> str:
        """`encoder`, `classifier` or `scratch`."""
        scheme = self.model.partition(":")[0]
        if scheme == SCRATCH:
            return SCRATCH
        return "classifier" if scheme in FAMILIES else "encoder"

    def config(self) -> TrainingConfig:
        """How to train.

        Raises:
            UnknownName: a setting that training does not have, or a loss of the other kind.
        """
        known = [item.name for item in fields(TrainingConfig)]
        for name in self.training:
            if name not in known:
                raise UnknownName("training setting", name, known)
        config = TrainingConfig(**{**_DEFAULTS[self.kind], "seed": self.seed, **self.training})
        allowed = TEACHER_LOSSES if self.kind == "encoder" else LABEL_LOSSES
        if config.loss not in allowed:
            raise UnknownName(f"loss of {self.kind} training", config.loss, allowed)
        if self.convert.get("bias") == "decay" and not config.bias_decay:
            raise InvalidInput("convert.bias is decay, so training.bias_decay must be above 0.")
        return config

    def conversion(self, num_classes: int | None = None) -> dict[str, Any]:
        """Fields of `ConvertOptions`, checked."""
        start = {} if num_classes is None else {"logit_bias": logit_bias(num_classes)}
        known = [item.name for item in fields(ConvertOptions)]
        for name in self.convert:
            if name not in known:
                raise UnknownName("conversion option", name, known)
        return asdict(ConvertOptions(**{"b": self.b, **start, **self.convert}))
