"""SAE presets side by side on real photos: held-out reconstruction and what a classifier keeps.

    python benchmarks/sae_presets.py MODEL_DIR... [--json results.json]

MODEL_DIR is what `dncbm quickstart` left (its embeddings are used, nothing in it is changed).
`dncbm-paper, equal steps` is the paper's recipe with as many epochs as `default` takes steps: its
200 epochs are few steps where photos are few. Every preset is trained on the train photos with
each seed; reconstruction is measured on the other photos, accuracies on the test photos.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dncbm.encoders.artifact import EmbeddingsArtifact, load_embeddings
from dncbm.encoders.labelled import labelled_rows
from dncbm.probe.train import ProbeConfig, train_probe
from dncbm.sae.config import SaeConfig
from dncbm.sae.encode import encode_rows
from dncbm.sae.presets import preset
from dncbm.sae.rows import ShardRows
from dncbm.sae.train import train_sae
from pipelines.bottleneck import class_names
from pipelines.discover import held_out_metrics

METHODS = ("default", "topk", "dncbm-paper", "dncbm-paper, equal steps")
NECS = (5, 10)


def config_for(method: str, embed_dim: int, num_rows: int, seed: int) -> SaeConfig:
    """The preset's own recipe; the seed is the only thing that changes."""
    name, _, equal_steps = method.partition(", ")
    config = preset(name, embed_dim=embed_dim, num_rows=num_rows, seed=seed)
    if not equal_steps:
        return config
    wanted = preset("default", embed_dim=embed_dim, num_rows=num_rows).total_steps(num_rows)
    epochs = -(-wanted // config.steps_per_epoch(num_rows))
    return preset(name, embed_dim=embed_dim, num_rows=num_rows, seed=seed, epochs=epochs)


def measure(embeddings: EmbeddingsArtifact, method: str, seed: int) -> dict[str, Any]:
    """Train one autoencoder and the heads on its codes."""
    train = ShardRows(embeddings.shards, embeddings.rows("train"))
    config = config_for(method, embeddings.embed_dim, len(train), seed)
    started = time.process_time()
    trained = train_sae(train, config)
    spent = time.process_time() - started
    held_out = held_out_metrics(embeddings, trained.model) or {}
    classes = class_names(embeddings)
    data = {
        split: pair for split, pair in labelled_rows(embeddings, classes).items() if len(pair[0])
    }
    probe = train_probe(
        {
            s: encode_rows(trained.model, ShardRows(embeddings.shards, r))
            for s, (r, _) in data.items()
        },
        {split: labels for split, (_, labels) in data.items()},
        classes,
        ProbeConfig(necs=NECS),
    )
    accuracy = probe.metrics["accuracy"]["test"]
    return {
        "method": method,
        "seed": seed,
        "concepts": config.num_concepts,
        "steps": config.total_steps(len(train)),
        "unexplained, train": trained.metrics.unexplained_variance,
        "unexplained, held out": held_out.get("unexplained_variance", float("nan")),
        "L0": held_out.get("l0", trained.metrics.l0),
        "dead": trained.metrics.dead_fraction,
        "accuracy": accuracy["dense"],
        **{f"NEC {nec}": accuracy[f"nec{nec}"] for nec in NECS},
        "CPU s of training": spent,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One line per method: mean over the seeds, and the range where it is not one number."""
    names = [name for name in rows[0] if name not in ("method", "seed", "data")]
    lines = ["| data | method | " + " | ".join(names) + " |", "|" + "---|" * (len(names) + 2)]
    for data, method in dict.fromkeys((row["data"], row["method"]) for row in rows):
        mine = [row for row in rows if (row["data"], row["method"]) == (data, method)]
        cells = [_cell([row[name] for row in mine]) for name in names]
        lines.append(f"| {data} | {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    digits = 0 if max(values) >= 100 or all(v == int(v) for v in values if np.isfinite(v)) else 3
    low, high = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if low == high else f"{mean} ({low} to {high})"


def main() -> None:
    """Print one table over all model directories."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not arguments.models:
        print("Give model directories that `dncbm quickstart` left; see --help.")
        return
    rows = []
    for folder in arguments.models:
        embeddings = load_embeddings(folder / "embeddings")
        for method in arguments.methods:
            for seed in arguments.seeds:
                rows.append({"data": folder.name} | measure(embeddings, method, seed))
                print(json.dumps(rows[-1]), flush=True)
                if arguments.json:
                    arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
