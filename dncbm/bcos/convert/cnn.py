"""Rules for the layers of convolutional networks (torch, torchvision, timm, open_clip)."""

from typing import Any

import torch
from torch import Tensor, nn

from dncbm.bcos import norms
from dncbm.bcos.convert.options import ConvertOptions
from dncbm.bcos.convert.parts import (
    AttentionPool,
    BatchNormCentred2d,
    Gate,
    bcos_linear,
    exponent,
    filled,
    plain_linear,
    start_b,
)
from dncbm.bcos.convert.rules import Scan, converted, rule
from dncbm.bcos.layers import BcosConv2d
from dncbm.bcos.models.parts import AntialiasedBcosConv2d, AntialiasedConv2d, Halved

_TORCH = "torch.nn.modules"
_ACTS = f"{_TORCH}.activation"
_TIMM = "timm.layers"
_CLIP = "open_clip.transformer"
_OWN = "dncbm.bcos.models.parts"


@rule(
    f"{_TORCH}.linear.Identity", f"{_TORCH}.flatten.Flatten", f"{_TORCH}.flatten.Unflatten",
    *(f"{_TORCH}.dropout.{name}" for name in ("Dropout", "Dropout2d")),
    *(f"{_TORCH}.pooling.{name}" for name in ("AvgPool2d", "AdaptiveAvgPool2d")),
    *(f"{_TORCH}.padding.{name}" for name in ("ZeroPad2d", "ReflectionPad2d", "ReplicationPad2d")),
    f"{_TORCH}.upsampling.Upsample", f"{_TORCH}.pixelshuffle.PixelShuffle",
    "torchvision.ops.stochastic_depth.StochasticDepth", "torchvision.ops.misc.Permute",
    f"{_OWN}.StochasticDepth", f"{_OWN}.Halved", "dncbm.bcos.layers.LogitLayer",
    f"{_TIMM}.drop.DropPath", f"{_TIMM}.layer_scale.LayerScale",
    f"{_TIMM}.layer_scale.LayerScale2d", f"{_TIMM}.blur_pool.BlurPool2d",
    *(f"{_TIMM}.adaptive_avgmax_pool.FastAdaptive{name}Pool"
      for name in ("Avg", "Max", "AvgMax", "CatAvgMax")),
    f"{_CLIP}.LayerScale",
)  # fmt: skip
def _linear_already(layer: nn.Module, scan: Scan) -> nn.Module:
    """Linear, or a choice among its inputs."""
    return layer


@rule(f"{_TORCH}.conv.Conv2d", f"{_OWN}.AntialiasedConv2d")
def _conv(conv: Any, scan: Scan) -> nn.Module:
    options = scan.options
    bias = conv.bias if options.biased else None
    smooth = isinstance(conv, AntialiasedConv2d) or (options.antialiased and _is_uneven(conv))
    kind: type[BcosConv2d] = AntialiasedBcosConv2d if smooth else BcosConv2d
    with torch.device("meta"):
        layer = kind(
            conv.in_channels, conv.out_channels, conv.kernel_size,
            stride=2 if smooth else conv.stride, padding=conv.padding,
            dilation=conv.dilation, groups=conv.groups,
            padding_mode=conv.padding_mode, bias=bias is not None, b=start_b(options),
            unit_norm=options.normalize_weights,
        )  # fmt: skip
    return exponent(filled(layer, linear__weight=conv.weight, linear__bias=bias), options)


def _is_uneven(layer: Any) -> bool:
    """Whether a stride of 2 lets some pixels take part in more windows than their neighbours."""
    sides = tuple(_pair(layer.kernel_size))
    return tuple(_pair(layer.stride)) == (2, 2) and all(side % 2 == 1 for side in sides)


def _pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value)


@rule(f"{_TORCH}.linear.Linear", f"{_TIMM}.linear.Linear")
def _linear(linear: Any, scan: Scan) -> nn.Module:
    return bcos_linear(linear.weight, linear.bias, scan.options)


