"""Concepts inside a trained B-cos network: what they cost, how few decide, where they lie.

    python -m benchmarks.bcos.concepts RUN_DIR --data cifar10.zip --network bcos --layer layer3

A network of `benchmarks.bcos.networks` gets concepts at a layer: a TopK autoencoder without biases
on features of training photos. Shown: accuracy with the concepts in place of the features, the
largest error of both exact sums, how many concepts make up most of a logit, and the grid pointing
game of the strongest concept of each class. `concepts.png` shows the strongest concepts of some
photos in the pixels.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks._harness import Row, finish, parser
from benchmarks.bcos.localisation import grids_of
from benchmarks.bcos.networks import NAMES, read_photos, trained
from dncbm.attribution.inner import ConceptShares, InnerConcepts, layer_rows
from dncbm.attribution.localisation import grid_pg
from dncbm.bcos.inputs import ImageModel
from dncbm.bcos.render import on_white, rgba, window_of
from dncbm.sae.config import SaeConfig
from dncbm.sae.presets import preset
from dncbm.sae.train import TrainedSae, train_sae
from dncbm.training.photos import Photos

_AT_ONCE = 100
_PANELS = 4


def pixels_of(name: str, photos: Photos, rows: Tensor) -> Tensor:
    """What the network takes of some photos."""
    return NAMES[name].views.whole(photos.read(rows.numpy()))


def concepts_at(
    name: str, model: ImageModel, photos: Photos, options: argparse.Namespace
) -> TrainedSae:
    """An autoencoder of the layer, on places drawn by what they contribute."""
    draw = torch.Generator().manual_seed(options.seed)
    chosen = torch.from_numpy(photos.train)[
        torch.randperm(len(photos.train), generator=draw)[: options.photos]
    ]
    found = [
        layer_rows(model, f"network.{options.layer}", pixels_of(name, photos, part),
                   per_image=options.places, generator=draw)
        for part in chosen.split(_AT_ONCE)
    ]  # fmt: skip
    rows = torch.cat(found).float()
    config: SaeConfig = preset(
        "topk", embed_dim=rows.shape[1], num_rows=len(rows), num_concepts=options.concepts,
        k=options.k, biases=False, center=False, normalize=False, seed=options.seed,
    )  # fmt: skip
    return train_sae(rows, config)


@torch.no_grad()
def accuracy(model: torch.nn.Module, name: str, photos: Photos) -> float:
    """Of the held-out photos."""
    right = 0
    for part in torch.from_numpy(photos.held_out).split(_AT_ONCE):
        right += int((model(pixels_of(name, photos, part)).argmax(1)
                      == photos.truth(part.numpy())).sum())  # fmt: skip
    return right / len(photos.held_out)


def covering(shares: ConceptShares, part: float) -> Tensor:
    """How many concepts, strongest first, make up a part of what speaks for each target."""
    ranked = shares.contributions.clamp_min(0).sort(dim=-1, descending=True).values
    return (ranked.cumsum(-1) < part * ranked.sum(-1, keepdim=True)).sum(-1) + 1


def of_decisions(inner: InnerConcepts, name: str, photos: Photos, count: int) -> Row:
    """Exactness and sparsity of the decisions of some held-out photos."""
    images = pixels_of(name, photos, torch.from_numpy(photos.held_out[:count]))
    errors, numbers, pixel_errors = [], [], []
    for part in images.split(_AT_ONCE):
        with torch.no_grad():
            best = inner(part).argmax(1, keepdim=True)
        shares = inner.shares(part, best)
        total = shares.contributions.sum(-1) + shares.error + shares.bias
        errors.append(((total - shares.values).abs() / shares.values.abs()).max())
        numbers.append(covering(shares, 0.8).float())
        strongest = int(shares.contributions[0, 0].argmax())
        concept = inner.explain(part, [strongest])
        gap = (concept.maps.sum((-2, -1)) + concept.position + concept.bias - concept.values).abs()
        pixel_errors.append((gap / concept.values.abs().clamp_min(1e-6)).max())
    found = torch.cat(numbers)
    return {
        "largest error, logit = sum of concepts": float(torch.stack(errors).max()),
        "largest error, concept = sum of pixels": float(torch.stack(pixel_errors).max()),
        "concepts for 80 % of a logit, median": float(found.median()),
        "mean": float(found.mean()),
    }


def localised(inner: InnerConcepts, grids: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Grid pointing game of the concept that speaks most for each cell's class: mean, deviation."""
    found = []
    for images, classes in zip(grids[0].split(1), grids[1].split(1), strict=True):
        shares = inner.shares(images, classes)
        strongest = shares.contributions[0].argmax(-1).tolist()
        maps = inner.explain(images, list(dict.fromkeys(strongest))).maps
        order = [list(dict.fromkeys(strongest)).index(c) for c in strongest]
        found.append(grid_pg(maps[:, order]).flatten())
    scores = torch.cat(found)
    return float(scores.mean()), float(scores.std())


