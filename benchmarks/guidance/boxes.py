"""What guidance by real boxes gains, at the accuracy or F1 that validation cannot tell apart.

    python -m benchmarks.guidance.boxes --tiny tiny_imagenet.zip
    python -m benchmarks.guidance.boxes --coco coco128_boxes.zip --mobilenet mobilenet_v1_075_224

Classes of Tiny ImageNet (single-label) and a COCO-style set (several labels): standard and B-cos
networks, trained first without guidance, then with it at the input and at the end, by all boxes
and by 10 % and 1 % of them; and by boxes that are 10, 25 and 50 % too large, with energy and L1,
judged by exact ones. Networks start from scratch, the standard one on COCO from ImageNet weights
where they are given. Each run stands in a file of its own below `--out`, so that a killed benchmark
goes on where it was. Figures are of test photos; the epoch is chosen on validation photos, where
the best may be missed by half a point or one standard error (`--tolerance`).
"""

import argparse
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks._harness import Row, finish, parser
from benchmarks.guidance._mobilenet import NAME, mobilenet_file
from benchmarks.guidance._runs import baseline, guided, once

_LAYERS = ("input", "final")
_FRACTIONS = (1.0, 0.1, 0.01)
_DILATIONS = (0.1, 0.25, 0.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """A network, how its baseline is trained, and how far guidance goes on."""

    model: str
    rate: float
    epochs: float
    size: int
    architecture: dict[str, Any] = field(default_factory=dict)
    guided_epochs: float
    annotated: Sequence[float] = _FRACTIONS
    weight: float = 1.0
    """λ: input x gradient of an ordinary network hardly moves with less."""


_SMALL = {"width": 8, "small_inputs": True}
"""Of 32 pixels, 4 x 4 places are left at the end."""
TINY = {
    "standard": Start(
        model="scratch:standard_resnet18", rate=2e-3, epochs=14, guided_epochs=6, size=32,
        architecture=_SMALL, weight=5.0,
    ),
    "b-cos": Start(
        model="scratch:resnet18", rate=5e-3, epochs=14, guided_epochs=6, size=32,
        architecture=_SMALL,
    ),
}  # fmt: skip
COCO = {
    "standard": Start(
        model="scratch:standard_resnet18", rate=2e-3, epochs=60, guided_epochs=20, size=96,
        architecture={"width": 16}, annotated=_FRACTIONS[:2], weight=5.0,
    ),
    "b-cos": Start(
        model="scratch:resnet18", rate=5e-3, epochs=60, guided_epochs=20, size=96,
        architecture={"width": 16}, annotated=_FRACTIONS[:2],
    ),
}  # fmt: skip
"""With 128 photos to train on, one in a hundred is one photo."""


def pretrained(weights: Path, folder: Path) -> Start:
    """MobileNetV1 0.75 with ImageNet weights of Keras."""
    file = mobilenet_file(weights / "weights.npz", folder / "mobilenet.safetensors")
    return Start(
        model=f"timm:{NAME}@{file}", rate=5e-4, epochs=15, guided_epochs=6, size=128,
        annotated=_FRACTIONS[:2], weight=5.0,
    )  # fmt: skip


def subset(data: Path, folder: Path, classes: int, photos: int) -> Path:
    """Classes of Tiny ImageNet from all over, with their boxes, as a folder."""

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


def recipe(options: argparse.Namespace, start: Start, data: Path) -> dict[str, Any]:
    """What all runs of one network have in common."""
    training = {
        "epochs": 2 if options.quick else start.epochs, "batch_size": 32,
        "learning_rate": start.rate, "evaluate_every": 100,
    }  # fmt: skip
    return {
        "model": start.model, "data": str(data), "architecture": start.architecture,
        "annotations": str(data), "size": start.size, "device": options.device,
        "training": training, "seed": options.seed, "tolerance": options.tolerance,
    }  # fmt: skip


def runs(
    options: argparse.Namespace, kind: str, name: str, start: Start, base: dict[str, Any]
) -> list[Row]:
    """A row per guided run of one network."""
    folder = options.out / "boxes"
    label = f"{name}-{kind}-{options.seed}"
    model = baseline(folder, f"{label}-baseline", base)
    epochs = 1 if options.quick else start.guided_epochs
    rows = []
    for loss, layer, fraction, dilation in settings(options.quick, start.annotated):
        training = base["training"] | {
            "loss": loss, "layer": layer, "learning_rate": 0.3 * start.rate, "epochs": epochs,
            "evaluate_every": 25,
        }  # fmt: skip
        if layer == "final" and kind == "standard":
            training["attribution"] = "grad_cam"
        run = base | {
            "model": model, "architecture": {}, "training": training, "fraction": fraction,
            "weights": options.weights or [start.weight], "dilation": dilation,
        }  # fmt: skip
        found = guided(folder, f"{label}-{loss}-{layer}-{fraction:g}-{dilation:g}", run)
        rows.append(_row(name, kind, loss, layer, fraction, dilation, found))
    return rows


def settings(quick: bool, fractions: Sequence[float]) -> list[tuple[str, str, float, float]]:
    """Loss, layer, share of the boxes, dilation."""
    if quick:
        return [("energy", "final", 1.0, 0.0), ("energy", "final", 0.1, 0.0)]
    by_fraction = [("energy", layer, part, 0.0) for part in fractions for layer in _LAYERS]
    exact = [("l1", layer, 1.0, 0.0) for layer in _LAYERS]
    dilated = [(loss, "input", 1.0, grown) for grown in _DILATIONS for loss in ("energy", "l1")]
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
    made.add_argument("--tiny", type=Path, help="tiny_imagenet.zip")
    made.add_argument("--coco", type=Path, help="a zip with YOLO boxes")
    made.add_argument("--mobilenet", type=Path, help="folder with weights.npz of Keras")
    made.add_argument("--networks", nargs="+", default=list(TINY), choices=list(TINY))
    made.add_argument("--weights", type=float, nargs="+", help="λ; default: of each network")
    made.add_argument("--tolerance", type=float, help="of classification; default: see above")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--quick", action="store_true", help="minutes on one core")
    made.add_argument("--device", default="cpu")
    options = made.parse_args()
    folder, rows = options.out / "boxes", []
    worlds: list[tuple[str, Path, dict[str, Start], dict[str, Any]]] = []
    if options.tiny is not None:
        classes, photos = (5, 40) if options.quick else (20, 150)
        worlds.append(("tiny", subset(options.tiny, folder, classes, photos), TINY, {}))
    if options.coco is not None:
        known = {"standard": pretrained(options.mobilenet, folder)} if options.mobilenet else {}
        worlds.append(("coco", options.coco, COCO | known, {"task": "multi"}))
    for name, data, starts, more in worlds:
        for kind in options.networks:
            start = starts[kind]
            rows += runs(options, kind, name, start, recipe(options, start, data) | more)
    gains = {
        f"{r['data']} {r['network']} {r['loss']} {r['layer']} {r['boxes']:g} {r['dilation']:g}":
        r["EPG after"] - r["EPG before"] for r in rows
    }  # fmt: skip
    finish("guidance-boxes", rows, gains, options, notes={"ratios": "gain in EPG, a share"})


if __name__ == "__main__":
    main()
