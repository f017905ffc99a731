"""Time and memory of discovery against the number of concepts and of rows, on log axes.

    python -m benchmarks.curves --json
    python -m benchmarks.curves --concepts 512 4096 32768 131072 --rows 10000 100000 1000000

Each point is a process of its own: the default autoencoder on rows in a mapped float16 file. Over
concepts: processor seconds per 4,096 embeddings of a step. Over rows: seconds of one whole epoch
with what belongs to it (statistics before, evaluation after). Memory is the largest resident size.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._harness import finish, parser
from benchmarks.stream import write_shards
from dncbm.sae.presets import preset
from dncbm.sae.rows import ShardRows, input_statistics
from dncbm.sae.train import TrainingRun, train_sae

STEPS = 4
BATCH = 4096


def step_point(rows: ShardRows, concepts: int) -> float:
    """Processor seconds of a step."""
    config = preset("default", embed_dim=rows.shape[1], num_rows=len(rows), epochs=10**6,
                    num_concepts=concepts, k=min(32, concepts), batch_size=BATCH)  # fmt: skip
    run = TrainingRun(rows, config, input_statistics(rows), "cpu")
    run.advance()
    start = time.process_time()
    for _ in range(STEPS):
        run.advance()
    run.batches.close()
    return (time.process_time() - start) / STEPS


def epoch_point(rows: ShardRows, concepts: int) -> float:
    """Processor seconds of a training of one epoch, from file to metrics."""
    config = preset("default", embed_dim=rows.shape[1], num_rows=len(rows), epochs=1,
                    num_concepts=concepts, batch_size=BATCH)  # fmt: skip
    start = time.process_time()
    train_sae(rows, config)
    return time.process_time() - start


def point(options: argparse.Namespace) -> None:
    """Measure in this process and print one line."""
    torch.set_num_threads(1)
    shards = [np.load(path, mmap_mode="r") for path in sorted(options.folder.glob("*.npy"))]
    rows = ShardRows(shards, range(options.rows[0]))
    measured = {"concepts": step_point, "rows": epoch_point}[options.over]
    seconds = measured(rows, options.concepts[0])
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"seconds": seconds, "peak GB": peak * 1024 / 1e9}))


def ask(folder: Path, over: str, rows: int, concepts: int) -> dict[str, Any]:
    """One point from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.curves", "--over", over, "--folder", str(folder),
               "--rows", str(rows), "--concepts", str(concepts)]  # fmt: skip
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
    return {"over": over, "rows": rows, "concepts": concepts, **found}


def draw(figure: Any, lines: list[dict[str, Any]]) -> None:
    """Seconds above memory, a column per axis, log against log, with the slope of the last step."""
    axes = figure.subplots(2, 2)
    for column, over in enumerate(("concepts", "rows")):
        mine = [line for line in lines if line["over"] == over and "seconds" in line]
        sizes = [line[over] for line in mine]
        for row, (key, label) in enumerate((("seconds", "CPU s"), ("peak GB", "peak memory, GB"))):
            values = [line[key] for line in mine]
            axes[row][column].loglog(sizes, values, "o-")
            axes[row][column].set_ylabel(label)
            if len(sizes) > 1:
                slope = np.log(values[-1] / values[-2]) / np.log(sizes[-1] / sizes[-2])
                axes[row][column].set_title(f"last slope {slope:.2f}", fontsize=9)
            axes[row][column].grid(alpha=0.3, which="both")
        axes[1][column].set_xlabel(over)


def main() -> None:
    """Both curves, table, JSON and PNG."""
    made = parser(__doc__)
    made.add_argument("--concepts", type=int, nargs="+", default=[512, 2048, 8192, 32_768])
    made.add_argument("--rows", type=int, nargs="+", default=[8192, 32_768, 131_072])
    made.add_argument("--width", type=int, default=512)
    made.add_argument("--over", choices=("concepts", "rows"), help=argparse.SUPPRESS)
    made.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = made.parse_args()
    if options.over:
        point(options)
        return
    with tempfile.TemporaryDirectory() as name:
        write_shards(Path(name), max(*options.rows, 8 * BATCH), options.width)
        lines = [ask(Path(name), "concepts", 8 * BATCH, count) for count in options.concepts]
        lines += [ask(Path(name), "rows", count, 4096) for count in options.rows]
    failed = [line for line in lines if "seconds" not in line]
    finish("curves", lines, {}, options, draw=lambda figure: draw(figure, lines),
           notes={"did not fit": failed})  # fmt: skip


if __name__ == "__main__":
    main()
