"""Naming: how fast, how much memory, and how often right, beside the paper's rule.

    python -m benchmarks.naming --json [--models MODEL_DIR...] [--clip DIRECTORY] [--full]

Speed: cosines of C concepts with V phrases, against NumPy (all products, then the best 20) and the
paper's code (one product of all in PyTorch, then the largest). Cost: time and memory against C
and V, each size in a process of its own, the phrases in a mapped float16 file. Names: rules side
by side on one autoencoder, judged by image labels; `_naming_cases.py` says how.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks import _harness as harness
from benchmarks._naming_cases import (
    Case,
    clip_case,
    judge,
    owners,
    planted_case,
    quickstart_case,
)
from dncbm.naming import assign
from dncbm.naming.config import NamingConfig, naming_preset
from dncbm.naming.exact import nearest_words
from dncbm.naming.index import WordIndex
from dncbm.naming.prototypes import naming_directions
from dncbm.naming.trust import Labelled
from dncbm.naming.vocabulary import Vocabulary
from dncbm.naming.words import WordRows

RULES: dict[str, NamingConfig] = {
    "paper": naming_preset("paper"),
    "dictionary row": NamingConfig(direction="dictionary"),
    "halfway": NamingConfig(direction="both"),
    "default, no back-off": NamingConfig(back_off=0.0, distinguish=False),
    "default, no details": NamingConfig(distinguish=False),
    "default, hubs corrected": NamingConfig(hubness=0.5),
    "default": NamingConfig(),
}
SIZES = ((1024, 20_000), (8192, 20_000), (4096, 100_000))
LARGE = (*SIZES, (16_384, 20_000), (16_384, 100_000), (4096, 1_000_000), (16_384, 1_000_000))
FULL = (*LARGE, (65_536, 1_000_000))
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
WIDTH = 512
COUNT = 20
_BASE = 4096
_SHARED = Path(os.environ.get("DNCBM_SHARED", Path(__file__).parents[1] / "shared"))


def base_words(seed: int = 0) -> Tensor:
    """Unit words whose variance falls with the dimension, as in text embeddings."""
    draw = torch.Generator().manual_seed(seed)
    spread = torch.arange(1, WIDTH + 1).float() ** -0.4
    return normalize(torch.randn(_BASE, WIDTH, generator=draw) * spread, dim=1)


def write_phrases(path: Path, count: int) -> None:
    """(count, 512) float16: a word, another at 0.7 of its length, and noise; block by block."""
    words, draw = base_words(), torch.Generator().manual_seed(1)
    out = np.lib.format.open_memmap(path, "w+", dtype=np.float16, shape=(count, WIDTH))
    for start in range(0, count, 65_536):
        size = min(65_536, count - start)
        first = words[torch.arange(start, start + size) % _BASE]
        second = 0.7 * words[torch.randint(_BASE, (size,), generator=draw)]
        noise = 0.5 * normalize(torch.randn(size, WIDTH, generator=draw), dim=1)
        out[start : start + size] = normalize(first + second + noise, dim=1).half().numpy()
    out.flush()


def phrases(path: Path) -> Tensor:
    """The file, mapped: nothing is read before it is needed."""
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def concepts(count: int) -> Tensor:
    """Unit directions near to one word and a part of another, under noise."""
    words, draw = base_words(), torch.Generator().manual_seed(2)
    first, second = torch.randint(_BASE, (2, count), generator=draw)
    noise = 0.6 * normalize(torch.randn(count, WIDTH, generator=draw), dim=1)
    return normalize(words[first] + 0.5 * words[second] + noise, dim=1)


class _Timed(WordIndex):
    """Adds up where the time goes."""

    seconds: ClassVar[dict[str, float]] = {}

    def __init__(self, *parts: Any, **named: Any) -> None:
        with self._clock("build_s"):
            super().__init__(*parts, **named)

    @contextmanager
    def _clock(self, what: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        spent = {what: time.perf_counter() - wall, f"cpu_{what}": time.process_time() - cpu}
        for name, seconds in spent.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def tune(self, queries: Tensor) -> None:
        """Finding out how widely to search, which is done anew each time."""
        with self._clock("tune_s"):
            super().tune(queries)

    def search(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Apart by how many are looked for: the threshold needs one, names need 20."""
        with self._clock("search_s" if count > 1 else "threshold_s"):
            return super().search(queries, count)


def measure(kind: str, count: int, path: Path) -> dict[str, Any]:
    """Seconds and memory of naming `count` concepts; alone in its process."""
    embeddings, directions = phrases(path), concepts(count)
    words = tuple(f"adjective{i // _BASE} noun{i % _BASE}" for i in range(len(embeddings)))
    vocabulary = Vocabulary(words, embeddings, ("{}",), "generated")
    assign.WordIndex = _Timed  # type: ignore[misc]
    watch, start, cpu = _Watch(), time.perf_counter(), time.process_time()
    naming = assign.name_dictionary(directions, vocabulary, config=NamingConfig(index=kind))
    whole = time.perf_counter() - start
    row = {"kind": kind, "C": count, "V": len(embeddings)} | _Timed.seconds
    row |= {"naming_s": whole, "cpu_naming_s": time.process_time() - cpu}
    return row | {"recall_at_1": naming.index_recall} | watch.stop()


