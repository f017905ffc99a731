"""Our elastic net beside scikit-learn's saga at the same objective: seconds, and their ratio.

Codes are drawn to look like those of a sparse autoencoder: few concepts fire per image, classes
differ in which. Both solvers get the same codes, scaled to unit root mean square, and the same
penalty; saga runs for more and more epochs until its objective is as low as ours.

    python benchmarks/sparse_probe.py                                       # seconds
    python benchmarks/sparse_probe.py --rows 50000 --concepts 8192 --classes 100 --active 59
"""

import argparse
import json
import logging
import time
import warnings
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from dncbm.probe.loss import Design
from dncbm.probe.matrix import code_matrix
from dncbm.probe.solvers import (
    SolverOptions,
    null_solution,
    objective,
    solve_elastic_net,
)

L1_RATIO = 0.99


@dataclass(frozen=True)
class Result:
    """One solver's run; seconds of processor time, so that a busy machine does not matter."""

    seconds: float
    objective: float
    nec: float


def make_codes(
    rows: int, concepts: int, classes: int, active: int, seed: int = 0
) -> tuple[sp.csr_array, np.ndarray]:
    """Codes (rows, concepts) and labels (rows,)."""
    draw = np.random.default_rng(seed)
    own = draw.integers(0, concepts, size=(classes, max(4, active // 2)))
    labels = draw.integers(0, classes, size=rows)
    common = draw.zipf(1.3, size=(rows, active)) % concepts
    special = own[labels[:, None], draw.integers(0, own.shape[1], size=(rows, active // 4))]
    columns = np.concatenate([common, special], axis=1)
    values = draw.gamma(2.0, 0.5, size=columns.shape)
    index = np.repeat(np.arange(rows), columns.shape[1])
    codes = sp.coo_array((values.ravel(), (index, columns.ravel())), shape=(rows, concepts))
    return codes.tocsr(), labels


def ours(design: Design, penalties: list[float], options: SolverOptions) -> Result:
    """A warm-started path of three penalties down to the wanted one."""
    start = time.process_time()
    solution = null_solution(design)
    for penalty in penalties:
        solution = solve_elastic_net(design, solution, penalty, L1_RATIO, options)
    seconds = time.process_time() - start
    return Result(seconds, solution.objective, solution.effective_concepts)


def saga(design: Design, penalty: float, target: float, budget: float) -> Result:
    """scikit-learn, with epochs doubled until the objective is reached or time is up."""
    scaled = sp.csr_matrix(design.matrix / design.scale)
    scaled.indices = scaled.indices.astype(np.int32)  # the only index type that saga takes
    scaled.indptr = scaled.indptr.astype(np.int32)
    strength = 1.0 / (penalty * design.num_rows)
    epochs, total = 5, 0.0
    while True:
        model = LogisticRegression(
            solver="saga", C=strength, l1_ratio=L1_RATIO, tol=1e-10, max_iter=epochs
        )
        start = time.process_time()
        model.fit(scaled, design.labels)
        total = time.process_time() - start
        bias = model.intercept_ + design.shift @ model.coef_.T
        reached = objective(design, model.coef_.T, bias, penalty, L1_RATIO)
        nec = float(np.count_nonzero(model.coef_)) / design.num_classes
        if reached <= target or total > budget:
            return Result(total, reached, nec)
        epochs *= 2


def main() -> None:
    """Run both and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--concepts", type=int, default=1000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--active", type=int, default=32)
    parser.add_argument("--share", type=float, default=0.1, help="penalty / largest penalty")
    parser.add_argument("--budget", type=float, default=300.0, help="seconds for saga")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore", ConvergenceWarning)
    codes, labels = make_codes(args.rows, args.concepts, args.classes, args.active)
    design = Design.build(code_matrix(codes), labels, args.classes)
    highest = design.max_penalty(L1_RATIO)
    penalties = [highest * args.share**power for power in (1 / 3, 2 / 3, 1.0)]
    mine = ours(design, penalties, SolverOptions(tolerance=1e-2))
    theirs = saga(design, penalties[-1], mine.objective, args.budget)
    print(f"dncbm elastic net  {mine.seconds:8.2f} s  objective {mine.objective:.6f}  "
          f"NEC {mine.nec:.1f}")  # fmt: skip
    print(f"scikit-learn saga  {theirs.seconds:8.2f} s  objective {theirs.objective:.6f}  "
          f"NEC {theirs.nec:.1f}")  # fmt: skip
    ratio = theirs.seconds / mine.seconds
    print(json.dumps({"benchmark": "sparse_probe", "saga_seconds_per_ours": round(ratio, 2),
                      "reached": theirs.objective <= mine.objective}))  # fmt: skip


if __name__ == "__main__":
    main()
