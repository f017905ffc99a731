"""What every benchmark shares: peers that may be missing, alternating runs, tables and files.

A benchmark compares implementations in one process, turn by turn, so that a machine that slows
down slows all of them. Ratios are taken from the best turn of each, which other work on the
machine disturbs least; the medians stand beside them.
"""

import argparse
import importlib
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OUT = Path("benchmark-results")
Row = dict[str, Any]


@dataclass(frozen=True)
class Peer:
    """A package to compare with: its module, or why there is none."""

    name: str
    module: Any
    reason: str = ""


def peer(module: str, requirement: str | None = None) -> Peer:
    """Import a peer; one that is not installed or does not import says so instead of failing."""
    try:
        return Peer(requirement or module, importlib.import_module(module))
    except Exception as error:  # a peer may fail to import in any way of its own
        first = (str(error).splitlines() or [""])[0]
        return Peer(requirement or module, None, f"{type(error).__name__}: {first[:160]}")


def alternate(
    runs: Mapping[str, Callable[[], object]],
    *,
    turns: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each run, `turns` times in turn; warm them up before where that matters."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(turns):
        for name, run in runs.items():
            start = clock()
            run()
            seconds[name].append(clock() - start)
    return seconds


def best_and_median(seconds: Sequence[float]) -> dict[str, float]:
    """The two numbers that tables show."""
    return {"best_s": min(seconds), "median_s": statistics.median(seconds)}


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks have."""
    made = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    made.add_argument("--json", action="store_true", help="print one JSON line last")
    made.add_argument("--out", type=Path, default=OUT, help="folder for NAME.json and NAME.png")
    return made


def finish(
    name: str,
    rows: Sequence[Row],
    ratios: Mapping[str, float | None],
    options: argparse.Namespace,
    *,
    draw: Callable[[Any], None] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Print the tables, write NAME.json and NAME.png, and the JSON line last where asked for.

    Args:
        name: of the benchmark.
        rows: one dict per implementation or setting; keys may differ between rows.
        ratios: None for a peer that is missing.
        options: of `parser`.
        draw: fills a matplotlib figure; bars of the ratios where left out.
        notes: anything else worth keeping, such as missing peers and their reasons.
    """
    result = {
        "benchmark": name,
        "machine": {"processor": platform.processor() or platform.machine()},
        "ratios": {
            key: None if value is None else round(value, 3) for key, value in ratios.items()
        },
        "notes": dict(notes or {}),
        "rows": list(rows),
    }
    print(table(rows))
    for key, value in ratios.items():
        print(f"{key:32s} {'peer missing' if value is None else f'{value:.2f}'}")
    for key, value in result["notes"].items():
        print(f"{key}: {value}")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    _picture(options.out / f"{name}.png", name, result["ratios"], draw)
    if options.json:
        print(json.dumps(result), flush=True)


def table(rows: Sequence[Row]) -> str:
    """Markdown with every key of every row as a column."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        lines.append("| " + " | ".join(_cell(row.get(name, "")) for name in names) + " |")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def _picture(
    path: Path,
    name: str,
    ratios: Mapping[str, float | None],
    draw: Callable[[Any], None] | None,
) -> None:
    from matplotlib.figure import Figure

    known = {key: value for key, value in ratios.items() if value is not None}
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    if draw is not None:
        draw(figure)
    else:
        axes = figure.subplots()
        bars = axes.barh(list(known), list(known.values()), color="#4c72b0")
        axes.bar_label(bars, fmt="%.2f", padding=3)
        axes.axvline(1.0, color="black", linewidth=0.8)
        axes.invert_yaxis()
        axes.set_xlabel("ratio, larger is better for dncbm")
        axes.set_title(name)
    figure.savefig(path, dpi=150)