class _Watch:
    """The most memory that a process has while it runs, file pages apart."""

    def __init__(self) -> None:
        self._most, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._start = _anonymous_mib()
        self._thread.start()

    def _look(self) -> None:
        while not self._done.wait(0.05):
            self._most = max(self._most, _anonymous_mib())

    def stop(self) -> dict[str, Any]:
        self._done.set()
        self._thread.join()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        return {"peak_rss_mib": peak, "own_mib": self._most, "own_before_mib": self._start}


def _anonymous_mib() -> int:
    """Resident memory that no file backs; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(x.split()[1]) // 1024 for x in lines if x.startswith("RssAnon")), 0)


def speed(
    turns: int, clock: Callable[[], float]
) -> tuple[list[harness.Row], dict[str, float | None]]:
    """8,192 concepts with 20,000 phrases, float32 in memory for all."""
    with tempfile.TemporaryDirectory() as folder:
        write_phrases(Path(folder) / "phrases.npy", 20_000)
        words = normalize(phrases(Path(folder) / "phrases.npy").float(), dim=1)
    directions = concepts(8192)
    held, wide = WordRows(words), (words.numpy(), directions.numpy())
    runs: dict[str, Callable[[], object]] = {
        "dncbm, best word": lambda: nearest_words(held, directions, 1),
        "paper's code, best word": lambda: (directions @ words.T).argmax(dim=1),
        "dncbm, best 20": lambda: nearest_words(held, directions, COUNT),
        "NumPy, best 20": lambda: _numpy_top(*wide),
    }
    for run in runs.values():
        run()
    seconds = harness.alternate(runs, turns=turns, clock=clock)
    best = {name: min(some) for name, some in seconds.items()}
    rows = [
        {"speed": name, "C": 8192, "V": 20_000} | harness.best_and_median(some)
        for name, some in seconds.items()
    ]
    return rows, {
        "vs_paper_loop": best["paper's code, best word"] / best["dncbm, best word"],
        "vs_numpy_matmul_topk": best["NumPy, best 20"] / best["dncbm, best 20"],
    }


def _numpy_top(words: np.ndarray, directions: np.ndarray) -> np.ndarray:
    scores = directions @ words.T
    some = np.argpartition(-scores, COUNT, axis=1)[:, :COUNT]
    order = np.argsort(-np.take_along_axis(scores, some, 1), axis=1)
    return np.take_along_axis(some, order, 1)


def cost(sizes: tuple[tuple[int, int], ...], kinds: tuple[str, ...]) -> list[harness.Row]:
    """One process per size and kind."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for count in sorted({v for _, v in sizes}):
            path = Path(folder) / "phrases.npy"
            write_phrases(path, count)
            for c, kind in ((c, kind) for c, v in sizes if v == count for kind in kinds):
                command = [sys.executable, "-m", "benchmarks.naming"]
                command += ["--measure", kind, str(c), str(path)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                rows.append(json.loads(done.stdout.splitlines()[-1]))
                print(json.dumps(rows[-1]), flush=True)
    return rows


def compare(case: Case) -> list[harness.Row]:
    """One row per naming rule."""
    truth = owners(case)
    active = torch.from_numpy(np.asarray((case.codes > 0).sum(axis=0))[0] > 0)
    labelled = Labelled(truth, case.class_texts)
    rows = []
    for rule, config in RULES.items():
        directions = naming_directions(
            config.direction, case.dictionary, case.codes[1::2], case.images[1::2].split(4096)
        )
        naming = assign.name_dictionary(
            directions, case.vocabulary, config=config, active=active, labelled=labelled
        )
        row = {"case": case.name, "rule": rule} | judge(case, naming, truth)
        trust = naming.trust
        if trust.get("precision") is not None:
            row |= {"held_out": trust["precision"], "interval": trust["interval"]}
        rows.append(row)
    return rows


def cases(options: argparse.Namespace) -> tuple[list[Case], dict[str, str]]:
    """What can be judged here, and why the rest cannot."""
    found, missing = [planted_case()], {}
    clip = options.clip or _SHARED / "data" / "clip_vitb32"
    if (clip / "text_vocab.npz").is_file():
        found.append(clip_case(clip))
    else:
        missing["true CLIP"] = f"skipped: no text_vocab.npz in {clip}; give --clip DIRECTORY"
    for folder in options.models:
        found.append(quickstart_case(folder))
    if not options.models:
        missing["mini"] = "skipped: give --models MODEL_DIR... that dncbm quickstart left"
    return found, missing


def gains(rows: list[harness.Row]) -> dict[str, float | None]:
    """Ours over the paper's rule, per case and measure."""
    by = {(row["case"], row["rule"]): row for row in rows}
    measures = ("top1", "precision", "precision_at_50", "cosine", "auprc", "unique_right")
    found: dict[str, float | None] = {}
    for case in dict.fromkeys(row["case"] for row in rows):
        ours, paper = by[case, "default"], by[case, "paper"]
        for name in measures:
            if ours[name] is not None and paper[name]:
                found[f"{name}_vs_paper, {case}"] = ours[name] / paper[name]
    return found


def _draw(costs: list[harness.Row], names: list[harness.Row]) -> Callable[[Any], None]:
    def draw(figure: Any) -> None:
        panels = iter(figure.subplots(1, 3 * bool(costs) + bool(names), squeeze=False)[0])
        figure.set_size_inches(4.7 * (3 * bool(costs) + bool(names)), 4.5)
        if costs:
            most = max(row["V"] for row in costs)
            seconds = ("cpu_naming_s", "CPU seconds, naming whole")
            _curves(next(panels), costs, ("V", "C"), seconds)
            _curves(next(panels), [r for r in costs if r["V"] == most], ("C", "V"), seconds)
            _curves(next(panels), costs, ("V", "C"), ("own_mib", "MiB without file pages"))
        if names:
            _bars(next(panels), names)

    return draw


def _curves(
    panel: Any, rows: list[harness.Row], sizes: tuple[str, str], shown: tuple[str, str]
) -> None:
    """`shown` (key, title) against the first of the sizes, one line per kind and other size."""
    along, other = sizes
    for kind, size in dict.fromkeys((row["kind"], row[other]) for row in rows):
        mine = [row for row in rows if (row["kind"], row[other]) == (kind, size)]
        mine.sort(key=lambda row: row[along])
        style = "o-" if kind == "exact" else "s--"
        label = f"{kind}, {other} = {size:,}"
        panel.loglog([r[along] for r in mine], [r[shown[0]] for r in mine], style, label=label)
    panel.set(xlabel={"V": "phrases V", "C": "concepts C"}[along], title=shown[1])
    panel.legend(fontsize=7)


def _bars(panel: Any, names: list[harness.Row]) -> None:
    chosen = [row for row in names if row["rule"] in ("paper", "default")]
    labels = [f"{row['case']}\n{row['rule']}" for row in chosen]
    colours = ["#bbbbbb" if row["rule"] == "paper" else "#4c72b0" for row in chosen]
    panel.bar(labels, [row["precision"] or 0 for row in chosen], color=colours)
    panel.set(ylim=(0, 1), title="precision of names")
    panel.tick_params(axis="x", rotation=60, labelsize=7)


def _options() -> argparse.Namespace:
    made = harness.parser(__doc__)
    made.add_argument("--models", type=Path, nargs="*", default=[], metavar="MODEL_DIR")
    made.add_argument("--clip", type=Path, help="true CLIP ViT-B/32 embeddings")
    made.add_argument("--large", action="store_true", help="up to 16k concepts x 1 M phrases")
    made.add_argument("--full", action="store_true", help="up to 65k concepts x 1 M phrases")
    made.add_argument("--turns", type=int, default=3)
    made.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu where others run too")
    made.add_argument("--only", choices=("speed", "cost", "names"), help="one part alone")
    made.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    return made.parse_args()


def main() -> None:
    """Print the tables and the ratios."""
    options = _options()
    if options.measure:
        kind, count, path = options.measure
        print(json.dumps(measure(kind, int(count), Path(path))))
        return
    rows: list[harness.Row] = []
    ratios: dict[str, float | None] = {}
    notes: Mapping[str, Any] = {}
    costs: list[harness.Row] = []
    names: list[harness.Row] = []
    found: list[Case] = []
    if options.only in (None, "names"):  # first: what cannot be read is said before minutes pass
        found, notes = cases(options)
    if options.only in (None, "speed"):
        rows, ratios = speed(options.turns, CLOCKS[options.clock])
    if options.only in (None, "cost"):
        sizes = FULL if options.full else LARGE if options.large else SIZES
        costs = cost(sizes, ("exact", "approximate"))
        ratios |= _approximate(costs)
    if found:
        names = [row for case in found for row in compare(case)]
        ratios |= gains(names)
    for part in (rows, costs):
        if part:
            print(harness.table(part))
    draw = _draw(costs, names) if costs or names else None
    harness.finish(
        "naming", names or costs or rows, ratios, options, draw=draw,
        notes=dict(notes) | {"speed": rows, "cost": costs, "threads": torch.get_num_threads()},
    )  # fmt: skip


def _approximate(costs: list[harness.Row]) -> dict[str, float | None]:
    """At the largest size: CPU seconds of naming with the exact search over the approximate one.

    Naming whole: making the lists, finding out how many to look into and measuring the recall
    count; `kept` is without making them.
    """
    size = max((row["C"] * row["V"], row["C"], row["V"]) for row in costs)[1:]
    exact, other = (
        next(r for r in costs if (r["kind"], r["C"], r["V"]) == (kind, *size))
        for kind in ("exact", "approximate")
    )
    whole, made = other["cpu_naming_s"], other["cpu_build_s"]
    return {
        "approximate_vs_exact": exact["cpu_naming_s"] / whole,
        "approximate_kept_vs_exact": exact["cpu_naming_s"] / (whole - made),
        "approximate_recall_at_1": other["recall_at_1"],
    }


if __name__ == "__main__":
    main()
