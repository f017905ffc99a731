"""B-cos from scratch beside its ordinary twin, and the twin B-cosified: accuracy and localisation.

    python -m benchmarks.bcos.networks standard bcos converted --data cifar10.zip --out RUN_DIR

Each name is one training on the same photos with the same budget of epochs; runs go on where they
were killed, and `table` reads what is there. The twin is trained by its own usual recipe (SGD,
cross-entropy), B-cos by that of B-cos v2 (Adam, adaptive clipping, binary cross-entropy). The
converted network starts from the trained twin and has a quarter of the epochs.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks._harness import parser
from dncbm.bcos import create_model
from dncbm.bcos.inputs import ImageModel
from dncbm.bcos.train import Normalise, Run, TrainConfig, TrainingPhotos, train_classifier
from dncbm.data.images import decode_image
from dncbm.data.sources import open_source

WIDTH = 16
STATISTICS = Normalise(mean=(0.491, 0.482, 0.447), std=(0.247, 0.243, 0.262))


class Photos:
    """Bytes and classes of both splits, decoded once."""

    def __init__(self, path: str, cache: Path) -> None:
        file = cache / "photos.npz"
        if not file.exists():
            cache.mkdir(parents=True, exist_ok=True)
            np.savez(file, **_decoded(path))
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


def standard(classes: int) -> nn.Module:
    """The ordinary network."""
    return create_model(
        "standard_resnet18", num_classes=classes, small_inputs=True, width=WIDTH
    )  # fmt: skip


def bcos(classes: int, antialiased: bool) -> nn.Module:
    """The same architecture as a B-cos network, with the encoding of images."""
    network = create_model(
        "resnet18", num_classes=classes, small_inputs=True, width=WIDTH, antialiased=antialiased
    )
    return ImageModel(network, encoding="inverse")


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


def train(name: str, photos: Photos, options: argparse.Namespace) -> nn.Module:
    """One of the runs, or what is left of it; its curve is written beside the checkpoint."""
    torch.manual_seed(options.seed)
    model, config, prepare = recipe(name, len(photos.classes), options)
    folder: Path = options.out / f"{name}-{options.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    pixels, labels = photos.train
    per_epoch, start = len(pixels) // config.batch_size, time.process_time()

    def watch(step: int) -> None:
        row = {
            "run": name, "seed": options.seed, "epoch": step / per_epoch,
            "accuracy": accuracy(model, photos, prepare), "CPU s": time.process_time() - start,
        }  # fmt: skip
        with (folder / "curve.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)

    run = Run(checkpoint=folder / "run.safetensors", watch=watch)
    data = TrainingPhotos(pixels=pixels, prepare=prepare, labels=labels)
    return train_classifier(model, data, config, run)


def recipe(
    name: str, classes: int, options: argparse.Namespace
) -> tuple[nn.Module, TrainConfig, Callable[[Tensor], Tensor]]:
    """Network, settings and preparation of a run."""
    shared: dict[str, Any] = {"batch_size": 128, "shift": 4, "seed": options.seed}
    every = {"checkpoint_every": options.every}
    if name == "standard":
        config = TrainConfig(
            epochs=options.epochs, learning_rate=2e-3, weight_decay=0.05, loss="cross-entropy",
            clipping="norm", **shared, **every,
        )  # fmt: skip
        return standard(classes), config, STATISTICS
    if name == "bcos":
        config = TrainConfig(epochs=options.epochs, learning_rate=options.rate, **shared, **every)
        return bcos(classes, options.antialiased), config, Normalise()
    raise ValueError(f"no run {name!r}")


def main() -> None:
    """Train what is named."""
    made = parser(__doc__)
    made.add_argument("runs", nargs="+")
    made.add_argument("--data", required=True)
    made.add_argument("--epochs", type=int, default=24)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--rate", type=float, default=2e-3, help="of the B-cos network")
    made.add_argument("--every", type=int, default=312, help="steps between two evaluations")
    made.add_argument("--antialiased", action="store_true")
    made.add_argument("--threads", type=int, default=1)
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    photos = Photos(options.data, options.out)
    for name in options.runs:
        train(name, photos, options)


if __name__ == "__main__":
    main()
