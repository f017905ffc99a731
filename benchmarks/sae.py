"""Our SAE training step beside those of other libraries: same data, batches, steps and threads.

    python -m benchmarks.sae --json                 # relu and topk, the peers that are installed
    python -m benchmarks.sae --variants relu topk batchtopk jumprelu gated matryoshka

Every implementation starts from the same weights and sees the same standardised batches of a
planted dictionary's embeddings; they take turns of a few steps. Seconds are processor seconds of
one thread over all turns but the first. Unexplained variance is measured on held-out rows after
the last step, so that speed can be read at equal quality.
"""

import argparse
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks._harness import alternate, finish, parser
from benchmarks._sae_peers import PEERS, Task, Trainer, installed
from dncbm.data.planted import planted_dictionary, planted_embeddings
from dncbm.sae.batches import Batch
from dncbm.sae.config import SaeConfig
from dncbm.sae.metrics import unexplained_variance
from dncbm.sae.rows import TensorRows, input_statistics
from dncbm.sae.train import TrainingRun

HELD_OUT = 4096
THRESHOLDS = {
    "relu_vs_saelens": ("SAELens", "relu"),
    "relu_vs_dictionary_learning": ("dictionary_learning", "relu"),
    "topk_vs_sparsify": ("sparsify", "topk"),
    "topk_vs_saelens": ("SAELens", "topk"),
}


def own_config(variant: str, task: Task) -> SaeConfig:
    """Our configuration of the same task; `reduction` sum, as the peers' losses."""
    concepts, width = task.directions.shape
    own: dict[str, dict[str, Any]] = {
        "relu": {"activation": "relu", "l1": task.l1},
        "gated": {"activation": "gated", "l1": task.l1},
        "jumprelu": {"activation": "jumprelu", "l0": 1.0},
        "topk": {"activation": "topk"},
        "batchtopk": {"activation": "batchtopk"},
        "matryoshka": {"activation": "batchtopk", "levels": (0.0625, 0.1875, 0.4375, 1.0)},
    }
    return SaeConfig(
        embed_dim=width,
        num_concepts=concepts,
        k=task.k,
        lr=task.lr,
        reduction="sum",
        epochs=10**6,
        max_steps=task.steps,
        batch_size=task.batch_size,
        seed=0,
        **own[variant],
    )


class Given:
    """Batches of a run that are handed over from outside, one before each step."""

    def __init__(self) -> None:
        self.rows = torch.empty(0)

    def __getitem__(self, step: int) -> Batch:
        """The rows that were handed over."""
        return Batch(self.rows, len(self.rows))


def ours(variant: str, task: Task, rows: Tensor) -> Trainer:
    """dncbm: a step of its training run."""
    given: Any = Given()
    all_rows = TensorRows(rows)
    statistics = input_statistics(TensorRows(rows[: 2 * HELD_OUT]))
    run = TrainingRun(all_rows, own_config(variant, task), statistics, "cpu", batches=given)
    with torch.no_grad():
        run.model.dictionary.copy_(task.directions)
        run.model.encoder_weight.copy_(task.directions)

    def step(batch: Tensor) -> None:
        given.rows = batch
        run.advance()

    def output(held_out: Tensor) -> tuple[Tensor, Tensor]:
        run.model.eval()
        codes, reconstruction = run.model(held_out)
        run.model.train()
        return reconstruction, codes

    return Trainer(step, output, lambda: run.model.dictionary.detach())


