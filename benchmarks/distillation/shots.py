"""e2KD against KD with few photos per class, and where the background misleads.

    python -m benchmarks.distillation.shots kd e2kd e2kd-frozen --teachers RUN_DIR \
        --data cifar10.zip --out OUT
    python -m benchmarks.distillation.shots table --teachers RUN_DIR --out OUT

Teachers are those of `benchmarks.bcos.networks` (`standard-0` is explained by Grad-CAM,
`bcos-antialiased-0` by W(x)), students the same architecture at half its width. Each piece
(teacher, way, λ, seed) is a training of its own that goes on where it was killed; one that is done
is only read. `table` shows means and standard deviations over the seeds, and differences to KD.

With `--spurious DIR` the photos are a set in the layout of Waterbirds (`metadata.csv` with
img_filename, y, split, place). Its teachers are trained here on training and validation photos,
each group of class and place as often as the others; students see the training photos alone, in
which the place gives the class away. Figures are told for test photos whose place goes with their
class (id) and for the others (ood).
"""

import argparse
import csv
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks._harness import Row, finish, parser
from benchmarks.bcos.networks import NAMES, SMALL, read_photos, trained
from dncbm.artifacts import write_json
from dncbm.bcos import create_model
from dncbm.bcos.inputs import ImageModel
from dncbm.bcos.train import TrainingConfig, train_classifier
from dncbm.data.pixels import centred
from dncbm.data.views import Views
from dncbm.distillation.config import Distillation
from dncbm.distillation.frozen import freeze
from dncbm.distillation.shots import few_shots
from dncbm.distillation.train import distil_classifier, explainers
from dncbm.distillation.viewed import Viewed, common_views
from dncbm.training.photos import Photos, Run, whole

KINDS = {"standard": "gradcam", "bcos-antialiased": "bcos"}
WAYS = ("kd", "kd-frozen", "e2kd", "e2kd-frozen")
STUDENT_WIDTH = 8
_RATES = {"standard": 2e-3, "bcos-antialiased": 1e-2}
_COMPARED = 128
"""Test photos whose explanations are compared."""


@dataclass(frozen=True)
class Data:
    """Photos to learn from and groups to measure on."""

    photos: Photos
    classes: int
    groups: dict[str, np.ndarray]
    """Rows by name: `test`, or `id` and `ood`."""
    teacher_rows: np.ndarray
    """That a teacher of these photos learns from."""
    mark: str
    size: int


def cifar(options: argparse.Namespace) -> Data:
    """Few photos per class; all of the test split."""
    photos, classes = read_photos(options.data, options.out)
    few = few_shots(photos, options.shots, seed=42, names=classes)
    groups = {"test": photos.held_out[:: options.thin]}
    return Data(few, len(classes), groups, photos.train, f"cifar {options.shots}", 32)


def spurious(options: argparse.Namespace) -> Data:
    """A set in the layout of Waterbirds, in memory."""
    with (options.spurious / "metadata.csv").open() as file:
        table = list(csv.DictReader(file))
    y, place, split = (
        np.array([int(row[name]) for row in table]) for name in ("y", "place", "split")
    )
    resize = centred(options.pixels)
    levels = [
        resize(Image.open(options.spurious / row["img_filename"]).convert("RGB")) for row in table
    ]
    images = np.stack(levels).transpose(0, 3, 1, 2)
    test, own = np.flatnonzero(split == 2)[:: options.thin], y == place
    groups = {"id": test[own[test]], "ood": test[~own[test]]}
    train = np.flatnonzero(split == 0)
    photos = Photos(images=np.ascontiguousarray(images), train=train, labels=y)
    known = np.flatnonzero(split < 2)
    rows = _balanced(known, 2 * y[known] + place[known])
    return Data(photos, int(y.max()) + 1, groups, rows, "spurious", options.pixels)


