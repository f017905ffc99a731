"""What guidance by real boxes gains, at the accuracy or F1 that validation cannot tell apart.

    python -m benchmarks.guidance.boxes --tiny tiny_imagenet.zip
    python -m benchmarks.guidance.boxes --coco coco128_boxes.zip --mobilenet mobilenet_v1_075_224

Classes of Tiny ImageNet (single-label) and a COCO-style set (several labels): standard and B-cos
networks, trained first without guidance, then further with it at the input and at the end, by
all boxes and by 10 % and 1 % of them, with energy and L1, and without it, as a control; and by
boxes that are 10, 25 and 50 % too large, judged by exact ones. Networks start from scratch, the
standard one on COCO from ImageNet weights where they are given. Each run stands in a file of its
own below `--out`, so that a killed benchmark goes on where it was. Figures are of test photos, mean
and standard deviation over seeds; the epoch is chosen on validation photos, where the best may be
missed by half a point or one standard error (`--tolerance`).
"""

import argparse
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks._harness import Row, finish, parser
from benchmarks.guidance._mobilenet import NAME, mobilenet_file
from benchmarks.guidance._runs import baseline, guided, once, summary, unguided

_LAYERS = ("input", "final")
_FRACTIONS = (1.0, 0.1, 0.01)
_DILATIONS = (0.1, 0.25, 0.5)
_PARTS = ("energy", "none", "l1", "dilation")


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
        model="scratch:standard_resnet18", rate=2e-3, epochs=14, guided_epochs=14, size=32,
        architecture=_SMALL, weight=5.0,
    ),
    "b-cos": Start(
        model="scratch:resnet18", rate=5e-3, epochs=14, guided_epochs=14, size=32,
        architecture=_SMALL, weight=0.2,
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
        model=f"timm:{NAME}@{file}", rate=5e-4, epochs=15, guided_epochs=15, size=128,
        annotated=_FRACTIONS[:2], weight=5.0,
    )  # fmt: skip


