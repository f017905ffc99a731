"""B-cos from scratch beside its ordinary twin, and the twin B-cosified: accuracy against epochs.

    python -m benchmarks.bcos.networks standard bcos converted --data cifar10.zip --out RUN_DIR

Each name is one training on the same photos; runs go on where they were killed, and `table` reads
their curves. The twin has its own usual recipe (AdamW, cross-entropy), B-cos that of B-cos v2
(Adam, adaptive clipping, binary cross-entropy), both the same number of epochs. `converted` starts
from the trained twin and has a quarter of them.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks._harness import Row, finish, parser
from dncbm.bcos import create_model
from dncbm.bcos.convert import convert
from dncbm.bcos.inputs import ImageModel
from dncbm.bcos.train import Normalise, Run, TrainConfig, TrainingPhotos, train_classifier
from dncbm.data.images import decode_image
from dncbm.data.sources import open_source

WIDTH = 16
SIZE: dict[str, Any] = {"small_inputs": True, "width": WIDTH}
STATISTICS = Normalise(mean=(0.491, 0.482, 0.447), std=(0.247, 0.243, 0.262))
CURVE, WEIGHTS = "curve.jsonl", "model.safetensors"


class Photos:
    """Bytes and classes of both splits, decoded once."""

    def __init__(self, path: str | None, cache: Path) -> None:
        file = cache / "photos.npz"
        if not file.exists():
            cache.mkdir(parents=True, exist_ok=True)
            np.savez(file, **_decoded(str(path)))
        with np.load(file) as stored:
            found = {name: stored[name] for name in stored.files}
        self.classes = tuple(found["classes"].tolist())
        train = found["train"]
        self.train = (found["pixels"][train], torch.from_numpy(found["labels"][train]))
        self.test = (found["pixels"][~train], torch.from_numpy(found["labels"][~train]))


def _decoded(path: str) -> dict[str, Any]:
    source = open_source(path)
    classes = sorted({str(record.label) for record in source.records})
    photos = [np.asarray(decode_image(source.read(i))) for i in range(len(source.records))]
    return {
        "pixels": np.stack(photos).transpose(0, 3, 1, 2),
        "labels": np.array([classes.index(str(record.label)) for record in source.records]),
        "train": np.array([record.split == "train" for record in source.records]),
        "classes": np.array(classes),
    }


def _standard(classes: int, _run_dir: Path, _seed: int) -> nn.Module:
    return create_model("standard_resnet18", num_classes=classes, **SIZE)


def _bcos(classes: int, _run_dir: Path, _seed: int) -> nn.Module:
    network = create_model("resnet18", num_classes=classes, **SIZE)
    return ImageModel(network, encoding="inverse")


def _antialiased(classes: int, _run_dir: Path, _seed: int) -> nn.Module:
    network = create_model("resnet18", num_classes=classes, antialiased=True, **SIZE)
    return ImageModel(network, encoding="inverse")


def _converted(classes: int, run_dir: Path, seed: int) -> nn.Module:
    twin = _standard(classes, run_dir, seed)
    twin.load_state_dict(load_file(run_dir / f"standard-{seed}" / WEIGHTS))
    return convert(twin.eval())


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A network and how it is trained."""

    make: Callable[[int, Path, int], nn.Module]
    prepare: Normalise
    share: float = 1.0
    """Of the epochs."""
    settings: dict[str, Any]


_V2 = {"learning_rate": 3e-3, "clipping": "adaptive", "loss": "bce"}
_USUAL = {
    "learning_rate": 2e-3, "clipping": "norm", "loss": "cross-entropy", "weight_decay": 0.05,
}  # fmt: skip
NAMES = {
    "standard": Setup(make=_standard, prepare=STATISTICS, settings=_USUAL),
    "bcos": Setup(make=_bcos, prepare=Normalise(), settings=_V2),
    "bcos-antialiased": Setup(make=_antialiased, prepare=Normalise(), settings=_V2),
    "converted": Setup(make=_converted, prepare=STATISTICS, share=0.25, settings=_V2),
}


