"""B-cos from scratch beside its ordinary twin, and the twin B-cosified: accuracy against epochs.

    python -m benchmarks.bcos.networks standard bcos converted --data cifar10.zip --out RUN_DIR

Each name is one training on the same photos; runs go on where they were killed, and `table` reads
their curves. With `-antialiased` strides are taken after a low-pass. The twin has its own usual
recipe (AdamW, cross-entropy), B-cos that of B-cos v2 (Adam, adaptive clipping, binary
cross-entropy), both the same number of epochs. `converted` starts from the trained twin and has a
quarter of them.
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
from torch import nn

from benchmarks._harness import Row, finish, parser
from dncbm.bcos import create_model
from dncbm.bcos.convert import convert
from dncbm.bcos.inputs import ImageModel
from dncbm.bcos.layers import logit_bias
from dncbm.bcos.train import TrainingConfig, train_classifier
from dncbm.data.pixels import decoded
from dncbm.data.sources import open_source
from dncbm.data.views import Views
from dncbm.training.photos import Photos, Run

SIZE = 32
SMALL: dict[str, Any] = {"small_inputs": True, "width": 16}
COLOURS = Views(size=SIZE, smallest=0.5)
STATISTICS = Views(
    size=SIZE, smallest=0.5, mean=(0.491, 0.482, 0.447), std=(0.247, 0.243, 0.262)
)  # fmt: skip
HISTORY, WEIGHTS = "history.json", "model.safetensors"


def read_photos(path: str, cache: Path) -> tuple[Photos, tuple[str, ...]]:
    """Photos of both splits, decoded once, and the names of their classes."""
    found = decoded(open_source(path), cache, size=SIZE)
    classes = sorted({str(record.label) for record in found.records})
    splits = np.array([record.split for record in found.records])
    labels = np.array([classes.index(str(record.label)) for record in found.records])
    parts = {name: np.flatnonzero(splits == name) for name in ("train", "test")}
    photos = Photos(
        images=found.images, train=parts["train"], held_out=parts["test"], labels=labels
    )  # fmt: skip
    return photos, tuple(classes)


Maker = Callable[[int, Path, int], nn.Module]
"""Of a number of classes, the folder of the runs and a seed."""


def _standard(*, antialiased: bool = False) -> Maker:
    def make(classes: int, _run_dir: Path, _seed: int) -> nn.Module:
        settings = SMALL | {"antialiased": antialiased}
        return create_model("standard_resnet18", num_classes=classes, **settings)

    return make


def _bcos(*, antialiased: bool = False) -> Maker:
    def make(classes: int, _run_dir: Path, _seed: int) -> nn.Module:
        settings = SMALL | {"antialiased": antialiased}
        network = create_model("resnet18", num_classes=classes, **settings)
        return ImageModel(network, encoding="inverse")

    return make


def _converted(twin: str, *, antialiased: bool = False) -> Maker:
    def make(classes: int, run_dir: Path, seed: int) -> nn.Module:
        model = convert(trained(twin, classes, run_dir, seed), antialiased=antialiased)
        network: Any = model.network
        network.logit_layer.bias = logit_bias(classes)
        return model

    return make


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A network and how it is trained."""

    make: Maker
    views: Views
    share: float = 1.0
    """Of the epochs."""
    batch_size: int = 128
    settings: dict[str, Any]


_V2 = {"learning_rate": 1e-2, "loss": "uniform-off-label", "warmup": 0.04}
_ON = _V2 | {"learning_rate": 2e-3}
"""From trained weights, which faster steps would undo."""
_USUAL = {
    "learning_rate": 2e-3, "loss": "cross-entropy", "warmup": 0.04, "optimizer": "adamw",
    "weight_decay": 0.05, "adaptive_clipping": None,
}  # fmt: skip
NAMES = {
    "standard": Setup(make=_standard(), views=STATISTICS, settings=_USUAL),
    "standard-antialiased": Setup(
        make=_standard(antialiased=True), views=STATISTICS, settings=_USUAL
    ),
    "bcos": Setup(make=_bcos(), views=COLOURS, settings=_V2),
    "bcos-antialiased": Setup(make=_bcos(antialiased=True), views=COLOURS, settings=_V2),
    "converted": Setup(
        make=_converted("standard"), views=STATISTICS, share=0.25, batch_size=64, settings=_ON
    ),
    "converted-antialiased": Setup(
        make=_converted("standard-antialiased"), views=STATISTICS, share=0.25, batch_size=64,
        settings=_ON,
    ),
    "converted-to-antialiased": Setup(
        make=_converted("standard", antialiased=True), views=STATISTICS, share=0.25, batch_size=64,
        settings=_ON | {"learning_rate": 3e-3},
    ),
}  # fmt: skip


def trained(name: str, classes: int, run_dir: Path, seed: int) -> nn.Module:
    """The network of a finished run."""
    model = NAMES[name].make(classes, run_dir, seed)
    model.load_state_dict(load_file(run_dir / f"{name}-{seed}" / WEIGHTS))
    return model.eval()


def train(name: str, photos: Photos, classes: int, options: argparse.Namespace) -> None:
    """One run; its history and its weights are left in a folder of its own."""
    torch.manual_seed(options.seed)
    setup, folder = NAMES[name], options.out / f"{name}-{options.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    model = setup.make(classes, options.out, options.seed)
    per_epoch = len(photos.train) // setup.batch_size
    config = TrainingConfig(
        epochs=setup.share * options.epochs, batch_size=setup.batch_size, seed=options.seed,
        precision="float32", evaluate_every=per_epoch, **setup.settings,
    )  # fmt: skip
    start = time.process_time()
    run = Run(checkpoint=folder / "run.safetensors", purpose=f"{name} {options.epochs}")
    history = train_classifier(model, photos, setup.views, config, run)
    curve = [
        {"epoch": row["step"] / per_epoch, "accuracy": row["held_out_accuracy"]}
        for row in history
        if "held_out_accuracy" in row
    ]
    result = {"run": name, "CPU s": round(time.process_time() - start, 1), "curve": curve}
    (folder / HISTORY).write_text(json.dumps(result, indent=1) + "\n")
    print(result, flush=True)
    weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(weights, folder / WEIGHTS)


def table(options: argparse.Namespace) -> None:
    """What the runs reached, and when the converted network was as good as B-cos from scratch."""
    curves: dict[str, list[Row]] = {}
    rows: list[Row] = []
    for name in NAMES:
        file = options.out / f"{name}-{options.seed}" / HISTORY
        if file.exists():
            found = json.loads(file.read_text())
            curve = curves[name] = found["curve"]
            row: Row = {"network": name, "epochs": curve[-1]["epoch"]}
            row |= {"accuracy": curve[-1]["accuracy"], "CPU s": found["CPU s"]}
            rows.append(row)
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
            photos, classes = read_photos(options.data, options.out)
            train(name, photos, len(classes), options)


if __name__ == "__main__":
    main()