def subset(data: Path, folder: Path, classes: int, photos: int) -> Path:
    """Classes of Tiny ImageNet from all over, with their boxes, as a folder.

    A fifth of the training photos is for the choice of the epoch, its validation photos judge.
    """
    place = folder / f"photos-{classes}-{photos}"

    def write() -> Row:
        with zipfile.ZipFile(data) as archive:
            names = archive.namelist()
            lists = sorted(name for name in names if name.endswith("_boxes.txt"))
            chosen = {Path(n).parts[-2] for n in lists[:: max(1, len(lists) // classes)][:classes]}
            (listed,) = (name for name in names if name.endswith("val_annotations.txt"))
            lines = [line.split() for line in archive.read(listed).decode().splitlines()]
            tested = {words[0]: words[1] for words in lines if words[1] in chosen}
            _write(place / "test" / "val_annotations.txt", "\n".join(
                " ".join(words) for words in lines if words[0] in tested).encode())  # fmt: skip
            counts = dict.fromkeys(chosen, 0)
            for name in names:
                file = _place(name, tested, counts, photos)
                if file is not None:
                    _write(place / file, archive.read(name))
        return {"classes": sorted(chosen)}

    once(folder, place.name, write)
    return place


def _place(name: str, tested: dict[str, str], counts: dict[str, int], photos: int) -> Path | None:
    """Where a file of Tiny ImageNet goes, None where it is not wanted."""
    file, parts = Path(name).name, Path(name).parts
    if file in tested:
        return Path("test", tested[file], file)
    label = parts[2] if len(parts) > 3 and parts[1] == "train" else ""
    if label not in counts or name.endswith("/"):
        return None
    if not name.endswith(".JPEG"):
        return Path("train", label, file)
    counts[label] += 1
    if counts[label] > photos:
        return None
    return Path("validation" if counts[label] % 5 == 0 else "train", label, file)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def frequent(data: Path, folder: Path, fewest: int) -> Path:
    """A YOLO set without the classes that fewer training photos show, as a folder.

    With a handful of photos a class is not learned, and its F1 is 0 with guidance and without.
    Every second validation photo judges, the others choose.
    """
    place = folder / f"photos-{fewest}"

    def write() -> Row:
        with zipfile.ZipFile(data) as archive:
            names = {n: _numbers(archive.read(n)) for n in archive.namelist()
                     if "/labels/" in n and n.endswith(".txt")}  # fmt: skip
            known = {root: _classes(archive, root) for root in {Path(n).parts[0] for n in names}}
            classes = {n: known[Path(n).parts[0]] for n in names}
            shown: Counter[str] = Counter()
            trained = (n for n in names if Path(n).parent.name.startswith("train"))
            for photo in {Path(n).name for n in trained}:
                mine = (n for n in names if Path(n).name == photo)
                shown.update({classes[n][number] for n in mine for number in names[n]})
            kept = {name for name, photos in shown.items() if photos >= fewest}
            judging = sorted(n for n in archive.namelist() if n.endswith(".jpg") and "/val" in n)
            for name in archive.namelist():
                if name in names:
                    lines = archive.read(name).decode().splitlines()
                    found = [line for line, number in zip(lines, names[name], strict=True)
                             if classes[name][number] in kept]  # fmt: skip
                    _write(place / name, "\n".join(found).encode())
                elif name.endswith((".jpg", ".yaml")):
                    moved = f"images/test/{Path(name).name}" if name in judging[1::2] else name
                    _write(place / moved, archive.read(name))
        return {"classes": sorted(kept)}

    once(folder, place.name, write)
    return place


def _numbers(labels: bytes) -> list[int]:
    return [int(line.split()[0]) for line in labels.decode().splitlines()]


def _classes(archive: zipfile.ZipFile, root: str) -> dict[int, str]:
    found = yaml.safe_load(archive.read(f"{root}/config.yaml"))["names"]
    return dict(enumerate(found)) if isinstance(found, list) else dict(found)


def recipe(options: argparse.Namespace, start: Start, data: Path, seed: int) -> dict[str, Any]:
    """What all runs of one network have in common."""
    training = {
        "epochs": 2 if options.quick else start.epochs, "batch_size": 32,
        "learning_rate": start.rate, "evaluate_every": 100,
    }  # fmt: skip
    return {
        "model": start.model, "data": str(data), "architecture": start.architecture,
        "annotations": str(data), "size": start.size, "device": options.device,
        "training": training, "seed": seed, "tolerance": options.tolerance,
    }  # fmt: skip


def runs(
    options: argparse.Namespace, kind: str, name: str, start: Start, base: dict[str, Any]
) -> list[Row]:
    """A row per guided run of one network."""
    folder = options.out / "boxes"
    label = f"{name}-{kind}-{base['seed']}"
    model = baseline(folder, f"{label}-baseline", base)
    epochs = 1 if options.quick else start.guided_epochs
    rows = []
    for loss, layer, fraction, dilation in settings(options, start.annotated):
        training = base["training"] | {
            "loss": loss, "layer": layer, "learning_rate": 0.3 * start.rate, "epochs": epochs,
            "evaluate_every": 50, "warmup": 0.1,
        }  # fmt: skip
        if layer == "final" and kind == "standard":
            training["attribution"] = "grad_cam"
        run = base | {
            "model": model, "architecture": {}, "training": training, "fraction": fraction,
            "weights": options.weights or [start.weight], "dilation": dilation,
        }  # fmt: skip
        if loss == "none":
            run = unguided(run)
        found = guided(folder, f"{label}-{loss}-{layer}-{fraction:g}-{dilation:g}", run)
        told = {"data": name, "network": kind, "loss": loss, "layer": layer, "boxes": fraction}
        told |= {"dilation": dilation, "seed": base["seed"], "weight": found["weight"]}
        rows.append(told | _figures(found))
    return rows


def settings(
    options: argparse.Namespace, fractions: Sequence[float]
) -> list[tuple[str, str, float, float]]:
    """Loss, layer, share of the boxes, dilation."""
    if options.quick:
        return [("energy", "final", 1.0, 0.0), ("energy", "final", 0.1, 0.0)]
    parts = {
        "energy": [("energy", layer, part, 0.0) for part in fractions for layer in _LAYERS],
        "none": [("none", layer, 1.0, 0.0) for layer in _LAYERS],
        "l1": [("l1", layer, 1.0, 0.0) for layer in _LAYERS],
        "dilation": [
            (loss, "input", 1.0, grown) for grown in _DILATIONS for loss in ("energy", "l1")
        ],
    }
    return [setting for part in options.parts for setting in parts[part]]


def _figures(found: Row) -> Row:
    before, after = found["before"], found["after"]
    main = "f1" if "f1" in after else "accuracy"
    shown = {"score": main, "EPG": "epg", "IoU": "iou"}
    return {
        f"{name} {when}": figures[key] for name, key in shown.items()
        for when, figures in (("before", before), ("after", after))
    } | {  # fmt: skip
        "score gained": after[main] - before[main], "EPG gained": after["epg"] - before["epg"],
        "chance": after["epg_chance"],
    }  # fmt: skip


def main() -> None:
    """Run what is missing, print all, write."""
    made = parser(__doc__)
    made.add_argument("--tiny", type=Path, help="tiny_imagenet.zip")
    made.add_argument("--coco", type=Path, help="a zip with YOLO boxes")
    made.add_argument("--fewest", type=int, default=6, help="training photos of a class of COCO")
    made.add_argument("--mobilenet", type=Path, help="folder with weights.npz of Keras")
    made.add_argument("--networks", nargs="+", default=list(TINY), choices=list(TINY))
    made.add_argument("--weights", type=float, nargs="+", help="λ; default: of each network")
    made.add_argument("--tolerance", type=float, help="of classification; default: see above")
    made.add_argument("--parts", nargs="+", default=_PARTS, choices=_PARTS, help="which runs")
    made.add_argument("--seeds", type=int, nargs="+", default=[0])
    made.add_argument("--quick", action="store_true", help="minutes on one core")
    made.add_argument("--device", default="cpu")
    options = made.parse_args()
    folder, rows = options.out / "boxes", []
    worlds: list[tuple[str, Path, dict[str, Start], dict[str, Any]]] = []
    if options.tiny is not None:
        classes, most = (5, 40) if options.quick else (20, 150)
        worlds.append(("tiny", subset(options.tiny, folder, classes, most), TINY, {}))
    if options.coco is not None:
        known = {"standard": pretrained(options.mobilenet, folder)} if options.mobilenet else {}
        photos = frequent(options.coco, options.out / "coco", options.fewest)
        worlds.append(("coco", photos, COCO | known, {"task": "multi"}))
    for seed in options.seeds:
        for name, data, starts, more in worlds:
            for kind in options.networks:
                start = starts[kind]
                rows += runs(options, kind, name, start, recipe(options, start, data, seed) | more)
    figures = [{name: value for name, value in r.items() if name != "weight"} for r in rows]
    tables = summary(figures, ("data", "network", "loss", "layer", "boxes", "dilation"))
    gains = {
        " ".join(str(row[name]) for name in ("data", "network", "loss", "layer", "boxes")):
        float(row["EPG gained"].split()[0]) for row in tables if not row["dilation"]
    }  # fmt: skip
    finish("guidance-boxes", tables, gains, options,
           notes={"ratios": "gain in EPG, points", "runs": rows})  # fmt: skip


if __name__ == "__main__":
    main()
