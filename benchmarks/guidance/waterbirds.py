"""Does guidance help where the background misleads: worst-group accuracy on a spurious set.

    python -m benchmarks.spurious.build tiny_imagenet.zip SET
    python -m benchmarks.guidance.waterbirds SET --quick

The protocol of Waterbirds-100 (Rao et al. 2023, section 5.4): in training each class has its own
background, boxes are known for a share of the training photos, and the network decides by the thing
(conventional) or, with the mask outside of it, by the background (reversed). Baseline and guided
runs of each seed are compared on the same test. Runs stand in files below `--out`; a killed
benchmark goes on where it was. `benchmarks.guidance.removal` does the same with a bottleneck, whose
concepts of the background are taken out of its decisions.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._harness import Row, finish, parser
from benchmarks.guidance._runs import baseline, guided, summary, unguided
from dncbm.guidance.candidates import TOLERANCE


def recipe(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """What baseline and guided runs have in common."""
    epochs = 2 if options.quick else options.epochs
    training = {
        "epochs": epochs, "batch_size": 64, "learning_rate": options.rate, "warmup": 0.04,
        "evaluate_every": 80,
    }  # fmt: skip
    return {
        "model": options.network, "data": str(options.data), "annotations": str(options.data),
        "relabel": True, "architecture": {"width": options.width}, "size": options.pixels,
        "seed": seed, "device": options.device, "training": training, "tolerance": TOLERANCE,
    }  # fmt: skip


def guided_runs(options: argparse.Namespace) -> list[Row]:
    """A row per loss and seed; the baseline's figures stand in each."""
    folder, rows = options.out / "waterbirds", []
    for seed in range(options.seeds):
        base = recipe(options, seed)
        start = baseline(folder, f"baseline-{seed}", base)
        for loss in options.losses.split(","):
            training = base["training"] | {
                "loss": loss, "layer": options.layer, "learning_rate": 0.3 * options.rate,
            }  # fmt: skip
            run = base | {
                "model": start, "architecture": {}, "training": training,
                "weights": options.weights, "fraction": options.fraction,
                "dilation": options.dilation,
            }  # fmt: skip
            if loss == "none":
                run = unguided(run)
            name = f"{loss}-{options.layer}-{options.fraction:g}-{options.dilation:g}-{seed}"
            rows.append({"loss": loss, "seed": seed, **_flat(guided(folder, name, run))})
    return rows


def _flat(found: Row) -> Row:
    names = ("worst_group", "accuracy", "epg", "iou")
    return {f"{name} {when}": found[when][name] for when in ("before", "after") for name in names}


def main() -> None:
    """Run what is missing, print all, write."""
    made = parser(__doc__)
    made.add_argument("data", type=Path, help="folder of benchmarks.spurious.build, or Waterbirds")
    made.add_argument("--network", default="scratch:resnet18")
    made.add_argument("--width", type=int, default=16, help="channels of the first stage")
    made.add_argument("--layer", default="input")
    made.add_argument("--rate", type=float, default=5e-3, help="a third of it when guided")
    made.add_argument("--losses", default="none,energy,l1", help="none: as long, unguided")
    made.add_argument("--weights", type=float, nargs="+", default=[1.0, 3.0])
    made.add_argument("--fraction", type=float, default=0.01, help="of training photos with boxes")
    made.add_argument("--dilation", type=float, default=0.0, help="how far boxes are too large")
    made.add_argument("--seeds", type=int, default=4)
    made.add_argument("--pixels", type=int, default=32)
    made.add_argument("--epochs", type=float, default=15.0)
    made.add_argument("--device", default="cpu")
    made.add_argument("--quick", action="store_true", help="minutes on one core")
    options = made.parse_args()
    if options.quick:
        options.seeds, options.losses, options.weights = 1, "energy", [1.0]
    rows = guided_runs(options)
    tables = summary(rows, ("loss",))
    gains = {
        f"{kind}: worst group gained": float(
            np.mean([r["worst_group after"] - r["worst_group before"]
                     for r in rows if r["loss"] == kind])
        )
        for kind in dict.fromkeys(row["loss"] for row in rows)
    }  # fmt: skip
    finish("guidance-waterbirds", tables, gains, options, notes={"runs": rows})


if __name__ == "__main__":
    main()