@rule(f"{_TORCH}.batchnorm.BatchNorm2d", f"{_TORCH}.batchnorm.SyncBatchNorm")
def _batch_norm(norm: Any, scan: Scan) -> nn.Module:
    if norm.running_var is None:
        raise scan.refusal(norm, "has no running statistics, so no map of its own")
    if norm.training:
        then = "Call eval() on the network, then convert it; the result can be trained."
        raise scan.refusal(norm, "is in training mode, where its map depends on the batch", then)
    if scan.options.norm == "centred":
        return _centred(norm, scan.options)
    bias = _bias_of(norm, scan.options)
    with torch.device("meta"):
        layer = norms.BatchNormUncentered2d(
            norm.num_features, eps=norm.eps, momentum=norm.momentum,
            affine=norm.weight is not None, bias=bias is not None,
        )  # fmt: skip
    return filled(layer, weight=norm.weight, bias=bias, **_statistics(norm))


def _centred(norm: Any, options: ConvertOptions) -> nn.Module:
    bias = norm.bias if options.biased else None
    with torch.device("meta"):
        layer = BatchNormCentred2d(
            norm.num_features, eps=norm.eps, momentum=norm.momentum, affine=norm.weight is not None
        )
        if bias is None:
            layer.register_parameter("bias", None)
    return filled(layer, weight=norm.weight, bias=bias, **_statistics(norm))


def _bias_of(norm: Any, options: ConvertOptions) -> Tensor | None:
    """Bias - mean * weight / std: what a norm that keeps the mean in x has to add."""
    if not options.biased or options.norm == "uncentred-plain":
        return norm.bias if options.biased else None
    shift = -norm.running_mean * (norm.running_var + norm.eps).rsqrt()
    shift = shift if norm.weight is None else shift * norm.weight
    return shift if norm.bias is None else shift + norm.bias


def _statistics(norm: Any) -> dict[str, Tensor]:
    names = ("running_mean", "running_var", "num_batches_tracked")
    return {name: getattr(norm, name) for name in names}


@rule(f"{_TIMM}.norm_act.BatchNormAct2d")
def _batch_norm_act(norm: Any, scan: Scan) -> nn.Module:
    after = [converted(getattr(norm, name), scan.below(name)) for name in ("drop", "act")]
    return nn.Sequential(_batch_norm(norm, scan), *after)


@rule(
    f"{_TORCH}.normalization.LayerNorm", f"{_TIMM}.norm.LayerNorm", f"{_TIMM}.norm.LayerNormFp32",
    f"{_CLIP}.LayerNorm", f"{_CLIP}.LayerNormFp32",
)  # fmt: skip
def _layer_norm(norm: Any, scan: Scan) -> nn.Module:
    if len(norm.normalized_shape) != 1:
        raise scan.refusal(
            norm, f"is over axes of {tuple(norm.normalized_shape)}, not the last one"
        )
    return _channel_norm(norms.LayerNorm, norm, norm.normalized_shape[0], scan.options)


@rule(
    f"{_TIMM}.norm.LayerNorm2d", f"{_TIMM}.norm.LayerNorm2dFp32",
    "torchvision.models.convnext.LayerNorm2d",
)  # fmt: skip
def _layer_norm_2d(norm: Any, scan: Scan) -> nn.Module:
    return _channel_norm(norms.PositionNorm2d, norm, norm.normalized_shape[0], scan.options)


@rule(
    f"{_TORCH}.normalization.GroupNorm", f"{_TIMM}.norm.GroupNorm", f"{_TIMM}.norm.GroupNorm1"
)  # fmt: skip
def _group_norm(norm: Any, scan: Scan) -> nn.Module:
    return _channel_norm(
        norms.GroupNorm2d, norm, norm.num_channels, scan.options, groups=norm.num_groups
    )


def _channel_norm(
    kind: type[nn.Module], norm: Any, width: int, options: ConvertOptions, **arguments: int
) -> nn.Module:
    bias = norm.bias if options.biased else None
    with torch.device("meta"):
        layer = kind(
            width, eps=norm.eps, affine=norm.weight is not None, bias=bias is not None, **arguments
        )
    return filled(layer, weight=norm.weight, bias=bias)