def _balanced(rows: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Rows of small groups again and again, until each group is as large as the largest."""
    parts = [rows[groups == group] for group in np.unique(groups)]
    most = max(map(len, parts))
    return np.concatenate([np.resize(part, most) for part in parts])


def views_of(name: str, size: int) -> Views:
    """The pixels of both networks of a pair."""
    own = NAMES[name].views
    return Views(size=size, smallest=own.smallest, mean=own.mean, std=own.std)


def network(name: str, classes: int, width: int) -> nn.Module:
    """A ResNet-18 for small photos, ordinary or B-cos."""
    settings = SMALL | {"width": width}
    if name == "standard":
        return create_model("standard_resnet18", num_classes=classes, **settings)
    made = create_model("resnet18", num_classes=classes, antialiased=True, **settings)
    return ImageModel(made, encoding="inverse")


def teacher_of(name: str, data: Data, options: argparse.Namespace) -> Viewed:
    """A trained one, or one that is trained now on the set with misleading backgrounds."""
    views = views_of(name, data.size)
    if options.spurious is None:
        return Viewed(trained(name, data.classes, options.teachers, 0), views)
    torch.manual_seed(0)
    made = network(name, data.classes, int(SMALL["width"]))
    file = options.out / f"teacher-{name}.safetensors"
    if not file.exists():
        setup, run = NAMES[name], Run(checkpoint=options.out / f"run-teacher-{name}.safetensors")
        config = TrainingConfig(
            epochs=options.teacher_epochs, batch_size=64, precision="float32", **setup.settings
        )
        photos = Photos(
            images=data.photos.images, train=data.teacher_rows, labels=data.photos.labels
        )
        train_classifier(made, photos, views, config, run)
        save_file({k: v.contiguous() for k, v in made.state_dict().items()}, file)
    made.load_state_dict(load_file(file))
    return Viewed(made.eval(), views)


def piece(name: str, way: str, weight: float, seed: int, options: argparse.Namespace) -> Path:
    """Where the figures of one training are."""
    what = "spurious" if options.spurious is not None else f"shots{options.shots}"
    end = f"-{weight:g}" if way.startswith("e2kd") else ""
    return options.out / f"{what}-{name}-{way}{end}-{options.epochs:g}-{seed}.json"


def train(
    name: str, way: str, weight: float, seed: int, data: Data, teacher: Viewed,
    options: argparse.Namespace,
) -> None:  # fmt: skip
    """One training, unless its figures are there."""
    target = piece(name, way, weight, seed, options)
    if target.exists():
        return
    torch.manual_seed(seed)
    student = Viewed(network(name, data.classes, STUDENT_WIDTH), teacher.views)
    frozen_way, guided = way.endswith("-frozen"), way.startswith("e2kd")
    config = Distillation(
        epochs=options.epochs, batch_size=32, seed=seed, precision="float32", warmup=0.04,
        learning_rate=_RATES[name], explanation=KINDS[name], weight=weight if guided else 0.0,
        temperature=options.temperature, frozen=frozen_way, evaluate_every=500,
        adaptive_clipping=None if name == "standard" else 0.01,
        optimizer="adamw" if name == "standard" else "adam",
        weight_decay=0.05 if name == "standard" else 0.0,
    )  # fmt: skip
    frozen, start = None, time.process_time()
    if frozen_way:
        views = common_views([student.views, teacher.views])
        pair = explainers(student, teacher, data.photos, views, config, "cpu")
        marks = {"teacher": name, "photos": data.mark}
        folder = options.out / f"frozen-{data.mark.replace(' ', '')}-{name}"
        frozen = freeze(teacher, pair and pair[1], data.photos, folder, marks=marks)
    run = Run(checkpoint=target.with_suffix(".safetensors"), purpose=target.stem)
    few = next(iter(data.groups.values()))[:_COMPARED]
    photos = replace(data.photos, held_out=few)
    history = distil_classifier(student, teacher, photos, config, run, frozen=frozen)
    row: Row = {
        "CPU s": round(time.process_time() - start, 1),
        "explanation similarity": history[-1]["held_out_explanation_similarity"],
    }  # fmt: skip
    for group, rows in data.groups.items():
        row |= {f"{k} {group}": v for k, v in figures(student, teacher, data, rows).items()}
    write_json(target, row)
    run.checkpoint.unlink(missing_ok=True)
    print(target.stem, row, flush=True)


@torch.no_grad()
def figures(student: Viewed, teacher: Viewed, data: Data, rows: np.ndarray) -> Row:
    """Accuracy of both and their agreement."""
    views = common_views([student.views, teacher.views])
    sums = np.zeros(3)
    for part, shares in whole(data.photos, views, "cpu", rows):
        truth: Tensor = data.photos.truth(part)
        given, wanted = student(shares).argmax(1), teacher(shares).argmax(1)
        pairs = ((given, truth), (given, wanted), (wanted, truth))
        sums += [int((a == b).sum()) for a, b in pairs]
    names = ("accuracy", "agreement", "teacher accuracy")
    return dict(zip(names, (sums / len(rows)).tolist(), strict=True))


def table(options: argparse.Namespace) -> None:
    """Means and deviations over the seeds, and what e2KD adds to KD."""
    rows: list[Row] = []
    ratios: dict[str, float | None] = {}
    for name in options.networks:
        base: dict[str, float] = {}
        for way in WAYS:
            for weight in options.weights if way.startswith("e2kd") else [0.0]:
                found = _read([piece(name, way, weight, seed, options) for seed in options.seeds])
                if not found:
                    continue
                row: Row = {"teacher": name, "way": way, "λ": weight, "seeds": len(found)}
                for key in [k for k in found[0] if k.startswith(("accuracy", "agreement", "expl"))]:
                    values = [item[key] for item in found]
                    mean = statistics.mean(values)
                    row |= {key: round(mean, 4), f"± {key}": round(_deviation(values), 4)}
                    if way == "kd":
                        base[key] = mean
                    elif key in base:
                        ratios[f"{name} {way} λ={weight:g} {key} minus kd"] = mean - base[key]
                rows.append(row | {"CPU s": statistics.mean(item["CPU s"] for item in found)})
    name = "distillation_spurious" if options.spurious is not None else "distillation_shots"
    finish(name, rows, ratios, options)


def _read(files: Sequence[Path]) -> list[Row]:
    return [json.loads(file.read_text()) for file in files if file.exists()]


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def main() -> None:
    """Train what is named, or show the table."""
    made = parser(__doc__)
    made.add_argument("ways", nargs="+", choices=[*WAYS, "table"])
    made.add_argument("--data", help="CIFAR-10 as a zip of photos, train and test")
    made.add_argument("--teachers", type=Path, help="folder of benchmarks.bcos.networks")
    made.add_argument("--spurious", type=Path, help="folder in the layout of Waterbirds")
    made.add_argument("--pixels", type=int, default=64, help="of a side of a photo of that set")
    made.add_argument("--networks", nargs="+", default=list(KINDS), choices=list(KINDS))
    made.add_argument("--weights", nargs="+", type=float, default=[1.0, 5.0], help="λ")
    made.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    made.add_argument("--shots", type=int, default=50)
    made.add_argument("--epochs", type=float, default=100)
    made.add_argument("--teacher-epochs", type=float, default=20)
    made.add_argument("--temperature", type=float, default=1.0)
    made.add_argument("--thin", type=int, default=1, help="measure every so many test photos")
    made.add_argument("--threads", type=int, default=1)
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.ways == ["table"]:
        table(options)
        return
    data = cifar(options) if options.spurious is None else spurious(options)
    for name in options.networks:
        teacher = teacher_of(name, data, options)
        for seed in options.seeds:
            for way in options.ways:
                for weight in options.weights if way.startswith("e2kd") else [0.0]:
                    train(name, way, weight, seed, data, teacher, options)


if __name__ == "__main__":
    main()
