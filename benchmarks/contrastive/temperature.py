"""Temperature schedules on a long tail of real photos: cosine, constants, linear, random.

    python -m benchmarks.contrastive.temperature run --data cifar10.zip --out RUN_DIR
    python -m benchmarks.contrastive.temperature run cosine --seeds 0 --out RUN_DIR
    python -m benchmarks.contrastive.temperature table --out RUN_DIR

One piece is one (schedule, seed): SimCLR from scratch on the same exponential long-tail subset of
the seed, with the same order, views and budget; only the temperature differs. Finished pieces are
kept, killed ones resume. Features are the network's own, measured by the long-tail protocol
(`dncbm.contrastive.evaluate`) on the balanced test photos. The network is a ResNet-18 of width 16
at 32 pixels.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._harness import Row
from benchmarks.bcos.networks import read_photos
from dncbm.artifacts import write_json
from dncbm.contrastive.config import PretrainConfig
from dncbm.contrastive.evaluate import evaluate
from dncbm.contrastive.longtail import exponential_rows
from dncbm.contrastive.networks import new_tower, views_network
from dncbm.contrastive.train import labelled, train_views
from dncbm.training.photos import Photos, Run
from dncbm.training.progress import Progress

SIZE, WIDTH = 32, 16
CONSTANTS = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
SCHEDULES: dict[str, str] = {
    "cosine": "cosine:0.1:1.0:periods={periods}",
    "cosine-low": "cosine:0.05:0.2:periods={periods}",
    **{f"constant-{value}": str(value) for value in CONSTANTS},
    "linear": "linear:1.0:0.1",
    "random": "random:0.1:1.0",
}
"""`cosine` is the papers'; the low one lies about the best constants of a short training. Random
values are drawn anew each epoch, as the source's epochs are its steps."""
FIGURES = (
    "knn_1", "knn_10", "knn_10_head", "knn_10_mid", "knn_10_tail", "few_shot", "few_shot_tail",
    "long_tail", "long_tail_tail", "class_separation",
)  # fmt: skip
STATISTICS: dict[str, Any] = {"mean": (0.491, 0.482, 0.447), "std": (0.247, 0.243, 0.262)}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(SCHEDULES)}; default: all")
    parser.add_argument("--data", default="cifar10.zip")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=350, help="updates of each piece")
    parser.add_argument("--periods", type=float, default=1.0, help="of the cosine in a piece")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--ratio", type=float, default=0.01, help="rarest over most frequent class")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def config(args: argparse.Namespace, name: str, seed: int) -> PretrainConfig:
    """The same for all schedules but for the temperature."""
    return PretrainConfig(
        steps=args.steps, batch_size=args.batch_size, learning_rate=args.lr, weight_decay=1e-4,
        temperature=SCHEDULES[name].format(periods=args.periods), seed=seed,
        evaluate_every=max(1, args.steps // 4),
    )  # fmt: skip


def tail_of(photos: Photos, ratio: float, seed: int) -> Photos:
    """The long-tail subset of a seed; all test photos."""
    labels = np.asarray(photos.labels)
    train = photos.train[exponential_rows(labels[photos.train], ratio, seed=seed)]
    return Photos(images=photos.images, train=train, held_out=photos.held_out, labels=photos.labels)


def piece(args: argparse.Namespace, photos: Photos, name: str, seed: int) -> Row:
    """Train and measure one; the result of a finished one is read."""
    where = args.out / f"{name}-{seed}"
    result = where / "result.json"
    chosen = config(args, name, seed)
    if result.is_file():
        found: Row = json.loads(result.read_text())
        return found
    where.mkdir(parents=True, exist_ok=True)
    subset = tail_of(photos, args.ratio, seed)
    torch.manual_seed(seed)
    start = new_tower("standard_resnet18", SIZE, width=WIDTH)
    network = views_network(start, chosen.new_loss(len(subset.train))).to(args.device)
    augmentation = chosen.augmentation(chosen.views(SIZE, **STATISTICS))
    run = Run(
        checkpoint=where / "checkpoint.safetensors", device=args.device,
        progress=_told(f"{name}, seed {seed}"),
    )  # fmt: skip
    began = time.perf_counter()
    watched = replace(subset, held_out=subset.held_out[::10])  # all are measured at the end
    history = train_views(network, watched, augmentation, chosen, run)
    seconds = time.perf_counter() - began
    parts = [
        labelled(network.tower, subset, rows, augmentation.views, args.device)
        for rows in (subset.train, subset.held_out)
    ]
    found = {
        "name": name, "seed": seed, "steps": args.steps, "batch_size": args.batch_size,
        "temperature": chosen.temperature, "ratio": args.ratio, "train": len(subset.train),
        "seconds": seconds, "images_per_second": args.steps * args.batch_size / seconds,
        **evaluate(*parts, seed=seed), "history": history,
    }  # fmt: skip
    write_json(result, found)
    return found


def _told(what: str) -> Progress:
    """A line at each tenth."""

    def progress(stage: str, done: int, total: int) -> None:
        if done % max(1, total // 10) == 0:
            print(f"{what}: {stage} {done} of {total}", flush=True)

    return progress


def table(out: Path) -> str:
    """Mean ± standard deviation over seeds, in percent, for each schedule."""
    found: dict[str, list[Row]] = {}
    for path in sorted(out.glob("*/result.json")):
        row = json.loads(path.read_text())
        found.setdefault(row["name"], []).append(row)
    lines = [
        "| schedule | seeds | " + " | ".join(FIGURES) + " |",
        "|---|---|" + "---|" * len(FIGURES),
    ]
    for name in [name for name in SCHEDULES if name in found]:
        rows = found[name]
        cells = [_cell([row[figure] for row in rows]) for figure in FIGURES]
        lines.append(f"| {name} | {len(rows)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: list[float | None]) -> str:
    known = [100 * value for value in values if value is not None]
    if not known:
        return "–"
    spread = f" ± {np.std(known, ddof=1):.1f}" if len(known) > 1 else ""
    return f"{np.mean(known):.1f}{spread}"


def main() -> None:
    """All pieces that are asked for, then the table."""
    args = arguments()
    if args.what == "run":
        torch.set_num_threads(1)
        args.out.mkdir(parents=True, exist_ok=True)
        photos, _ = read_photos(args.data, args.out)
        for seed in args.seeds:
            for name in args.names or SCHEDULES:
                found = piece(args, photos, name, seed)
                shown = {figure: round(found[figure], 4) for figure in FIGURES}
                print(name, seed, f"{found['images_per_second']:.0f} images/s", shown, flush=True)
    print(table(args.out))


if __name__ == "__main__":
    main()
