"""Maps of grid cells: all classes of a grid from one forward pass, beside a captum loop per cell.

    python -m benchmarks.attribution.speed --json

Pictures of 2 x 2 cells have four classes to explain (GridPG, Rao et al. 2022). Ours takes a batch
of pictures with four targets each; captum takes one class of one picture at a time, as evaluation
code does. Both end in maps of the size of the picture, which are compared first.
"""

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import get_model

from benchmarks._harness import Peer, Row, alternate, best_and_median, finish, parser, peer
from dncbm.attribution.catalogue import method_named
from dncbm.attribution.chain import Chain

CELLS = 4
Run = Callable[[], Tensor]


def ours(
    name: str, network: nn.Module, pictures: Tensor, classes: Tensor, layer: str | None, batch: int
) -> Run:
    """Batches with all targets."""
    function = method_named(name).function
    chain = Chain(size=(pictures.shape[-2], pictures.shape[-1]), positive=False)

    def run() -> Tensor:
        parts = zip(pictures.split(batch), classes.split(batch), strict=True)
        return torch.cat([chain(function(network, x, k, layer=layer)) for x, k in parts])

    return run


def loop(explainer: Any, pictures: Tensor, classes: Tensor, **options: Any) -> Run:
    """One class of one picture at a time."""
    from captum.attr import LayerAttribution

    size = (pictures.shape[-2], pictures.shape[-1])

    def one(picture: Tensor, k: int) -> Tensor:
        found = explainer.attribute(picture[None], target=k, **options)
        found = found.sum(dim=1, keepdim=True)
        return LayerAttribution.interpolate(found, size, "bilinear").detach()[0, 0]

    def run() -> Tensor:
        rows = [
            torch.stack([one(picture, k) for k in row])
            for picture, row in zip(pictures, classes.tolist(), strict=True)
        ]
        return torch.stack(rows)

    return run


def runs_of(
    network: nn.Module,
    pictures: Tensor,
    classes: Tensor,
    captum: Peer,
    options: argparse.Namespace,
) -> dict[str, dict[str, Run]]:
    """Both sides of each method."""
    found: dict[str, dict[str, Run]] = {}
    for name, layer in (("grad_cam", options.layer), ("input_x_gradient", None)):
        found[name] = {"dncbm": ours(name, network, pictures, classes, layer, options.batch)}
        if captum.module is not None:
            attr = captum.module
            explainer, more = attr.InputXGradient(network), {}
            if layer is not None:
                explainer = attr.LayerGradCam(network, network.get_submodule(layer))
                more = {"relu_attributions": True}
            found[name]["captum"] = loop(explainer, pictures, classes, **more)
    return found


def check(runs: dict[str, dict[str, Run]]) -> None:
    """Both sides give the same maps, on a few pictures; this also warms them up."""
    for both in runs.values():
        first, *others = [run() for run in both.values()]
        for other in others:
            torch.testing.assert_close(first, other, rtol=1e-3, atol=1e-5)


def main() -> None:
    """Print the table and the ratios; above 1 is faster than captum."""
    made = parser(__doc__)
    made.add_argument("--count", type=int, default=2000, help="maps, four of each picture")
    made.add_argument("--network", default="resnet18", help="of torchvision, with random weights")
    made.add_argument("--layer", default="layer4", help="of Grad-CAM")
    made.add_argument("--pixels", type=int, default=32, help="along a cell")
    made.add_argument("--batch", type=int, default=32, help="pictures at once")
    made.add_argument("--turns", type=int, default=1)
    made.add_argument("--threads", type=int, default=1)
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings(
        "ignore", message=".*did not already require gradients", module="captum"
    )
    torch.manual_seed(0)
    network = get_model(options.network, num_classes=20).eval()
    side, count = 2 * options.pixels, -(-options.count // CELLS)
    pictures = torch.randn(count, 3, side, side)
    classes = torch.stack([torch.randperm(20)[:CELLS] for _ in range(count)])
    captum = peer("captum.attr", "captum")
    check(runs_of(network, pictures[:4], classes[:4], captum, options))
    rows: list[Row] = []
    ratios: dict[str, float | None] = {}
    for name, runs in runs_of(network, pictures, classes, captum, options).items():
        seconds = alternate(runs, turns=options.turns)
        rows += [{"method": name, "by": by} | best_and_median(s) for by, s in seconds.items()]
        theirs = seconds.get("captum")
        ratios[f"{name}, captum / dncbm"] = min(theirs) / min(seconds["dncbm"]) if theirs else None
    notes = {"missing": captum.reason} if captum.module is None else {}
    finish("attribution_speed", rows, ratios, options, notes=notes)


if __name__ == "__main__":
    main()
