"""What a network that nobody guides makes of a set with a spurious background.

    python -m benchmarks.spurious.baseline SET [SET ...] --seeds 0 1 2 3 --json

A narrow ResNet-18 learns the classes; accuracy is that of the last weights on the test photos, per
group. A set built with `--correlation 0.5` shows what could be reached: there the background says
nothing.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from benchmarks._harness import Row, finish, parser
from dncbm.bcos import create_model
from dncbm.data.pixels import decoded
from dncbm.data.sources import groups_of, open_source
from dncbm.data.views import Views
from dncbm.errors import InvalidInput
from dncbm.guidance.metrics import GroupAccuracy, group_accuracy
from dncbm.training.photos import Photos, PhotoTraining, Run, train_on_photos, whole

SIZE = 64
VIEWS = Views(size=SIZE, smallest=0.5, mean=(0.45, 0.45, 0.42), std=(0.26, 0.25, 0.27))


def read_set(location: str, cache: Path) -> tuple[Photos, list[str | None]]:
    """Photos with the test as what is held out, and their groups."""
    source = open_source(location)
    found = decoded(source, cache, size=SIZE)
    classes = sorted({str(record.label) for record in found.records})
    splits = np.array([record.split for record in found.records])
    groups = groups_of(source)
    if groups is None:
        raise InvalidInput(f"{location} has no groups. Build it with benchmarks.spurious.build.")
    photos = Photos(
        images=found.images, train=np.flatnonzero(splits == "train"),
        held_out=np.flatnonzero(splits == "test"),
        labels=np.array([classes.index(str(record.label)) for record in found.records]),
    )  # fmt: skip
    return photos, list(groups)


def trained_accuracy(
    photos: Photos, groups: list[str | None], seed: int, epochs: float
) -> GroupAccuracy:
    """Train from scratch and measure."""
    torch.manual_seed(seed)
    network = create_model("standard_resnet18", num_classes=2, width=16)
    config = PhotoTraining(
        epochs=epochs, learning_rate=2e-3, optimizer="adamw", weight_decay=0.05,
        adaptive_clipping=None, warmup=0.05, seed=seed,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        train_on_photos(
            network, photos, VIEWS, config, Run(checkpoint=Path(folder) / "checkpoint"),
            lambda batch: {
                "loss": functional.cross_entropy(network(batch.pixels()), photos.truth(batch.rows))
            },
            dict,
        )  # fmt: skip
    with torch.inference_mode():
        named = [network(pixels).argmax(1) for _, pixels in whole(photos, VIEWS, "cpu")]
    right = (torch.cat(named) == photos.truth(photos.held_out)).numpy()
    return group_accuracy(right, [groups[row] for row in photos.held_out])


def main() -> None:
    """A row per set and seed, and a mean and standard deviation per set."""
    options = parser(__doc__)
    options.add_argument("sets", nargs="+", help="folders made by benchmarks.spurious.build")
    options.add_argument("--seeds", type=int, nargs="+", default=[0])
    options.add_argument("--epochs", type=float, default=10.0)
    options.add_argument("--cache", type=Path, default=Path("spurious-cache"))
    given = options.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    summary: dict[str, float | None] = {}
    for location in given.sets:
        photos, groups = read_set(location, given.cache)
        found = [trained_accuracy(photos, groups, seed, given.epochs) for seed in given.seeds]
        name = Path(location).name
        rows += [
            {"set": name, "seed": seed, "worst": one.worst, "all": one.overall} | dict(one.accuracy)
            for seed, one in zip(given.seeds, found, strict=True)
        ]
        worst, overall = [one.worst for one in found], [one.overall for one in found]
        summary |= {f"{name}, worst group": float(np.mean(worst)),
                    f"{name}, all": float(np.mean(overall))}  # fmt: skip
        print(f"{name}: worst {np.mean(worst):.3f} +- {np.std(worst):.3f}, "
              f"all {np.mean(overall):.3f} +- {np.std(overall):.3f}", flush=True)  # fmt: skip
    finish("spurious-baseline", rows, summary, given, notes={"epochs": given.epochs})


if __name__ == "__main__":
    main()
