"""One distillation as a value."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from dncbm.config import check_types, checked_fields
from dncbm.distillation.config import Distillation
from dncbm.errors import InvalidInput, UnknownName


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillRecipe:
    """All choices of one distillation."""

    teacher: str
    """An encoder as `--encoder` takes it, `torchvision:NAME[@FILE]`, `timm:NAME[@FILE]`,
    `bcos:DIR`, or a directory: a model with a bottleneck, or what was distilled before."""
    student: str
    """`scratch:NAME` of our networks, `scratch:timm:NAME` or `scratch:torchvision:NAME` without
    trained weights, `timm:NAME[@FILE]`, `torchvision:NAME[@FILE]`, or for encoders an open_clip
    architecture, or the directory of one that was distilled before."""
    data: str | None = None
    dataset: str | None = None
    size: int | None = None
    """Height and width of the student's pixels; None: its own where it has one, else the
    teacher's."""
    shots: int | None = None
    """Training photos per class; None: all."""
    network: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the student's architecture, such as `width` or `antialiased`."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `Distillation`."""
    seed: int = 0
    device: str = "auto"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "DistillRecipe":
        """The recipe with these fields, as JSON and TOML have them.

        Raises:
            UnknownName: a field that no recipe has.
            InvalidInput: no teacher or student, or a value of another type.
        """
        for name in ("teacher", "student"):
            if not values.get(name):
                raise InvalidInput(f"No {name} is given. Name one: --{name} NETWORK.")
        return cls(**checked_fields(cls, values, "recipe"))

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("size", "shots"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidInput(f"{name} is {value}; it must be at least 1.")

    def config(self) -> Distillation:
        """How to train.

        Raises:
            UnknownName: a setting that training does not have.
            InvalidInput: a value that breaks a rule.
        """
        known = [item.name for item in fields(Distillation)]
        for name in self.training:
            if name not in known:
                raise UnknownName("training setting", name, known)
        return Distillation(**{"seed": self.seed, **self.training})
