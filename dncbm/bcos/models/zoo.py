"""`create_model`: the networks of B-cos v2 and ordinary twins, by name."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from dncbm.bcos.models.convnext import ConvNeXt
from dncbm.bcos.models.densenet import DenseNet
from dncbm.bcos.models.network import Network
from dncbm.bcos.models.parts import Parts, bcos_parts, standard_parts, standard_vit_parts
from dncbm.bcos.models.resnet import ResNet
from dncbm.bcos.models.vgg import VGG
from dncbm.bcos.models.vit import ViT
from dncbm.errors import InvalidInput, UnknownName

_STANDARD = "standard_"


class Architecture(NamedTuple):
    """A class and what its name fixes."""

    build: Callable[..., Network]
    settings: dict[str, Any]
    norm: str = "batch"
    eps: float = 1e-5
    twin: Callable[..., Parts] | None = None
    """Parts of the ordinary network of the same name, where there is one."""
    has_strides: bool = True
    """Of convolutions that overlap."""


def _resnet(*depths: int, **settings: Any) -> Architecture:
    return Architecture(ResNet, {"depths": depths, **settings}, twin=standard_parts)


def _densenet(*depths: int, **settings: Any) -> Architecture:
    return Architecture(DenseNet, {"depths": depths, **settings}, twin=standard_parts)


def _long(architecture: Architecture) -> Architecture:
    return architecture._replace(twin=None)


def _convnext(size: dict[str, Any], norm: str, eps: float) -> Architecture:
    return Architecture(ConvNeXt, size, norm, eps, has_strides=False)


_NEXT_TINY = {"widths": (96, 192, 384, 768), "depths": (3, 3, 9, 3), "stochastic_depth": 0.1}
_NEXT_BASE = {"widths": (128, 256, 512, 1024), "depths": (3, 3, 27, 3), "stochastic_depth": 0.5}

_STEM_BIG = (64, 128, 128, 256, 256, 512)
_VITS: dict[str, tuple[int, int, int, tuple[int, ...]]] = {
    "ti": (192, 3, 12, (24, 48, 96, 192)),
    "s": (384, 6, 12, (48, 96, 192, 384)),
    "b": (768, 12, 12, _STEM_BIG),
    "l": (1024, 16, 14, _STEM_BIG),
}
"""Width, heads, depth, and channels of the stem of a ViT-C, which has one encoder less."""


def _vits() -> dict[str, Architecture]:
    found = {}
    for size, (width, heads, depth, stem) in _VITS.items():
        settings: dict[str, Any] = {"width": width, "heads": heads, "depth": depth}
        plain = Architecture(ViT, settings, twin=standard_vit_parts, has_strides=False)
        settings = settings | {"depth": depth - 1, "stem": stem, "patch_size": 1}
        found[f"simple_vit_{size}_patch16_224"] = plain
        found[f"vitc_{size}_patch1_14"] = Architecture(
            ViT, settings, "layer", twin=standard_vit_parts
        )
    return found


ARCHITECTURES: dict[str, Architecture] = {
    "resnet18": _resnet(2, 2, 2, 2),
    "resnet34": _resnet(3, 4, 6, 3),
    "resnet50": _resnet(3, 4, 6, 3, bottleneck=True),
    "resnet101": _resnet(3, 4, 23, 3, bottleneck=True),
    "resnet152": _resnet(3, 8, 36, 3, bottleneck=True),
    "resnext50_32x4d": _resnet(3, 4, 6, 3, bottleneck=True, groups=32, per_group=4),
    "densenet121": _densenet(6, 12, 24, 16),
    "densenet161": _densenet(6, 12, 36, 24, growth=48, width=96),
    "densenet169": _densenet(6, 12, 32, 32),
    "densenet201": _densenet(6, 12, 48, 32),
    "vgg11_bnu": Architecture(VGG, {"depths": (1, 1, 2, 2, 2)}),
    "convnext_tiny": _convnext(_NEXT_TINY, "position", 1e-6),
    "convnext_base": _convnext(_NEXT_BASE, "position", 1e-6),
    "convnext_tiny_bnu": _convnext(_NEXT_TINY, "batch", 1e-5),
    "convnext_base_bnu": _convnext(_NEXT_BASE, "batch", 1e-5),
    **_vits(),
    # trained longer, the ResNets with blocks left out
    "densenet121_long": _long(_densenet(6, 12, 24, 16)),
    "resnet50_long": _long(_resnet(3, 4, 6, 3, bottleneck=True, stochastic_depth=0.1)),
    "resnet152_long": _long(_resnet(3, 8, 36, 3, bottleneck=True, stochastic_depth=0.1)),
}


def model_names() -> list[str]:
    """What `create_model` knows."""
    twins = [_STANDARD + name for name, found in ARCHITECTURES.items() if found.twin]
    return [*ARCHITECTURES, *twins]


def create_model(
    name: str, *, num_classes: int = 1000, in_chans: int | None = None, b: float = 2.0,
    max_out: int = 1, norm: str | None = None, antialiased: bool = False, **settings: Any,
) -> Network:  # fmt: skip
    """A network with random weights; see `load_weights` for trained ones.

    Args:
        name: one of B-cos v2, or of an ordinary twin (`standard_resnet18`).
        num_classes: k.
        in_chans: channels of the images; 6 of a B-cos network (`dncbm.bcos.inputs`), 3 of others.
        b: exponent B.
        max_out: units per output of B-cos layers.
        norm: of maps, a name in `parts.NORMS`; by default the architecture's own.
        antialiased: take strides after a low-pass, against grids in explanations; not of
            ConvNeXts and ViTs without a stem, whose patches do not overlap.
        settings: of the architecture, such as `small_inputs`, `stochastic_depth` or `patch_size`.

    Raises:
        UnknownName: no such network, norm or setting.
        InvalidInput: a value out of range, or a setting that the network cannot have.
    """
    if name not in model_names():
        raise UnknownName("network", name, model_names())
    standard = name.startswith(_STANDARD)
    architecture = ARCHITECTURES[name.removeprefix(_STANDARD)]
    _check_settings(name, architecture, settings, antialiased)
    if standard and (b, max_out, norm) != (2.0, 1, None):
        raise InvalidInput(
            f"{name} is an ordinary network: b, max_out and norm are of B-cos networks. "
            f"Leave them out, or create {name.removeprefix(_STANDARD)!r}."
        )
    parts = architecture.twin(antialiased=antialiased) if standard and architecture.twin else (
        bcos_parts(
            b=b, max_out=max_out, norm=norm or architecture.norm, eps=architecture.eps,
            antialiased=antialiased,
        )
    )  # fmt: skip
    channels = in_chans if in_chans is not None else 3 if standard else 6
    return architecture.build(
        parts, **architecture.settings | settings, num_classes=num_classes, in_chans=channels
    )


def _check_settings(
    name: str, architecture: Architecture, settings: dict[str, Any], antialiased: bool
) -> None:
    known = set(inspect.signature(architecture.build).parameters) - {"parts"}
    for setting in settings:
        if setting not in known:
            raise UnknownName(f"setting of {name}", setting, known)
    if antialiased and not architecture.has_strides:
        raise InvalidInput(
            f"{name} has no anti-aliased form, as its patches do not overlap. "
            "Take a ResNet, DenseNet or ViT-C."
        )