def trained(name: str, photos: Photos, run_dir: Path, seed: int) -> nn.Module:
    """The network of a finished run."""
    model = NAMES[name].make(len(photos.classes), run_dir, seed)
    model.load_state_dict(load_file(run_dir / f"{name}-{seed}" / WEIGHTS))
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, photos: Photos, prepare: Callable[[Tensor], Tensor]) -> float:
    """Share of the test photos that are classified rightly."""
    was_training = model.training
    model.eval()
    pixels, labels = photos.test
    right = sum(
        int((model(prepare(torch.from_numpy(part))).argmax(1) == truth).sum())
        for part, truth in zip(np.array_split(pixels, 40), np.array_split(labels, 40), strict=True)
    )
    model.train(was_training)
    return right / len(labels)


def train(name: str, photos: Photos, options: argparse.Namespace) -> None:
    """One run; its curve and its weights are left in a folder of its own."""
    torch.manual_seed(options.seed)
    setup, folder = NAMES[name], options.out / f"{name}-{options.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    model = setup.make(len(photos.classes), options.out, options.seed)
    pixels, labels = photos.train
    config = TrainConfig(
        epochs=round(setup.share * options.epochs), batch_size=128, shift=4, seed=options.seed,
        checkpoint_every=len(pixels) // 128, **setup.settings,
    )  # fmt: skip
    start = time.process_time()

    def watch(step: int) -> None:
        found = accuracy(model, photos, setup.prepare)
        row = {"run": name, "epoch": step // config.checkpoint_every, "accuracy": found}
        row |= {"CPU s": round(time.process_time() - start, 1)}
        with (folder / CURVE).open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)

    run = Run(checkpoint=folder / "run.safetensors", watch=watch)
    data = TrainingPhotos(pixels=pixels, prepare=setup.prepare, labels=labels)
    train_classifier(model, data, config, run)
    weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(weights, folder / WEIGHTS)


def table(options: argparse.Namespace) -> None:
    """What the runs reached, and when the converted network was as good as B-cos from scratch."""
    curves: dict[str, list[Row]] = {}
    for name in NAMES:
        file = options.out / f"{name}-{options.seed}" / CURVE
        if file.exists():
            curves[name] = [json.loads(line) for line in file.read_text().splitlines()]
    rows = [
        {"network": name, "epochs": curve[-1]["epoch"], "accuracy": curve[-1]["accuracy"]}
        | {"best": max(row["accuracy"] for row in curve), "CPU s": curve[-1]["CPU s"]}
        for name, curve in curves.items()
    ]
    final = {row["network"]: row["accuracy"] for row in rows}
    ratios: dict[str, float | None] = {}
    if {"bcos", "standard"} <= set(final):
        ratios["accuracy, b-cos minus ordinary"] = final["bcos"] - final["standard"]
    if {"bcos", "converted"} <= set(final):
        ratios["accuracy, converted minus b-cos"] = final["converted"] - final["bcos"]
        reached = [r["epoch"] for r in curves["converted"] if r["accuracy"] >= final["bcos"]]
        epochs = curves["bcos"][-1]["epoch"]
        ratios["epochs from scratch / converted"] = epochs / reached[0] if reached else None
    finish("bcos_networks", rows, ratios, options)


def main() -> None:
    """Train what is named, or show the table."""
    made = parser(__doc__)
    made.add_argument("runs", nargs="+", choices=[*NAMES, "table"])
    made.add_argument("--data", help="CIFAR-10 as a zip of photos, train and test")
    made.add_argument("--epochs", type=int, default=24)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--threads", type=int, default=1)
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.runs:
        if name == "table":
            table(options)
        else:
            train(name, Photos(options.data, options.out), options)


if __name__ == "__main__":
    main()
