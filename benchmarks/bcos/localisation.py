"""The grid pointing game on the networks of `benchmarks.bcos.networks`.

    python -m benchmarks.bcos.localisation RUN_DIR --data cifar10.zip --json

Grids of 2 x 2 and 3 x 3 test photos of different classes, each network with those that it gets
right with a probability above one half, most confident first. Inherent explanations of B-cos
networks against gradient methods and Grad-CAM on the ordinary twin. A uniform map scores 0.25 and
0.11. Maps are also smoothed before their negative part goes, each method by the window that serves
it best.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._harness import Row, finish, parser
from benchmarks.bcos.networks import NAMES, WEIGHTS, read_photos, trained
from dncbm.attribution import methods
from dncbm.attribution.localisation import Grids, grid_pg, make_grids, sure_images
from dncbm.training.photos import Photos

WINDOWS = (1, 3, 7)
SIDES = (2, 3)
_AT_ONCE = 10

Method = Callable[[Tensor, Tensor], Tensor]
"""Pictures and the classes of their cells to maps."""


def methods_of(name: str, model: nn.Module) -> dict[str, Method]:
    """What each network is explained by."""
    if not _is_ordinary(name):
        return {"W(x)": lambda x, k: methods.bcos(model, x, k)}
    return {
        "input x gradient": lambda x, k: methods.input_x_gradient(model, x, k),
        "integrated gradients": lambda x, k: methods.integrated_gradients(model, x, k, steps=20),
        "Grad-CAM, last stage": partial(_grad_cam, model, "layer4"),
        "Grad-CAM, third stage": partial(_grad_cam, model, "layer3"),
    }


def _is_ordinary(name: str) -> bool:
    return name.startswith("standard")


def _grad_cam(model: nn.Module, layer: str, x: Tensor, k: Tensor) -> Tensor:
    return methods.upsampled(methods.grad_cam(model, x, k, layer=layer), x.shape[-2:])


@torch.no_grad()
def grids_of(
    name: str, model: nn.Module, photos: Photos, side: int, options: argparse.Namespace
) -> Grids:
    """Pictures of what the network is sure of."""
    inputs, labels, sure = confidences_of(name, model, photos)
    good = sure > 0.5
    return make_grids(
        inputs[good], labels[good], sure[good], side=side, count=options.grids, seed=options.seed
    )


@torch.no_grad()
def confidences_of(name: str, model: nn.Module, photos: Photos) -> tuple[Tensor, Tensor, Tensor]:
    """Held-out photos as the network takes them, their classes, and its probability of these.

    The probability is 0 where another class has a larger one.
    """
    labels = photos.truth(photos.held_out)
    inputs = NAMES[name].views.whole(photos.read(photos.held_out))
    logits = torch.cat([model(part) for part in inputs.split(250)])
    how = "softmax" if _is_ordinary(name) else "sigmoid"
    found = sure_images(logits, labels, by=how, at_least=None)
    sure = torch.zeros(len(labels))
    sure[found.rows] = found.confidences
    return inputs, labels, sure


def scores(method: Method, grids: Grids) -> dict[int, Tensor]:
    """Of each cell, by smoothing window."""
    found: dict[int, list[Tensor]] = {window: [] for window in WINDOWS}
    pairs = zip(grids.images.split(_AT_ONCE), grids.classes.split(_AT_ONCE), strict=True)
    for images, classes in pairs:
        maps = method(images, classes)
        for window in WINDOWS:
            found[window].append(grid_pg(maps, smoothing=window).flatten())
    return {window: torch.cat(parts) for window, parts in found.items()}


def rows_of(name: str, photos: Photos, classes: int, options: argparse.Namespace) -> list[Row]:
    """Every method of one network on both grids."""
    model = trained(name, classes, options.run_dir, options.seed)
    rows: list[Row] = []
    for side in SIDES:
        grids = grids_of(name, model, photos, side, options)
        for label, method in methods_of(name, model).items():
            found = scores(method, grids)
            best = max(found, key=lambda window: float(found[window].mean()))
            row: Row = {"network": name, "method": label, "grid": f"{side} x {side}"}
            row |= {"mean": float(found[1].mean()), "sd": float(found[1].std())}
            row |= {"best window": best, "mean then": float(found[best].mean())}
            row |= {"median then": float(found[best].median())}
            print(row, flush=True)
            rows.append(row)
    return rows


def ratios_of(rows: list[Row]) -> dict[str, float | None]:
    """Inherent explanations over the best method on the twins, smoothed alike."""
    found: dict[str, float | None] = {}
    for side in SIDES:
        mine = [row for row in rows if row["grid"] == f"{side} x {side}"]
        twin = max(row["mean then"] for row in mine if _is_ordinary(row["network"]))
        for row in mine:
            if not _is_ordinary(row["network"]):
                found[f"{row['network']} / best on a twin, {row['grid']}"] = row["mean then"] / twin
    return found


def main() -> None:
    """Print the table and the ratios."""
    made = parser(__doc__)
    made.add_argument("run_dir", type=Path)
    made.add_argument("--data", required=True, help="the photos of the runs")
    made.add_argument("--grids", type=int, default=100)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--threads", type=int, default=2)
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    photos, classes = read_photos(options.data, options.run_dir)
    rows: list[Any] = []
    for name in sorted(NAMES):
        if (options.run_dir / f"{name}-{options.seed}" / WEIGHTS).exists():
            rows += rows_of(name, photos, len(classes), options)
    finish("bcos_localisation", rows, ratios_of(rows), options)


if __name__ == "__main__":
    main()
