"""Training from memory-mapped shards beside training from memory: speed, and the memory it takes.

    python -m benchmarks.stream --json                    # 400,000 rows
    python -m benchmarks.stream --rows 3300000 --json     # 3.3 M x 512 float16, 3.4 GB on disk

Each case runs in a process of its own, which trains on a true shuffle of all rows and reports its
steps' seconds and its largest resident memory; cases take turns. `--memory` leaves out the case
in memory, which needs 4 bytes per number.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._harness import finish, parser
from dncbm.sae.presets import preset
from dncbm.sae.rows import ShardRows, TensorRows, input_statistics
from dncbm.sae.train import TrainingRun

SHARD = 262_144


def write_shards(folder: Path, rows: int, width: int) -> None:
    """Unit rows of normal noise as float16 arrays: what they hold does not matter here."""
    stream = np.random.default_rng(0)
    for number, start in enumerate(range(0, rows, SHARD)):
        drawn = stream.standard_normal((min(SHARD, rows - start), width), dtype=np.float32)
        np.save(folder / f"{number:05d}.npy", (drawn / width**0.5).astype(np.float16))


def case(folder: Path, where: str, steps: int, threads: int) -> None:
    """Train some steps and print what they took; run in a process of its own."""
    torch.set_num_threads(threads)
    shards = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))]
    if where == "memory":
        rows: Any = TensorRows(torch.cat([torch.from_numpy(np.array(s)).float() for s in shards]))
    else:
        rows = ShardRows(shards)
    started = time.perf_counter()
    statistics_of_rows = input_statistics(rows)
    passed = time.perf_counter() - started
    config = preset("default", embed_dim=rows.shape[1], num_rows=len(rows), max_steps=10**9,
                    epochs=10**6, num_concepts=8 * rows.shape[1])  # fmt: skip
    run = TrainingRun(rows, config, statistics_of_rows, "cpu")
    run.advance()
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        run.advance()
        seconds.append(time.perf_counter() - start)
    run.batches.close()
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"seconds": seconds, "peak": peak * 1024, "statistics": passed}))


def main() -> None:
    """Write the rows, run the cases in turn, print the table."""
    made = parser(__doc__)
    made.add_argument("--rows", type=int, default=400_000)
    made.add_argument("--width", type=int, default=512)
    made.add_argument("--steps", type=int, default=40)
    made.add_argument("--turns", type=int, default=2)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--case", help=argparse.SUPPRESS)
    made.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = made.parse_args()
    if options.case:
        case(options.folder, options.case, options.steps, options.threads)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shards(folder, options.rows, options.width)
        found: dict[str, list[dict[str, Any]]] = {"mapped": [], "memory": []}
        for _ in range(options.turns):
            for where, results in found.items():
                command = [sys.executable, "-m", "benchmarks.stream", "--case", where,
                           "--folder", name, "--steps", str(options.steps),
                           "--threads", str(options.threads)]  # fmt: skip
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                results.append(json.loads(done.stdout.splitlines()[-1]))
    lines = [
        {
            "rows": options.rows,
            "from": where,
            "step ms, median": 1e3 * statistics.median(s for r in results for s in r["seconds"]),
            "step ms, mean": 1e3 * statistics.fmean(s for r in results for s in r["seconds"]),
            "pass for statistics s": min(r["statistics"] for r in results),
            "peak GB": max(r["peak"] for r in results) / 1e9,
        }
        for where, results in found.items()
    ]
    ratios = {"throughput_vs_memory": lines[1]["step ms, mean"] / lines[0]["step ms, mean"]}
    finish("stream", lines, ratios, options)


if __name__ == "__main__":
    main()
