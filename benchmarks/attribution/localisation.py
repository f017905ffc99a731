"""Which attribution methods localise: all of them, at three layers, in three settings.

    python -m benchmarks.attribution.localisation RUN_DIR --data cifar10.zip --network standard

A network of `benchmarks.bcos.networks` and grids of test photos of different classes that it gets
right with a probability above one half, most confident first: GridPG, DiFull and DiPart (Rao et al.
2022). A uniform map scores one cell of all. Options of slow methods are smaller than the papers'
(`OPTIONS`), as is fit for photos of 32 x 32. `localisation-SETTING.png` shows the mean maps of each
method by percentile, the figure of the benchmark the scores.
"""

import argparse
import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from benchmarks._harness import Row, finish, parser
from benchmarks.bcos.localisation import confidences_of
from benchmarks.bcos.networks import NAMES, read_photos, trained
from dncbm.attribution.aggregate import MapStore
from dncbm.attribution.catalogue import method_named
from dncbm.attribution.chain import Chain
from dncbm.attribution.localisation import grids_of, plan_grids
from dncbm.attribution.places import automatic_layers
from dncbm.attribution.scores import cell_masks, mass_ratio
from dncbm.attribution.settings import Setting, setting_named
from dncbm.bcos.inputs import ImageModel
from dncbm.errors import InvalidInput
from dncbm.report.localisation_data import Part
from dncbm.report.localisation_figures import aggregates, boxes
from dncbm.training.photos import Photos

SETTINGS = ("gridpg", "difull", "dipart")
METHODS = (
    "gradient", "guided_backprop", "input_x_gradient", "integrated_gradients", "smooth_grad",
    "smoothed_integrated_gradients", "smoothed_input_x_gradient", "lrp", "grad_cam", "layer_cam",
    "grad_cam_plus_plus", "ablation_cam", "score_cam", "occlusion", "rise",
)  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"steps": 20}, "smoothed_integrated_gradients": {"steps": 20},
    "rise": {"masks": 200}, "smooth_grad": {"samples": 10},
}  # fmt: skip
AT_ONCE = 5


def part_of(setting: Setting, grids: Any, method: str, layer: str, module: str | None) -> Part:
    """Scores and mean maps of one method at one layer."""
    options = dict(OPTIONS.get(method, {}))
    if method == "occlusion" and layer != "input":
        options |= {"window": 2, "stride": 1}
    elif method == "occlusion":
        options |= {"window": 8, "stride": 4}
    store, scores, example = MapStore(), [], None
    for batch in grids:
        targets = setting.targets(batch.classes)
        found = method_named(method).function(
            setting, batch.images, targets, layer=module, **options
        )
        size = (batch.images.shape[-2], batch.images.shape[-1])
        maps = Chain(size=size)(found.detach())
        masks = cell_masks(setting.side, *size)[list(setting.scored)]
        score = mass_ratio(maps, masks)
        store.add(maps[:, 0], score[:, 0], (maps[:, 0] * masks[0]).sum((-2, -1)))
        scores.append(score.flatten().numpy())
        example = maps[0, 0].numpy() if example is None else example
    mean = store.aggregate()
    assert example is not None
    return Part(
        method=method, layer=layer, module=module or "", setting=setting.name, side=setting.side,
        smooth=1, scores=np.concatenate(scores), chance=1 / setting.side**2,
        means=mean.maps.numpy(), counts=mean.counts, normaliser=mean.normaliser, example=example,
    )  # fmt: skip


def measured(
    network: nn.Module, images: torch.Tensor, plan_of: Any, options: argparse.Namespace
) -> tuple[list[Part], list[Row]]:
    """Every method at every layer in every setting, where it is defined."""
    parts: list[Part] = []
    rows: list[Row] = []
    layers = automatic_layers(network, images[:1])
    methods = options.methods.split(",") if options.methods else list(METHODS)
    if isinstance(network, ImageModel):
        methods.append("bcos")
    for name in SETTINGS:
        setting = setting_named(name, network, options.side)
        plan = plan_of(setting)
        for method in methods:
            row: Row = {"setting": name, "method": method}
            start = time.process_time()
            for layer, module in layers.items():
                grids = grids_of(plan, lambda photos: images[photos], at_once=AT_ONCE)
                try:
                    part = part_of(setting, grids, method, layer, module)
                except InvalidInput as error:
                    row[layer] = f"not defined: {str(error)[:60]}"
                    continue
                parts.append(part)
                row[layer] = round(float(part.scores.mean()), 3)
                row[f"{layer} sd"] = round(float(part.scores.std()), 3)
            row["CPU s"] = round(time.process_time() - start, 1)
            print(row, flush=True)
            rows.append(row)
    return parts, rows


def draw(parts: list[Part]) -> Any:
    """The box plots, as the figure of the benchmark."""

    def fill(figure: Any) -> None:
        picture = Image.open(io.BytesIO(boxes(parts)))
        figure.set_size_inches(picture.width / 150, picture.height / 150)
        axes = figure.subplots()
        axes.imshow(np.asarray(picture))
        axes.set_axis_off()

    return fill


def main() -> None:
    """Print the table and draw the figures."""
    made = parser(__doc__)
    made.add_argument("run_dir", type=Path)
    made.add_argument("--data", required=True, help="the photos of the runs")
    made.add_argument("--network", default="standard", choices=list(NAMES))
    made.add_argument("--methods", help="names with commas; all by default")
    made.add_argument("--grids", type=int, default=100)
    made.add_argument("--side", type=int, default=2)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--threads", type=int, default=1)
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    photos, classes = read_photos(options.data, options.run_dir)
    network = trained(options.network, len(classes), options.run_dir, options.seed)
    network.requires_grad_(False)
    images, labels, sure = _sure(options.network, network, photos)

    def plan_of(setting: Setting) -> Any:
        return plan_grids(
            labels, sure, side=options.side, count=options.grids, seed=options.seed,
            corners=setting.corners,
        )  # fmt: skip

    parts, rows = measured(network, images, plan_of, options)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in SETTINGS:
        picture = aggregates(parts, name, options.side)
        (options.out / f"localisation-{name}.png").write_bytes(picture)
    notes = {"network": options.network, "grids": options.grids, "uniform": 1 / options.side**2}
    finish("attribution_localisation", rows, {}, options, draw=draw(parts), notes=notes)


def _sure(
    name: str, network: nn.Module, photos: Photos
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Photos that the network gets right, their classes and how sure it is."""
    inputs, labels, sure = confidences_of(name, network, photos)
    good = sure > 0.5
    return inputs[good], labels[good], sure[good]


if __name__ == "__main__":
    main()