def standardized_rows(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Training and held-out rows of a planted dictionary, unit mean square per coordinate."""
    truth = planted_dictionary(options.concepts, options.width, seed=0)
    rows, _ = planted_embeddings(truth, options.rows + HELD_OUT, active=(16, 32), noise=0.2, seed=0)
    rows = rows - rows.mean(dim=0)
    rows /= rows.square().mean().sqrt()
    return rows[HELD_OUT:], rows[:HELD_OUT]


def trainers(task: Task, rows: Tensor, variants: list[str]) -> tuple[dict, dict[str, str]]:
    """Every implementation of every variant, and why some are missing."""
    made: dict[tuple[str, str], Trainer] = {}
    known, missing = installed(), {}
    for variant in variants:
        made["dncbm", variant] = ours(variant, task, rows)
        for (library, kind), factory in PEERS.items():
            if kind != variant:
                continue
            if known[library].module is None:
                missing[library] = known[library].reason
                continue
            try:
                made[library, variant] = factory(known[library].module, task)
            except Exception as error:  # a peer's own failure is a finding, not ours
                missing[f"{library} {variant}"] = f"{type(error).__name__}: {error}"[:200]
    return made, missing


def measure(
    made: dict[tuple[str, str], Trainer], task: Task, rows: Tensor, turn: int
) -> dict[tuple[str, str], list[float]]:
    """Processor seconds of every turn of `turn` steps, after a first turn that warms up."""
    order = torch.Generator().manual_seed(0)
    indices = [torch.randint(len(rows), (task.batch_size,), generator=order)
               for _ in range(task.steps)]  # fmt: skip
    turns = [indices[start : start + turn] for start in range(0, task.steps, turn)]
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in made}
    for part in turns:
        batches = [rows[index] for index in part]

        def run(trainer: Trainer, batches: list[Tensor] = batches) -> None:
            for batch in batches:
                trainer.step(batch)

        taken = alternate(
            {str(index): lambda t=trainer: run(t) for index, trainer in enumerate(made.values())},
            turns=1,
            clock=time.process_time,
        )
        for key, values in zip(made, taken.values(), strict=True):
            seconds[key].append(values[0] / len(batches))
    return {key: values[1:] or values for key, values in seconds.items()}


@torch.no_grad()
def row(
    key: tuple[str, str], trainer: Trainer, seconds: list[float], task: Task, held_out: Tensor
) -> dict[str, Any]:
    """One line of the table."""
    reconstruction, codes = trainer.output(held_out)
    mean = sum(seconds) / len(seconds)
    return {
        "implementation": key[0],
        "variant": key[1],
        "best ms": 1e3 * min(seconds),
        "median ms": 1e3 * sorted(seconds)[len(seconds) // 2],
        "mean ms": 1e3 * mean,
        "embeddings per core-second": task.batch_size / mean,
        "unexplained variance": unexplained_variance(held_out, reconstruction),
        "L0": float((codes > 0).sum() / len(held_out)),
    }


def main() -> None:
    """Measure, print the table, write JSON and PNG."""
    made_parser = parser(__doc__)
    made_parser.add_argument("--variants", nargs="+", default=["relu", "topk"])
    made_parser.add_argument("--concepts", type=int, default=4096)
    made_parser.add_argument("--width", type=int, default=512)
    made_parser.add_argument("--rows", type=int, default=65_536)
    made_parser.add_argument("--batch-size", type=int, default=4096)
    made_parser.add_argument("--steps", type=int, default=60)
    made_parser.add_argument("--turn", type=int, default=5, help="steps per turn")
    made_parser.add_argument("--k", type=int, default=32)
    made_parser.add_argument("--l1", type=float, default=2.0)
    made_parser.add_argument("--lr", type=float, default=1e-3)
    options = made_parser.parse_args()
    torch.set_num_threads(1)
    rows, held_out = standardized_rows(options)
    directions = functional.normalize(
        torch.randn(options.concepts, options.width, generator=torch.Generator().manual_seed(1)),
        dim=1,
    )
    task = Task(directions, options.k, options.l1, options.lr, options.steps, options.batch_size)
    made, missing = trainers(task, rows, options.variants)
    seconds = measure(made, task, rows, options.turn)
    lines = [row(key, trainer, seconds[key], task, held_out) for key, trainer in made.items()]
    speed = {key: line["embeddings per core-second"] for key, line in zip(made, lines, strict=True)}
    ratios = {
        name: speed["dncbm", key[1]] / speed[key] if key in speed else None
        for name, key in THRESHOLDS.items()
        if key[1] in options.variants
    }
    ratios |= {
        f"{variant}_vs_{library}": speed["dncbm", variant] / value
        for (library, variant), value in speed.items()
        if library != "dncbm" and (library, variant) not in THRESHOLDS.values()
    }
    finish("sae", lines, ratios, options, notes={"missing": missing})


if __name__ == "__main__":
    main()
