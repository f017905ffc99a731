"""One contrastive training as a value."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

from dncbm.bcos.models.zoo import model_names
from dncbm.bcos.originals import FAMILIES
from dncbm.config import check_types
from dncbm.contrastive.config import PretrainConfig
from dncbm.encoders.untrained import SCRATCH
from dncbm.errors import InvalidInput, UnknownName

IMAGES: Final = "standard_resnet18"
"""What is trained on images alone where nothing is said."""
PAIRS: Final = "mini"
"""What is trained on images and captions where nothing is said."""
_RATES = {"new": 2e-3, "trained": 1e-4, "adapters": 1e-3}
"""Peak learning rates by what is trained."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainRecipe:
    """All choices of one training."""

    model: str | None = None
    """Images alone: a network of ours, `timm:NAME`, `torchvision:NAME`, or an encoder to go on
    with. Images with captions: an encoder as `--encoder` takes it, or `scratch:ARCHITECTURE`."""
    data: str | None = None
    dataset: str | None = None
    captions: str | None = None
    """A list of captions; None: where the photos bring them."""
    size: int | None = None
    """Height and width of the pixels; None: what the model takes, or 96."""
    long_tail: float | None = None
    """Train on an exponential long-tail subset of this ratio."""
    network: Mapping[str, Any] = field(default_factory=dict)
    """Settings of a network of ours, such as `width`."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `PretrainConfig`."""
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        check_types(self)
        if self.size is not None and self.size < 8:
            raise InvalidInput(f"size is {self.size}; it must be at least 8.")

    def config(self) -> PretrainConfig:
        """How to train.

        Raises:
            UnknownName: a setting that training does not have.
            InvalidInput: one that breaks a rule.
        """
        known = [item.name for item in fields(PretrainConfig)]
        for name in self.training:
            if name not in known:
                raise UnknownName("training setting", name, known)
        default = {"loss": "clip" if self.captions else "nt-xent", "seed": self.seed}
        config = PretrainConfig(**default | dict(self.training))
        if "learning_rate" in self.training:
            return config
        adapters = config.has_captions and config.learns == "adapters"
        kind = "adapters" if adapters else "trained" if self.is_trained(config) else "new"
        return replace(config, learning_rate=_RATES[kind])

    def named_model(self, config: PretrainConfig) -> str:
        """The model that is trained."""
        return self.model or (PAIRS if config.has_captions else IMAGES)

    def is_trained(self, config: PretrainConfig) -> bool:
        """Whether its weights are trained already."""
        model = self.named_model(config)
        if model.startswith(f"{SCRATCH}:"):
            return False
        return config.has_captions or not is_new_tower(model)


def is_new_tower(model: str) -> bool:
    """Whether a text names a network without trained weights."""
    return model in model_names() or model.partition(":")[0] in FAMILIES
