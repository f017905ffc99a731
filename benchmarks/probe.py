"""The elastic-net probe beside glm_saga and scikit-learn's saga, at equal objective.

Codes are drawn to look like those of a sparse autoencoder: about `--active` concepts fire per
image, some often, each class raises some of its own, neighbouring classes share most of those,
and 5 % of the labels are wrong. All solvers of the softmax objective get the same codes (scaled
to unit root mean square, not centred) and the same penalties, one for each wanted number of
concepts per class, and run until they are within 1e-4 of the lowest objective known (found with
a tight tolerance, off the clock). Seconds are processor seconds of one thread.

    python -m benchmarks.probe --json
    python -m benchmarks.probe --json --rows 50000 --concepts 8192 --classes 100 --budget 1200
    python -m benchmarks.probe --curve
"""

import argparse
import logging
import resource
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from matplotlib.ticker import NullLocator
from threadpoolctl import threadpool_limits

from benchmarks._harness import Peer, Row, finish, parser, peer
from benchmarks._probe_peers import (
    GAP,
    L1_RATIO,
    Problem,
    Run,
    binary_solvers,
    glm_saga,
    one_vs_rest,
    ours,
    saga,
)
from dncbm.probe.loss import Design
from dncbm.probe.matrix import code_matrix
from dncbm.probe.solvers import ElasticNet, SolverOptions, null_solution, objective

_TURNS = 3
_TIGHT = SolverOptions(tolerance=1e-4)
_OWN = 40
_SHARED = 25


