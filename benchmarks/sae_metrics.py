"""Every metric of every SAE preset side by side, on real embeddings and on planted ones.

    python -m benchmarks.sae_metrics MODEL_DIR... --vectors clip=FILE.npz [--json] [--out DIR]

MODEL_DIR is what `dncbm quickstart` left (its embeddings are used, nothing in it is changed).
FILE.npz holds `vectors` (n, d) and `label` (n; '' where unknown), every fifth row of which is
held out. Planted embeddings come first: only there is the true dictionary known. Each
preset is trained with each seed; metrics are means over the seeds, stability compares them.
"""

import json
import statistics
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks._harness import parser, table
from dncbm.data.planted import match_dictionaries, planted_dictionary, planted_embeddings
from dncbm.encoders.artifact import load_embeddings
from dncbm.encoders.labelled import labelled_rows
from dncbm.sae.config import SaeConfig
from dncbm.sae.geometry import stability
from dncbm.sae.metrics import Labelled, accuracy_kept, evaluate_sae
from dncbm.sae.presets import preset
from dncbm.sae.rows import EmbeddingRows, ShardRows, as_rows
from dncbm.sae.train import TrainedSae, train_sae
from pipelines.bottleneck import class_names

PRESETS = ("default", "topk", "dncbm-paper")
PLANTED_ACTIVE = 3
READOUT_ROWS = 20_000


@dataclass(frozen=True)
class Data:
    """Embeddings, labels where there are some, and the true dictionary where it is known."""

    name: str
    train: EmbeddingRows
    held_out: EmbeddingRows
    labelled: tuple[Labelled, Labelled] | None = None
    truth: Tensor | None = None
    variants: tuple[tuple[str, str, dict[str, Any]], ...] = ()
    """Further recipes: name, preset and its overrides."""


def of_model(folder: Path) -> Data:
    """Embeddings that a pipeline made."""
    found = load_embeddings(folder / "embeddings")
    others = np.concatenate([found.rows("validation"), found.rows("test")])
    pairs = labelled_rows(found, class_names(found))
    labelled = [
        Labelled(torch.from_numpy(found.load(rows[:READOUT_ROWS])), torch.from_numpy(labels))
        for rows, labels in (pairs["train"], pairs["test"])
    ]
    return Data(
        folder.name,
        ShardRows(found.shards, found.rows("train")),
        ShardRows(found.shards, np.sort(others)),
        (labelled[0], labelled[1]),
    )


def of_vectors(name: str, path: Path) -> Data:
    """Unit vectors of a file, every fifth held out; the readout uses those with a label."""
    stored = np.load(path, allow_pickle=False)
    vectors = functional.normalize(torch.from_numpy(stored["vectors"]).float(), dim=-1)
    names, classes = np.unique(stored["label"], return_inverse=True)
    common = np.bincount(classes) >= 20  # classes with enough images to learn and to test
    known = common[classes] & (names[classes] != "")
    tested = np.arange(len(vectors)) % 5 == 0
    train, test = (
        Labelled(vectors[mine], torch.from_numpy(classes[mine]))
        for mine in (known & ~tested, known & tested)
    )
    return Data(name, as_rows(vectors[~tested]), as_rows(vectors[tested]), (train, test))


def planted() -> Data:
    """256 directions in 32 dimensions, three in each row: what a minute can train.

    There `default` is also told how many directions a row has: what a good dictionary looks like.
    """
    truth = planted_dictionary(256, 32, seed=0)
    rows, _ = planted_embeddings(truth, 12_000, active=PLANTED_ACTIVE, noise=0.1, seed=0)
    told = ("default, true k", "default", {"k": PLANTED_ACTIVE})
    train, held_out = as_rows(rows[:10_000]), as_rows(rows[10_000:])
    return Data("planted", train, held_out, truth=truth, variants=(told,))


def measure(
    data: Data, method: tuple[str, str, dict[str, Any]], seeds: list[int]
) -> dict[str, Any]:
    """One recipe on one data set: means over the seeds."""
    title, name, changes = method
    width = data.train.shape[1]
    config = preset(name, embed_dim=width, num_rows=len(data.train), **changes)
    runs = [_one(data, replace(config, seed=seed)) for seed in seeds]
    found = {key: statistics.fmean(run[1][key] for run in runs) for key in runs[0][1]}
    if len(runs) > 1:
        started = time.process_time()
        alike = stability([trained.model.dictionary for trained, _ in runs])
        found |= {f"stability, {key}": value for key, value in alike.as_dict().items()}
        found["CPU s: stability"] = time.process_time() - started
    return {"data": data.name, "preset": title} | found


def _one(data: Data, config: SaeConfig) -> tuple[TrainedSae, dict[str, float]]:
    started = time.process_time()
    trained = train_sae(data.train, config)
    whole = time.process_time() - started
    started = time.process_time()
    evaluate_sae(trained.model, data.train)
    evaluated = time.process_time() - started
    held_out = evaluate_sae(trained.model, data.held_out).as_dict()
    found = {f"{key}, train": value for key, value in trained.metrics.as_dict().items()}
    found |= {f"{key}, held out": value for key, value in held_out.items()}
    if data.labelled is not None:
        train, test = data.labelled
        with torch.inference_mode():
            rebuilt = trained.model(test.embeddings).reconstruction
        found |= accuracy_kept(train, test, rebuilt)
    if data.truth is not None:
        matching = match_dictionaries(trained.model.dictionary, data.truth)
        found |= {
            "recovered": matching.recovered_fraction,
            "matched cosine with the truth": matching.mean_cosine,
        }
    found |= {"CPU s: training": whole - evaluated, "CPU s: evaluation": evaluated}
    return trained, {key: value for key, value in found.items() if isinstance(value, (int, float))}


def transposed(rows: list[dict[str, Any]]) -> str:
    """One line per metric, one column per preset."""
    names = [key for key in dict.fromkeys(key for row in rows for key in row) if key != "preset"]
    lines = [
        {"metric": name} | {row["preset"]: row.get(name, "") for row in rows} for name in names
    ]
    return table(lines)


def datasets(options: Namespace) -> Iterator[Data]:
    """Planted data, then files, then model directories."""
    if options.planted:
        yield planted()
    for entry in options.vectors:
        name, _, path = entry.partition("=")
        yield of_vectors(name, Path(path))
    for folder in options.models:
        yield of_model(folder)


def main() -> None:
    """Print one table per data set and write DIR/sae_metrics.json after each preset."""
    arguments = parser(__doc__)
    arguments.add_argument("models", type=Path, nargs="*")
    arguments.add_argument("--vectors", nargs="*", default=[], help="NAME=FILE.npz")
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--presets", nargs="+", choices=PRESETS, default=PRESETS)
    arguments.add_argument("--no-planted", dest="planted", action="store_false")
    options = arguments.parse_args()
    rows: list[dict[str, Any]] = []
    options.out.mkdir(parents=True, exist_ok=True)
    for data in datasets(options):
        for method in (*((name, name, {}) for name in options.presets), *data.variants):
            rows.append(measure(data, method, options.seeds))
            (options.out / "sae_metrics.json").write_text(json.dumps(rows, indent=1) + "\n")
        print(transposed([row for row in rows if row["data"] == data.name]), flush=True)
    if options.json:
        print(json.dumps({"benchmark": "sae_metrics", "ratios": {}, "rows": rows}))


if __name__ == "__main__":
    main()
