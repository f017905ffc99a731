"""What B-cos costs: convolutions beside plain ones, explanations beside plain backward passes.

    python -m benchmarks.bcos.speed --json

Convolutions have the shapes of ResNet-50 at 224 pixels, each weighted by how often it occurs, in
channels-last memory. An explanation of 64 images for 5 classes is compared with one forward and
five backward passes of the same network outside explanation mode.
"""

import argparse
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks._harness import Row, alternate, finish, parser
from dncbm.bcos import create_model
from dncbm.bcos.explain import explain
from dncbm.bcos.layers import BcosConv2d

Shape = tuple[int, int, int, int, int, int]
"""Channels in and out, kernel, stride, pixels along a side, how often."""


def resnet50_shapes(pixels: int = 224) -> Iterator[Shape]:
    """The convolutions of ResNet-50 on six channels."""
    yield (6, 64, 7, 2, pixels, 1)
    inside, side = 64, pixels // 4
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        small, outside = side // stride, 4 * width
        yield (inside, width, 1, 1, side, 1)
        yield (width, width, 3, stride, side, 1)
        yield (inside, outside, 1, stride, side, 1)
        yield (width, outside, 1, 1, small, blocks)
        yield (outside, width, 1, 1, small, blocks - 1)
        yield (width, width, 3, 1, small, blocks - 1)
        inside, side = outside, small


def convolutions(shape: Shape) -> dict[str, nn.Module]:
    """The plain one and ours."""
    inside, outside, kernel, stride, _, _ = shape
    plain = nn.Conv2d(inside, outside, kernel, stride=stride, padding=kernel // 2, bias=False)
    ours = BcosConv2d(inside, outside, kernel, stride=stride, padding=kernel // 2)
    made: dict[str, nn.Module] = {"plain": plain, "b-cos": ours}
    return {name: layer.to(memory_format=torch.channels_last) for name, layer in made.items()}


def forward_only(layer: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], object]:
    """As in serving."""

    def run() -> None:
        with torch.no_grad():
            layer(x)

    return run


def with_backward(layer: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], object]:
    """As in training."""
    x = x.clone().requires_grad_()
    gradient = torch.randn_like(layer(x))

    def run() -> None:
        layer(x).backward(gradient)

    return run


def conv_rows(options: argparse.Namespace) -> list[Row]:
    """Seconds of each shape: best of alternating turns."""
    rows = []
    for shape in resnet50_shapes():
        inside, side = shape[0], shape[4]
        x = torch.randn(options.batch, inside, side, side).to(memory_format=torch.channels_last)
        layers = convolutions(shape)
        runs = {f"{name} forward": forward_only(layer, x) for name, layer in layers.items()}
        runs |= {f"{name} training": with_backward(layer, x) for name, layer in layers.items()}
        if options.compiled:
            compiled = {name: torch.compile(layer) for name, layer in layers.items()}
            runs |= {f"{name} compiled": forward_only(f, x) for name, f in compiled.items()}
        alternate(runs, turns=1)
        seconds = alternate(runs, turns=options.turns)
        best = {name: min(times) for name, times in seconds.items()}
        rows.append({"shape": " ".join(map(str, shape[:5])), "count": shape[5]} | best)
    return rows


def conv_ratios(rows: list[Row]) -> dict[str, float | None]:
    """B-cos over plain, all convolutions of the network together."""
    found: dict[str, float | None] = {}
    for kind in ("forward", "compiled", "training"):
        if f"plain {kind}" in rows[0]:
            sums = [sum(r["count"] * r[f"{n} {kind}"] for r in rows) for n in ("b-cos", "plain")]
            found[f"conv {kind}, b-cos / plain"] = sums[0] / sums[1]
    return found


def explanation_ratio(options: argparse.Namespace) -> tuple[Row, float]:
    """Explanations over one forward and as many backward passes as targets."""
    network = create_model(options.network, num_classes=100).eval()
    network = network.to(memory_format=torch.channels_last)
    side = options.pixels
    images = torch.rand(options.images, 6, side, side).to(memory_format=torch.channels_last)
    targets = torch.arange(options.targets).repeat(options.images, 1)

    def bare() -> None:
        x = images.clone().requires_grad_()
        logits = network(x)
        for t in range(options.targets):
            last = t + 1 == options.targets
            torch.autograd.grad(logits[:, t].sum(), x, retain_graph=not last)

    runs = {"explain": lambda: explain(network, images, targets), "bare": bare}
    alternate(runs, turns=1)
    seconds = {n: min(s) for n, s in alternate(runs, turns=options.turns).items()}
    row: Row = {"shape": f"{options.images} images, {options.targets} targets"}
    return row | seconds, seconds["explain"] / seconds["bare"]


def main() -> None:
    """Print the table and the ratios; below 1 is faster than what it is compared with."""
    made = parser(__doc__)
    made.add_argument("--batch", type=int, default=8, help="images per convolution")
    made.add_argument("--turns", type=int, default=5)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--no-compiled", dest="compiled", action="store_false")
    made.add_argument("--network", default="resnet18", help="of the explanations")
    made.add_argument("--images", type=int, default=64)
    made.add_argument("--targets", type=int, default=5)
    made.add_argument("--pixels", type=int, default=96)
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rows = conv_rows(options)
    ratios = conv_ratios(rows)
    row, ratios["explanation / forward and backward"] = explanation_ratio(options)
    finish("bcos_speed", [*rows, row], ratios, options)


if __name__ == "__main__":
    main()
