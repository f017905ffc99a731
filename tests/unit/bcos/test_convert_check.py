"""Networks that cannot be converted, and those whose forward hides something from a conversion."""

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from dncbm.bcos.convert import ConvertOptions, convert, convert_clip, register_converter
from dncbm.bcos.convert.parts import Gate
from dncbm.bcos.mode import held
from dncbm.errors import InvalidInput


class Hidden(nn.Module):
    """A network around one function that no layer shows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner = nn.Conv2d(3, 4, 3), Inner(self.function)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(4, 2)

    def function(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.inner(self.first(x))).flatten(1))


class Inner(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function, self.conv = [function], nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.function[0](self.conv(x))


def hiding(function) -> nn.Module:
    model = Hidden()
    model.inner.function = [function]
    return model


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (functional.gelu, "not linear"),
        (lambda x: x * x.abs() / x.norm(), "not linear"),  # homogeneous: its parts add up
        (lambda x: x * x.mean(dim=1, keepdim=True).sigmoid(), "not linear"),
        (lambda x: functional.normalize(x, dim=1), "not linear"),
        (lambda x: x + 1.0, "comes from elsewhere"),
        (lambda x: functional.scaled_dot_product_attention(x, x, x), "not linear"),
    ],
    ids=["gelu", "homogeneous", "gate", "normalise", "added", "attention"],
)
def test_a_function_hidden_in_a_forward_is_found_and_located(function, message: str) -> None:
    with pytest.raises(InvalidInput, match=f"(?s){message}.*'inner' .Inner.*register_converter"):
        convert(hiding(function))
    convert(hiding(function), check=False)


@pytest.mark.parametrize(
    "function",
    [functional.relu, lambda x: functional.max_pool2d(x, 2), lambda x: x * held(x).sigmoid()],
    ids=["relu", "max pool", "held"],
)
def test_what_is_linear_in_pieces_may_hide(function) -> None:
    convert(hiding(function))


class Slices(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.cat([x[:, :2], x[:, 2:3] * 2, x[:, 3:]], dim=1))


class Reaching(nn.Module):
    """Takes the weights out of a layer instead of calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.conv.weight)


def test_a_forward_that_counts_on_three_channels_is_found() -> None:
    with pytest.raises(InvalidInput, match="not the same function"):
        convert(Slices())


def test_an_unsupported_layer_is_named_and_can_be_registered() -> None:
    class Cubed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x**3

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(Cubed(), nn.AdaptiveAvgPool2d(1)))
    with pytest.raises(InvalidInput, match=r"'1\.0' .*Cubed.* no B-cos form.*register_converter"):
        convert(model)

    def rule(layer: nn.Module, options: ConvertOptions) -> nn.Module:
        return Gate(layer)

    register_converter(Cubed, rule)
    assert isinstance(convert(model).network[1][0], Gate)


def test_a_subclass_with_methods_of_its_own_is_another_layer() -> None:
    class Scaled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    class Named(nn.Conv2d):
        def __init__(self) -> None:
            super().__init__(4, 4, 1)

    first = nn.Conv2d(3, 4, 1)
    convert(nn.Sequential(first, Named()))
    with pytest.raises(InvalidInput, match=r"Layer '1' .*Scaled"):
        convert(nn.Sequential(first, Scaled(4, 4, 1)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.Conv2d(1, 4, 3), "1 input channels.*RGB"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), "no convolution"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), r"'1'.*training.*eval"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
         "no running statistics"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.MultiheadAttention(4, 2)), "'1'.*attention"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.LayerNorm((4, 5))), r"\(4, 5\)"),
        (lambda: Reaching(), "takes no image.*no attribute 'weight'"),
    ],
    ids=["channels", "no conv", "training", "statistics", "attention", "layer norm", "reaching"],
)  # fmt: skip
def test_networks_that_cannot_be_converted_are_refused(build, message: str) -> None:
    with pytest.raises(InvalidInput, match=f"(?s){message}"):
        convert(build())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"global_pool": "map", "class_token": False}, "pools by attention"),
        ({"global_pool": "max", "class_token": False}, "pools by 'max'"),
        ({"dynamic_img_size": True}, "dynamic_img_size"),
        ({"block_fn": timm.models.vision_transformer.ParallelScalingBlock}, "ParallelScalingBlock"),
    ],
)
def test_transformers_of_other_designs_are_refused_by_name(options: dict, message: str) -> None:
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=16, patch_size=8, embed_dim=8, depth=1, num_heads=2, num_classes=2, **options
    )
    with pytest.raises(InvalidInput, match=message):
        convert(model)


def test_weights_that_are_not_finite_are_named() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    model[1].weight.data[0] = float("nan")
    with pytest.raises(InvalidInput, match=r"'1\.weight'"):
        convert(model)


def test_a_network_of_several_outputs_is_refused() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.conv(x), x

    with pytest.raises(InvalidInput, match="one tensor"):
        convert(Pair())


def test_a_model_without_an_image_tower_is_no_clip() -> None:
    with pytest.raises(InvalidInput, match="visual"):
        convert_clip(nn.Conv2d(3, 4, 1))