def picture(inner: InnerConcepts, name: str, photos: Photos, classes: tuple[str, ...]) -> Figure:
    """A photo of each class and the pixels of its strongest concepts."""
    labels = photos.truth(photos.held_out)
    figure = Figure(figsize=(1.6 * (_PANELS + 1), 1.7 * len(classes)), layout="constrained")
    axes = figure.subplots(len(classes), _PANELS + 1)
    for k, line in enumerate(axes):
        row = torch.from_numpy(photos.held_out[(labels == k).numpy()][:1])
        image = pixels_of(name, photos, row)
        shares = inner.shares(image, k)
        best = shares.contributions[0, 0].topk(_PANELS)
        line[0].imshow(photos.read(row.numpy())[0].movedim(0, -1))
        line[0].set_title(f"{classes[k]}: {float(shares.values[0, 0]):.1f}", fontsize=8)
        found = inner.explain(image, best.indices.tolist())
        smooth = window_of(image.shape[-1])
        shown = on_white(rgba(found.inputs[:, None], found.weights, smooth=smooth))[0]
        for panel, drawn, c, value in zip(line[1:], shown, best.indices, best.values, strict=True):
            panel.imshow(drawn)
            panel.set_title(f"concept {int(c)}: {float(value):+.1f}", fontsize=8)
        for panel in line:
            panel.set_axis_off()
    return figure


def main() -> None:
    """Print the table and draw the picture."""
    made = parser(__doc__)
    made.add_argument("run_dir", type=Path)
    made.add_argument("--data", required=True, help="the photos of the runs")
    made.add_argument("--network", default="bcos", choices=[n for n in NAMES if "bcos" in n])
    made.add_argument("--layer", default="layer3")
    made.add_argument("--concepts", type=int, default=512)
    made.add_argument("--k", type=int, default=8, help="concepts per place")
    made.add_argument("--photos", type=int, default=5000, help="photos to learn concepts from")
    made.add_argument("--places", type=int, default=16, help="places drawn per photo")
    made.add_argument("--grids", type=int, default=50)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--threads", type=int, default=1)
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    name = options.network
    photos, classes = read_photos(options.data, options.run_dir)
    model = trained(name, len(classes), options.run_dir, options.seed)
    assert isinstance(model, ImageModel)
    sae = concepts_at(name, model, photos, options)
    inner = InnerConcepts(model, f"network.{options.layer}", sae.model)
    row: Row = {"network": name, "layer": options.layer, "concepts": options.concepts}
    row |= {"per place": options.k, "unexplained variance": sae.metrics.unexplained_variance}
    row |= {"accuracy": accuracy(inner, name, photos)}
    row |= {"accuracy without concepts": accuracy(model, name, photos)}
    row |= of_decisions(inner, name, photos, 500)
    for side in (2, 3):
        grids = grids_of(name, model, photos, side, options)
        mean, deviation = localised(inner, (grids.images, grids.classes))
        row |= {f"grid pointing {side} x {side}": mean, f"deviation {side} x {side}": deviation}
    options.out.mkdir(parents=True, exist_ok=True)
    picture(inner, name, photos, classes).savefig(options.out / "concepts.png", dpi=120)
    lost = row["accuracy without concepts"] - row["accuracy"]
    finish("bcos_concepts", [row], {"accuracy lost": lost}, options)


if __name__ == "__main__":
    main()
