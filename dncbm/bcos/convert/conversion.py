"""From a pre-trained network to its B-cos form in one call."""

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import nn

# their rules enter the table as they are imported
from dncbm.bcos.convert import cnn, vit_families
from dncbm.bcos.convert.check import check, noise
from dncbm.bcos.convert.head import move_head
from dncbm.bcos.convert.options import EXACT, ConvertOptions
from dncbm.bcos.convert.parts import pooled_head
from dncbm.bcos.convert.rules import Scan, converted
from dncbm.bcos.convert.vit import VisionTower
from dncbm.bcos.inputs import ImageModel, negated
from dncbm.bcos.layers import LogitLayer
from dncbm.bcos.models.network import Network
from dncbm.errors import InvalidInput, UnknownName

del cnn, vit_families

_SMALL = (64, 64)
"""Tried first for the probe image, as it is fast."""
_COPIED = ("image_size", "output_dim", "preprocess_cfg", "image_mean", "image_std")
"""What open_clip reads from an image tower."""


def convert(
    model: nn.Module, options: ConvertOptions | None = None, **choices: Any
) -> ImageModel:  # fmt: skip
    """The B-cos form of a pre-trained network (Arya et al. 2024).

    Takes convolutional networks whose layers are in the table of `cnn.py` (torchvision and timm
    ResNet, DenseNet, RegNet, ConvNeXt, EfficientNet and the like, open_clip's ResNets) and the
    vision transformers of timm, torchvision and open_clip. Others: `register_converter`.

    Args:
        model: in eval mode if it has batch norms; not changed. Takes (n, 3, h, w).
        options: the design choices; the shipped recipe if None.
        choices: single options, in place of those.

    Returns:
        A module that takes what `model` takes, normalised pixels. Inside, n becomes [n, -n] and
        the first weights w become [w, -w] / 2. All its parameters can be trained; it is in the
        mode (eval or training) of `model`.

    Raises:
        InvalidInput: an unsupported layer (with its path and what to do), weights that are not
            finite, a first convolution without three input channels, or a failed check.
        UnknownName: an unknown value of an option.
    """
    options = replace(options or ConvertOptions(), **_known(choices))
    _require_finite(model)
    network = _network(model, options)
    if options.logit_bias is not None:
        network = nn.Sequential(network, LogitLayer(bias=options.logit_bias))
    result = ImageModel(network, encoding="negated")
    return result.train(model.training).requires_grad_(True)


def convert_clip(
    model: nn.Module, options: ConvertOptions | None = None, **choices: Any
) -> nn.Module:  # fmt: skip
    """An open_clip model with a B-cos image tower; everything else is shared with the original.

    `encode_image`, `encode_text` and the preprocessing go on as before.

    Raises:
        InvalidInput: the model has no image tower `visual`; and as `convert`.
    """
    visual = getattr(model, "visual", None)
    if not isinstance(visual, nn.Module):
        raise InvalidInput(
            f"{type(model).__name__} has no image tower `visual`, as open_clip's CLIP and "
            "CustomTextCLIP have. Give such a model, or convert its image network alone."
        )
    tower: Any = convert(visual, options, **choices)
    for name in _COPIED:
        if hasattr(visual, name):
            setattr(tower, name, copy.deepcopy(getattr(visual, name)))
    result = copy.copy(model)
    result._modules = model._modules | {"visual": tower}
    return result


def _network(model: nn.Module, options: ConvertOptions) -> nn.Module:
    network = _walked(model, options)
    if isinstance(network, VisionTower):  # all its parts are known
        return network
    if options.check or options.head_before_pool is not False:
        pixels = noise(model, network, _sizes(model))
        _move_head(network, pixels, options)
    if options.check:
        exact = replace(EXACT, head_before_pool=options.head_before_pool)

        def exactly(model: nn.Module) -> nn.Module:
            twin = _walked(model, exact)
            _move_head(twin, pixels.to(next(twin.parameters())), exact)
            return twin

        check(model, network, exactly, pixels)
    return network


def _walked(model: nn.Module, options: ConvertOptions) -> nn.Module:
    copied = copy.deepcopy(model)
    _read_six_channels(copied)
    if isinstance(copied, Network):
        copied.in_chans = 6
    return converted(copied, Scan(options=options)).train(model.training)


def _move_head(network: nn.Module, pixels: torch.Tensor, options: ConvertOptions) -> None:
    if options.head_before_pool is False:
        return
    if isinstance(network, Network):  # where its mean is taken is a setting of its own
        head: Any = network.get_submodule(network.head_path)
        pooled = pooled_head(head)
        pooled.keep_axes = True
        network.set_submodule(network.head_path, pooled)
        network.is_bcos = True
    else:
        training = network.training
        move_head(network.eval(), negated(pixels), required=bool(options.head_before_pool))
        network.train(training)


def _read_six_channels(model: nn.Module) -> None:
    """Let the first convolution read [n, -n] as it read n."""
    convs = ((p, m) for p, m in model.named_modules() if isinstance(m, nn.Conv2d))
    path, conv = next(convs, ("", None))
    if conv is None:
        raise InvalidInput(
            f"{type(model).__name__} has no convolution that could read an image. "
            "Networks that cut patches by reshaping are not supported."
        )
    if conv.in_channels != 3 or conv.groups != 1:
        raise InvalidInput(
            f"The first convolution {path!r} has {conv.in_channels} input channels in "
            f"{conv.groups} groups; the rule is 3 in one, for RGB images. Build the network with "
            "in_chans=3."
        )
    weight = torch.cat([conv.weight, -conv.weight], dim=1).detach() / 2
    conv.in_channels, conv.weight = 6, nn.Parameter(weight)


def _sizes(model: nn.Module) -> list[tuple[int, int]]:
    """Small, what the network says that it takes, and the usual one."""
    sizes = [_SMALL]
    for part in model.modules():
        declared = getattr(part, "image_size", None) or getattr(part, "img_size", None)
        config = getattr(part, "default_cfg", None) or getattr(part, "pretrained_cfg", None)
        if declared is None and isinstance(config, dict):
            declared = config.get("input_size")
        if isinstance(declared, int):
            sizes.append((declared, declared))
        elif isinstance(declared, tuple | list) and len(declared) >= 2:
            sizes.append((int(declared[-2]), int(declared[-1])))
    return list(dict.fromkeys([*sizes, (224, 224)]))


def _require_finite(model: nn.Module) -> None:
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise InvalidInput(
                f"{name!r} has values that are not finite; the rule is finite weights. "
                "Load an intact checkpoint."
            )


def _known(choices: dict[str, Any]) -> dict[str, Any]:
    known = ConvertOptions.__dataclass_fields__
    for name in choices:
        if name not in known:
            raise UnknownName("conversion option", name, known)
    return choices