def make_codes(
    rows: int, concepts: int, classes: int, active: int, seed: int = 0
) -> tuple[sp.csr_array, np.ndarray]:
    """Codes (rows, concepts) and labels (rows,)."""
    draw = np.random.default_rng(seed)
    popularity = draw.permutation((np.arange(concepts) + 30.0) ** -0.8)
    own = draw.integers(0, concepts, size=(classes, _OWN))
    pairs = classes // 2
    own[1 : 2 * pairs : 2, :_SHARED] = own[0 : 2 * pairs : 2, :_SHARED]
    truth = draw.integers(0, classes, size=rows)
    # The special concepts are drawn with repetition: a few more make up for it.
    special = own[truth[:, None], draw.integers(0, _OWN, size=(rows, active // 4))]
    common = draw.choice(
        concepts, p=popularity / popularity.sum(), size=(rows, active - active // 4 + active // 10)
    )
    columns = np.concatenate([common, special], axis=1)
    values = draw.gamma(2.0, 0.5, size=columns.shape)
    values *= draw.lognormal(0.0, 0.7, size=concepts)[columns]
    index = np.repeat(np.arange(rows), columns.shape[1])
    codes = sp.coo_array((values.ravel(), (index, columns.ravel())), shape=(rows, concepts))
    wrong = draw.random(rows) < 0.05
    return codes.tocsr(), np.where(wrong, draw.integers(0, classes, size=rows), truth)


def penalties_for(design: Design, necs: Sequence[int]) -> dict[int, float]:
    """For each wanted NEC the first of 80 penalties that has it; those never reached are left."""
    net, last = ElasticNet(design, L1_RATIO, SolverOptions()), null_solution(design)
    found: dict[int, float] = {}
    for penalty in design.max_penalty(L1_RATIO) * 1e-2 ** np.linspace(0.0, 1.0, 80):
        last = net.solve(last, float(penalty))
        for nec in necs:
            if nec not in found and last.effective_concepts >= nec:
                found[nec] = float(penalty)
        if len(found) == len(necs):
            break
    return found


def pose(options: argparse.Namespace) -> tuple[Problem, list[int]]:
    """The problem of some size, and the NEC targets that it has."""
    codes, labels = make_codes(options.rows, options.concepts, options.classes, options.active)
    design = Design.build(code_matrix(codes), labels, options.classes)
    chosen = penalties_for(design, options.necs)
    penalties = tuple(chosen.values())
    net, last, best = ElasticNet(design, L1_RATIO, _TIGHT), null_solution(design), []
    for penalty in penalties:
        last = net.solve(last, penalty)
        best.append(objective(design, last.weights, last.bias, penalty, L1_RATIO))
    scaled = sp.csr_matrix(design.matrix / design.scale, dtype=np.float32)
    scaled.indices = scaled.indices.astype(np.int32)  # the only index type that saga takes
    scaled.indptr = scaled.indptr.astype(np.int32)
    return Problem(design, scaled, penalties, tuple(best)), list(chosen)


def compare(problem: Problem, necs: list[int], options: argparse.Namespace) -> None:
    """Time all solvers, ours between the others, and write the results."""
    single = int(np.argmin([abs(nec - 20) for nec in necs]))
    one = problem.at(single)
    mine = {"one penalty": [ours(one)], "path": [ours(problem)]}
    glm = peer("glm_saga.elasticnet", "glm-saga")
    rows: list[Row] = []
    runs: dict[tuple[str, str], Run] = {}
    for task, posed in (("one penalty", one), ("path", problem)):
        runs[task, "scikit-learn saga"] = saga(posed, options.budget)
        mine[task].append(ours(posed))
        if glm.module is not None:
            runs[task, "glm_saga"] = glm_saga(posed, _package(glm), options.budget)
        mine[task].append(ours(posed))
    for task, turns in mine.items():
        seconds = float(np.median([turn.processor_s for turn in turns]))
        rows.append(_row(task, "dncbm", turns[0], seconds, seconds, posed=problem))
        rows += [
            _row(task, name, run, run.processor_s, seconds, posed=problem)
            for (of, name), run in runs.items()
            if of == task
        ]
    others = [peer(name) for name in ("skglm", "celer", "adelie")]
    mine_one = float(np.median([turn.processor_s for turn in mine["one penalty"]]))
    missing = {p.name: p.reason for p in (glm, *others) if p.module is None}
    for name, fit in binary_solvers(others).items():
        try:
            run, fitted = one_vs_rest(one, fit, options.budget / 4)
        except Exception as error:  # a peer may fail in any way of its own
            missing[name] = f"{type(error).__name__}: {error}"[:160]
            continue
        rows.append(_binary_row(name, run, fitted, mine_one))
    path = {row["solver"]: row for row in rows if row["task"] == "path"}
    ratios = {
        key: path[name]["ratio"] if name in path else None
        for key, name in (("vs_glm_saga", "glm_saga"), ("vs_saga", "scikit-learn saga"))
    }
    notes = {
        "size": vars(options) | {"out": str(options.out)},
        "nec targets": necs,
        "gap": GAP,
        "lower bounds": [
            f"{row['solver']}, {row['task']}" for row in rows if row["reached"] is False
        ],
        "missing": missing,
        "peak memory MB": _peak_mb(),
        "one dense float32 table MB": options.rows * options.concepts * 4e-6,
    }
    finish("probe", rows, ratios, options, notes=notes)


def _package(found: Peer) -> Peer:
    """A peer whose module has the submodule `elasticnet`."""
    return Peer(found.name, argparse.Namespace(elasticnet=found.module))


def _row(task: str, name: str, run: Run, seconds: float, mine: float, *, posed: Problem) -> Row:
    return {
        "task": task,
        "solver": name,
        "processor_s": seconds,
        "wall_s": run.wall_s,
        "ratio": seconds / mine,
        "reached": run.reached,
        "gap": _gap(run, posed) if task == "path" else "",
        "nec": run.necs[-1],
    }


def _gap(run: Run, posed: Problem) -> float:
    """Largest relative gap over the penalties that the run came to."""
    return max(value / best - 1.0 for value, best in zip(run.objectives, posed.best, strict=False))


def _binary_row(name: str, run: Run, fitted: int, mine: float) -> Row:
    return {
        "task": "one penalty, one against the rest",
        "solver": name,
        "processor_s": run.processor_s,
        "wall_s": run.wall_s,
        "ratio": run.processor_s / mine,
        "reached": "other objective",
        "gap": "",
        "nec": run.necs[-1],
        "classes_fitted": fitted,
    }


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0


def curve(options: argparse.Namespace) -> None:
    """Our processor seconds for the path, rows and concepts doubled up to the wanted size."""
    rows: list[Row] = []
    for axis in ("rows", "concepts"):
        top = getattr(options, axis)
        for size in (top // 8, top // 4, top // 2, top):
            sized = argparse.Namespace(**(vars(options) | {axis: size}))
            problem, necs = pose(sized)
            run = ours(problem)
            rows.append({"axis": axis, "size": size, "processor_s": run.processor_s,
                         "targets": len(necs), "peak_mb_so_far": _peak_mb()})  # fmt: skip
            print(rows[-1], flush=True)
    finish("probe_curve", rows, {}, options, draw=lambda figure: _draw(figure, rows))


def _draw(figure: Any, rows: Sequence[Row]) -> None:
    for axes, axis in zip(figure.subplots(1, 2, sharey=True), ("rows", "concepts"), strict=True):
        chosen = [row for row in rows if row["axis"] == axis]
        axes.loglog([r["size"] for r in chosen], [r["processor_s"] for r in chosen], "o-")
        axes.set_xticks([r["size"] for r in chosen], [str(r["size"]) for r in chosen])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(axis)
        axes.grid(visible=True, which="both", alpha=0.3)
    seconds = [row["processor_s"] for row in rows]
    figure.axes[0].set_ylim(min(seconds) / 3, max(seconds) * 3)  # at least a decade: no false hills
    figure.axes[0].set_ylabel("processor seconds, path of six penalties")


def main() -> None:
    """Read the options and run."""
    made = parser(__doc__)
    made.add_argument("--rows", type=int, default=6000)
    made.add_argument("--concepts", type=int, default=2048)
    made.add_argument("--classes", type=int, default=30)
    made.add_argument("--active", type=int, default=59)
    made.add_argument("--necs", type=int, nargs="+", default=[5, 10, 15, 20, 25, 30])
    made.add_argument("--budget", type=float, default=30.0, help="seconds per peer and task")
    made.add_argument("--curve", action="store_true", help="our cost against rows and concepts")
    options = made.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    with threadpool_limits(1):
        if options.curve:
            curve(options)
        else:
            compare(*pose(options), options)


if __name__ == "__main__":
    main()
