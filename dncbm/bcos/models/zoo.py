"""`create_model`: the networks of B-cos v2 and ordinary twins, by name."""

from collections.abc import Callable
from typing import Any

from torch import nn

from dncbm.bcos.models import resnet
from dncbm.bcos.models.parts import Parts, bcos_parts, standard_parts
from dncbm.errors import UnknownName

_STANDARD = "standard_"
Build = Callable[..., nn.Module]


def _resnet(name: str, **fixed: Any) -> Build:
    bottleneck, depths = resnet.DEPTHS[name]

    def build(parts: Parts, **settings: Any) -> nn.Module:
        return resnet.ResNet(parts, depths, bottleneck=bottleneck, **fixed | settings)

    return build


BUILDERS: dict[str, Build] = {
    **{name: _resnet(name) for name in resnet.DEPTHS},
    "resnet50_long": _resnet("resnet50", stochastic_depth=0.1),
    "resnet152_long": _resnet("resnet152", stochastic_depth=0.1),
    "resnext50_32x4d": _resnet("resnet50", groups=32, per_group=4),
}
TWINS = tuple(name for name in BUILDERS if "long" not in name)
"""Those that exist as ordinary networks too, as `standard_NAME`."""


def create_model(
    name: str,
    *,
    num_classes: int = 1000,
    in_chans: int | None = None,
    b: float = 2.0,
    max_out: int = 1,
    norm: str | None = None,
    antialiased: bool = False,
    **settings: Any,
) -> nn.Module:
    """A network with random weights.

    Args:
        name: one of B-cos v2, or of an ordinary twin (`standard_resnet18`).
        num_classes: k.
        in_chans: channels of the images; 6 of a B-cos network (`dncbm.bcos.inputs`), 3 of others.
        b: exponent B.
        max_out: units per output of B-cos layers.
        norm: of maps, `batch` (uncentred), `position` or `layer`; by default the architecture's.
        antialiased: take strides after a low-pass, against grids in explanations.
        settings: of the architecture, such as `small_inputs`, `width` or `stochastic_depth`.

    Raises:
        UnknownName: no such network or norm.
        InvalidInput: B below 1 or no unit.
    """
    known = [*BUILDERS, *(_STANDARD + twin for twin in TWINS)]
    if name not in known:
        raise UnknownName("network", name, known)
    standard = name.startswith(_STANDARD)
    parts = standard_parts() if standard else bcos_parts(
        b=b, max_out=max_out, norm=norm or "batch", antialiased=antialiased
    )  # fmt: skip
    channels = in_chans or (3 if standard else 6)
    build = BUILDERS[name.removeprefix(_STANDARD)]
    return build(parts, num_classes=num_classes, in_chans=channels, **settings)
