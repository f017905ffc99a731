"""How much of a planted dictionary each SAE preset recovers, in the same number of steps.

    python benchmarks/planted_dictionary.py --json results.jsonl --markdown table.md

Data: 4,096 random unit directions in 512 dimensions, 200,000 rows of 16 to 32 active
directions, strengths uniform in [0.5, 1.5), frequencies falling like rank^-0.5, Gaussian noise
of 0.2 times the signal's length. Every method gets the same steps, batch size and matrix
product precision; a line of JSON is written after each run and finished runs are not repeated.
"""

import argparse
import json
import logging
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from dncbm.data.planted import match_dictionaries, planted_dictionary, planted_embeddings
from dncbm.sae.config import SaeConfig
from dncbm.sae.presets import preset
from dncbm.sae.train import train_sae

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "default": ("default", {}),
    "dncbm-paper": ("dncbm-paper", {}),
    "plain TopK": ("topk", {"aux_weight": 0.0, "lr": 1e-3}),
}
COLUMNS = {
    "recovered_fraction": "recovered (matched cosine > 0.9)",
    "mean_cosine": "mean matched cosine",
    "mean_max_cosine": "mean best cosine",
    "unexplained_variance": "unexplained variance",
    "l0": "L0",
    "dead_fraction": "dead",
    "cpu_seconds": "CPU s",
}


def config_for(method: str, options: argparse.Namespace, seed: int) -> SaeConfig:
    """The method's preset under the benchmark's budget."""
    name, changes = METHODS[method]
    budget = {
        "num_concepts": options.concepts,
        "batch_size": options.batch_size,
        "max_steps": options.steps,
        "epochs": -(-options.steps * options.batch_size // options.rows),
        "precision": options.precision,
        "seed": seed,
        "k": options.k,
    }
    return preset(name, embed_dim=options.width, num_rows=options.rows, **budget, **changes)


def run(method: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train once and measure against the planted truth."""
    truth = planted_dictionary(options.concepts, options.width, seed=seed)
    active = (options.active[0], options.active[1])
    rows, codes = planted_embeddings(
        truth, options.rows, active=active, noise=options.noise, seed=seed, offset=options.offset
    )
    started = time.process_time()
    trained = train_sae(rows, config_for(method, options, seed), progress=_report)
    spent = time.process_time() - started
    matching = match_dictionaries(trained.model.dictionary, truth)
    return {
        "method": method,
        "seed": seed,
        "steps": options.steps,
        "batch_size": options.batch_size,
        "planted_l0": codes.nnz / options.rows,
        "recovered_fraction": matching.recovered_fraction,
        "mean_cosine": matching.mean_cosine,
        "mean_max_cosine": matching.mean_max_cosine,
        "unexplained_variance": trained.metrics.unexplained_variance,
        "l0": trained.metrics.l0,
        "dead_fraction": trained.metrics.dead_fraction,
        "cpu_seconds": spent,
    }


def markdown(results: list[dict[str, Any]]) -> str:
    """One row per method: mean over seeds, and the range where there are several."""
    lines = [
        "| method | seeds | " + " | ".join(COLUMNS.values()) + " |",
        "|---|---|" + "---|" * len(COLUMNS),
    ]
    for method in METHODS:
        mine = [result for result in results if result["method"] == method]
        if mine:
            cells = [_cell([result[name] for result in mine]) for name in COLUMNS]
            lines.append(f"| {method} | {len(mine)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(values: list[float]) -> str:
    digits = 3 if max(values) < 10 else 1
    mean = f"{statistics.fmean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _report(stage: str, done: int, total: int) -> None:
    if done % 50 == 0:
        print(f"{time.strftime('%H:%M:%S')} {stage} {done}/{total}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", type=Path, help="keeps finished runs, to go on from")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--concepts", type=int, default=4096)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--k", type=int, default=32, help="codes per row of the TopK methods")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--active", type=int, nargs=2, default=(16, 32))
    parser.add_argument("--noise", type=float, default=0.2)
    parser.add_argument("--offset", type=float, default=0.0)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--precision", default="bfloat16", choices=("float32", "bfloat16"))
    return parser.parse_args()


def main() -> None:
    """Run what is missing, then write the table of all results."""
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(1)
    options = _arguments()
    kept = options.json is not None and options.json.exists()
    lines = options.json.read_text().splitlines() if kept else []
    results = [json.loads(line) for line in lines]
    finished = {(result["method"], result["seed"]) for result in results}
    for seed in options.seeds:
        for method in options.methods:
            if (method, seed) in finished:
                continue
            results.append(run(method, seed, options))
            if options.json is not None:
                with options.json.open("a") as stream:
                    stream.write(json.dumps(results[-1]) + "\n")
            print(results[-1], flush=True)
    table = markdown(results)
    print(table)
    if options.markdown:
        options.markdown.write_text(table)


if __name__ == "__main__":
    main()
