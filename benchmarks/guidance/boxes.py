"""What guidance by real boxes gains, at at most half a point of accuracy or F1 lost.

    python -m benchmarks.guidance.boxes tiny_imagenet.zip --coco coco128_boxes.zip --quick

Twenty classes of Tiny ImageNet (single-label) and a COCO-style set (several labels): standard and
B-cos networks, trained first without guidance, then with it at the input and at the end, by all
boxes and by 10 % and 1 % of them; and by boxes that are 10, 25 and 50 % too large, with energy and
L1. Each run stands in a file of its own below `--out`, so that a killed benchmark goes on where it
was. Figures are of test photos; the epoch is chosen on validation photos.
"""

import argparse
import zipfile
from pathlib import Path
from typing import Any

from benchmarks._harness import Row, finish, parser
from benchmarks.guidance._runs import baseline, guided, once

KINDS = {"standard": "scratch:standard_resnet18", "b-cos": "scratch:resnet18"}
_LAYERS = ("input", "final")
_FRACTIONS = (1.0, 0.1, 0.01)
_DILATIONS = (0.1, 0.25, 0.5)
_SMALL = {"small_inputs": True, "width": 32}
"""A ResNet-18 whose last maps have an eighth of the pixels along a side, half as wide."""
_WEIGHTS = {"energy": [0.3, 1.0, 3.0], "l1": [0.3, 1.0, 3.0]}


def subset(data: Path, folder: Path, classes: int, photos: int) -> Path:
    """Every tenth class of Tiny ImageNet with its boxes, as a folder."""

    def write() -> Row:
        with zipfile.ZipFile(data) as archive:
            lists = sorted(n for n in archive.namelist() if n.endswith("_boxes.txt"))
            chosen = {Path(n).parts[-2] for n in lists[:: max(1, len(lists) // classes)][:classes]}
            counts = dict.fromkeys(chosen, 0)
            for name in archive.namelist():
                parts = Path(name).parts
                label = parts[2] if len(parts) > 3 and parts[1] == "train" else ""
                if label not in chosen or name.endswith("/"):
                    continue
                if name.endswith(".JPEG"):
                    counts[label] += 1
                    if counts[label] > photos:
                        continue
                target = folder / "photos" / label / parts[-1]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(name))
        return {"classes": sorted(chosen)}

    once(folder, "photos", write)
    return folder / "photos"


def recipe(options: argparse.Namespace, kind: str, data: Path, size: int) -> dict[str, Any]:
    """What all runs of one kind of network have in common."""
    epochs = 6 if options.quick else options.epochs
    training = {"epochs": epochs, "batch_size": 32, "learning_rate": 1e-3, "evaluate_every": 100}
    return {
        "model": KINDS[kind], "architecture": _SMALL, "data": str(data),
        "annotations": str(data), "size": size,
        "device": options.device, "training": training, "seed": 0,
    }  # fmt: skip


def runs(options: argparse.Namespace, kind: str, name: str, base: dict[str, Any]) -> list[Row]:
    """A row per guided run of one network."""
    folder = options.out / "boxes"
    start = baseline(folder, f"{name}-{kind}-baseline", base)
    rows = []
    for loss, layer, fraction, dilation in settings(options.quick):
        weights = _WEIGHTS[loss][1:2] if options.quick else _WEIGHTS[loss]
        training = base["training"] | {"loss": loss, "layer": layer, "learning_rate": 3e-4}
        if layer == "final" and kind == "standard":
            training["attribution"] = "grad_cam"
        run = base | {
            "model": start, "architecture": {}, "training": training,
            "weights": weights, "fraction": fraction,
            "dilation": dilation,
        }  # fmt: skip
        label = f"{name}-{kind}-{loss}-{layer}-{fraction:g}-{dilation:g}"
        found = guided(folder, label, run)
        rows.append(_row(name, kind, loss, layer, fraction, dilation, found))
    return rows


def settings(quick: bool) -> list[tuple[str, str, float, float]]:
    """Loss, layer, share of the boxes, dilation."""
    if quick:
        return [("energy", "final", 1.0, 0.0), ("energy", "final", 0.1, 0.0)]
    by_fraction = [("energy", layer, part, 0.0) for layer in _LAYERS for part in _FRACTIONS]
    exact = [("l1", "final", 1.0, 0.0)]
    dilated = [(loss, "final", 1.0, grown) for loss in ("energy", "l1") for grown in _DILATIONS]
    return by_fraction + exact + dilated


def _row(
    data: str, kind: str, loss: str, layer: str, fraction: float, dilation: float, found: Row
) -> Row:
    before, after = found["before"], found["after"]
    main = "f1" if "f1" in after else "accuracy"
    return {
        "data": data, "network": kind, "loss": loss, "layer": layer, "boxes": fraction,
        "dilation": dilation, "weight": found["weight"], "score before": before[main],
        "score after": after[main], "EPG before": before["epg"], "EPG after": after["epg"],
        "chance": after["epg_chance"], "IoU before": before["iou"], "IoU after": after["iou"],
    }  # fmt: skip


def main() -> None:
    """Run what is missing, print all, write."""
    made = parser(__doc__)
    made.add_argument("data", type=Path, help="tiny_imagenet.zip")
    made.add_argument("--coco", type=Path, help="a zip with YOLO boxes")
    made.add_argument("--quick", action="store_true", help="minutes on one core")
    made.add_argument("--epochs", type=float, default=30.0)
    made.add_argument("--pixels", type=int, default=32, help="of Tiny ImageNet; COCO: twice")
    made.add_argument("--device", default="cpu")
    options = made.parse_args()
    classes, photos = (5, 40) if options.quick else (20, 150)
    data = subset(options.data, options.out / "boxes", classes, photos)
    rows: list[Row] = []
    for kind in KINDS:
        rows += runs(
            options, kind, "tiny", recipe(options, kind, data, 32 if options.quick else 64)
        )
        if options.coco is not None:
            base = recipe(options, kind, options.coco, 2 * options.pixels)
            rows += runs(options, kind, "coco", base | {"task": "multi"})
    gains = {
        f"{r['data']} {r['network']} {r['loss']} {r['layer']} {r['boxes']:g} {r['dilation']:g}":
        r["EPG after"] - r["EPG before"] for r in rows
    }  # fmt: skip
    finish("guidance-boxes", rows, gains, options, notes={"ratios": "gain in EPG, a share"})


if __name__ == "__main__":
    main()