@rule(*(f"{_ACTS}.{name}" for name in ("ReLU", "LeakyReLU", "PReLU")))
def _piecewise_linear(activation: Any, scan: Scan) -> nn.Module:
    if scan.options.activation == "identity":
        return nn.Identity()
    if hasattr(activation, "inplace"):
        activation.inplace = False
    return activation


@rule(
    *(f"{_ACTS}.{name}" for name in (
        "CELU", "ELU", "GELU", "Hardswish", "Hardtanh", "Mish", "ReLU6", "SELU", "SiLU",
        "Softsign", "Tanh",
    )),
    *(f"{_TIMM}.activations.{name}" for name in (
        "GELU", "GELUTanh", "HardMish", "HardSwish", "Mish", "QuickGELU", "Swish", "Tanh",
    )),
    *(f"{_TIMM}.activations_me.{name}Me" for name in ("HardMish", "HardSwish", "Mish", "Swish")),
    f"{_CLIP}.QuickGELU",
)  # fmt: skip
def _smooth(activation: nn.Module, scan: Scan) -> nn.Module:
    return nn.Identity() if scan.options.activation == "identity" else Gate(activation)


@rule(
    f"{_TIMM}.squeeze_excite.SEModule", f"{_TIMM}.squeeze_excite.EffectiveSEModule",
    "timm.models._efficientnet_blocks.SqueezeExcite", "torchvision.ops.misc.SqueezeExcitation",
)  # fmt: skip
def _squeeze_excite(module: nn.Module, scan: Scan) -> nn.Module:
    """Multiplies channels; what it multiplies by is no part of the sum, so it stays as it is."""
    return Gate(module)


@rule(f"{_ACTS}.MultiheadAttention")
def _attention(attention: nn.Module, scan: Scan) -> nn.Module:
    raise scan.refusal(attention, "is attention outside the transformers that are known here")


@rule(f"{_TORCH}.pooling.MaxPool2d")
def _max_pool(pool: Any, scan: Scan) -> nn.Module:
    if scan.options.pool == "keep":
        return pool
    if pool.dilation not in (1, (1, 1)) or pool.return_indices:
        raise scan.refusal(pool, "is dilated or returns indices", "Convert with pool='keep'.")
    if scan.options.antialiased and _is_uneven(pool) and not pool.ceil_mode:
        return Halved()
    return nn.AvgPool2d(pool.kernel_size, pool.stride, pool.padding, ceil_mode=pool.ceil_mode)


@rule(f"{_TORCH}.pooling.AdaptiveMaxPool2d")
def _adaptive_max_pool(pool: Any, scan: Scan) -> nn.Module:
    return pool if scan.options.pool == "keep" else nn.AdaptiveAvgPool2d(pool.output_size)


@rule("open_clip.modified_resnet.AttentionPool2d")
def _attention_pool(pool: Any, scan: Scan) -> nn.Module:
    projections = (pool.q_proj, pool.k_proj, pool.v_proj, pool.c_proj)
    layers = [plain_linear(layer.weight, layer.bias, scan.options) for layer in projections]
    kept = scan.options.position == "keep"
    return AttentionPool(layers, pool.positional_embedding if kept else None, pool.num_heads)


class DenseNet(nn.Module):
    """Torchvision's DenseNet, whose last activation and pooling are functions of its forward."""

    def __init__(self, features: nn.Module, activation: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.features, self.activation = features, activation
        self.pool, self.classifier = nn.AdaptiveAvgPool2d(1), classifier

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.classifier(self.pool(self.activation(self.features(x))).flatten(1))


@rule("torchvision.models.densenet.DenseNet")
def _densenet(model: Any, scan: Scan) -> nn.Module:
    for module in model.modules():
        if hasattr(module, "memory_efficient"):
            module.memory_efficient = False  # it would run layers again outside explanation mode
    features = converted(model.features, scan.below("features"))
    activation = converted(nn.ReLU(), scan)
    return DenseNet(features, activation, converted(model.classifier, scan.below("classifier")))
