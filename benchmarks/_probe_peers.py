"""Other solvers on the problem of `benchmarks.probe`, each with its seconds and what it reached."""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.linear_model import LogisticRegression

from benchmarks._harness import Peer
from dncbm.probe.loss import Design
from dncbm.probe.solvers import ElasticNet, SolverOptions, null_solution, objective

L1_RATIO = 0.99
GAP = 1e-4
_MOST_EPOCHS = 2000


@dataclass(frozen=True, eq=False)
class Problem:
    """Scaled codes and the objectives that count as reached."""

    design: Design
    scaled: sp.csr_matrix
    """float32, divided by the root mean square of each column, not centred."""
    penalties: tuple[float, ...]
    best: tuple[float, ...]

    def reaches(self, value: float, place: int) -> bool:
        """Whether an objective is within the gap of the best one known."""
        return value <= self.best[place] * (1.0 + GAP)

    def at(self, place: int) -> "Problem":
        """The same with one of the penalties only."""
        return Problem(self.design, self.scaled, (self.penalties[place],), (self.best[place],))

    def objective(self, weights: np.ndarray, bias: np.ndarray, place: int) -> float:
        """In float64, of weights (k, c) and bias for the scaled codes as they are."""
        table = weights.T.astype(np.float64)
        shifted = bias.astype(np.float64) + self.design.shift @ table
        return objective(self.design, table, shifted, self.penalties[place], L1_RATIO)


@dataclass
class Run:
    """Seconds and objectives of one solver down the penalties."""

    processor_s: float = 0.0
    wall_s: float = 0.0
    objectives: list[float] = field(default_factory=list)
    necs: list[float] = field(default_factory=list)
    reached: bool = True

    def timed(self, work: Callable[[], Any]) -> Any:
        """Do some work on the clocks."""
        processor, wall = time.process_time(), time.perf_counter()
        result = work()
        self.processor_s += time.process_time() - processor
        self.wall_s += time.perf_counter() - wall
        return result


def _tell(name: str, run: Run) -> None:
    print(f"{name}: {len(run.objectives)} penalties, {run.processor_s:.1f} s", flush=True)


def ours(problem: Problem) -> Run:
    """The solver of this package at its default tolerance, warm from penalty to penalty."""
    run = Run()
    net = run.timed(lambda: ElasticNet(problem.design, L1_RATIO, SolverOptions()))
    last = null_solution(problem.design)
    for place, penalty in enumerate(problem.penalties):
        last = run.timed(lambda penalty=penalty, last=last: net.solve(last, penalty))
        value = objective(problem.design, last.weights, last.bias, penalty, L1_RATIO)
        run.objectives.append(value)
        run.necs.append(last.effective_concepts)
        run.reached &= problem.reaches(value, place)
    _tell("dncbm", run)
    return run


def saga(problem: Problem, budget: float) -> Run:
    """scikit-learn's saga, told the right number of epochs.

    At every penalty it starts from the solution before and tries 4, 6, 9, ... epochs; only the
    try that reached the objective is on the clock.
    """
    run, start = Run(), None
    warnings.simplefilter("ignore")
    for place, penalty in enumerate(problem.penalties):
        epochs = 4
        while True:
            attempt = Run()
            model = _saga(problem, penalty, epochs, start)
            attempt.timed(lambda model=model: model.fit(problem.scaled, problem.design.labels))
            value = problem.objective(model.coef_, model.intercept_, place)
            spent = run.processor_s + attempt.processor_s
            if problem.reaches(value, place) or spent > budget or epochs > _MOST_EPOCHS:
                break
            epochs = epochs * 3 // 2
        run.processor_s, run.wall_s = spent, run.wall_s + attempt.wall_s
        run.objectives.append(value)
        run.necs.append(float(np.count_nonzero(model.coef_)) / problem.design.num_classes)
        run.reached &= problem.reaches(value, place)
        _tell("saga", run)
        if not run.reached:
            break
        start = model.coef_, model.intercept_
    return run


def _saga(
    problem: Problem, penalty: float, epochs: int, start: tuple[np.ndarray, np.ndarray] | None
) -> LogisticRegression:
    model = LogisticRegression(
        solver="saga",
        C=1.0 / (penalty * problem.design.num_rows),
        l1_ratio=L1_RATIO,
        tol=1e-12,
        max_iter=epochs,
        warm_start=True,
        random_state=0,
    )
    if start is not None:
        model.coef_, model.intercept_ = start[0].copy(), start[1].copy()
        model.classes_ = np.arange(problem.design.num_classes)
    return model


@dataclass(frozen=True, eq=False)
class _DenseBatches:
    """Shuffled batches with row indices, made dense one at a time."""

    problem: Problem
    size: int

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        labels = torch.from_numpy(self.problem.design.labels)
        for rows in torch.randperm(len(labels)).split(self.size):
            dense = torch.from_numpy(self.problem.scaled[rows.numpy()].toarray())
            yield dense, labels[rows], rows


def glm_saga(problem: Problem, found: Peer, budget: float, batch: int = 64) -> Run:
    """glm_saga on the same scaled codes, dense batch by batch, epoch by epoch."""
    train = found.module.elasticnet.train_saga
    design = problem.design
    rate = _best_rate(problem, train, batch)
    run, state = Run(), None
    linear = _zero_linear(design)
    for place, penalty in enumerate(problem.penalties):
        for _ in range(_MOST_EPOCHS):
            state = run.timed(
                lambda state=state, penalty=penalty: _glm_epoch(
                    train, linear, _DenseBatches(problem, batch), rate, penalty, state
                )
            )
            weights, bias = (p.detach().numpy() for p in linear.parameters())
            value = problem.objective(weights, bias, place)
            if problem.reaches(value, place) or run.processor_s > budget:
                break
        run.objectives.append(value)
        run.necs.append(float(np.count_nonzero(weights)) / design.num_classes)
        run.reached &= problem.reaches(value, place)
        _tell("glm_saga", run)
        if not run.reached:
            break
    return run


def _zero_linear(design: Design) -> torch.nn.Linear:
    linear = torch.nn.Linear(design.num_columns, design.num_classes)
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.zero_()
    return linear


def _glm_epoch(
    train: Any, linear: Any, batches: _DenseBatches, rate: float, penalty: float, state: Any
) -> Any:
    design = batches.problem.design
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return train(
            linear, batches, rate, 1, penalty, L1_RATIO, group=False, state=state, tol=0.0,
            n_ex=design.num_rows, n_classes=design.num_classes, logger=lambda *_: None,
        )  # fmt: skip


def _best_rate(problem: Problem, train: Any, batch: int) -> float:
    """The step that is lowest after one epoch over a tenth of the rows; not on the clock."""
    rows = np.arange(0, problem.design.num_rows, 10)
    small = Design.build(problem.design.matrix[rows], problem.design.labels[rows],
                         problem.design.num_classes, scale=problem.design.scale)  # fmt: skip
    part = Problem(small, problem.scaled[rows], problem.penalties, problem.best)
    values = {}
    for rate in (0.3, 0.1, 0.03, 0.01, 0.003):
        linear = _zero_linear(small)
        _glm_epoch(train, linear, _DenseBatches(part, batch), rate, part.penalties[0], None)
        weights, bias = (p.detach().numpy() for p in linear.parameters())
        value = part.objective(weights, bias, 0)
        values[rate] = value if np.isfinite(value) else np.inf
    return min(values, key=lambda rate: values[rate])


OneClass = Callable[[sp.csc_matrix, np.ndarray, float], np.ndarray]


def one_vs_rest(problem: Problem, fit: OneClass, budget: float) -> tuple[Run, int]:
    """One binary fit per class at the first penalty, until the budget is spent.

    Another objective than the softmax, so no gap is given. The seconds are scaled up from the
    classes that were fitted, whose number comes second. One class is fitted before, off the
    clock, for what compiles at first use.
    """
    columns = sp.csc_matrix(problem.scaled.astype(np.float64))
    targets = [problem.design.labels == k for k in range(problem.design.num_classes)]
    warnings.simplefilter("ignore")
    fit(columns, targets[0], problem.penalties[0])
    run, counts = Run(), []
    for target in targets:
        weights = run.timed(lambda target=target: fit(columns, target, problem.penalties[0]))
        counts.append(np.count_nonzero(weights))
        if run.processor_s > budget:
            break
    factor = len(targets) / len(counts)
    run.processor_s, run.wall_s = run.processor_s * factor, run.wall_s * factor
    run.necs.append(float(np.mean(counts)))
    return run, len(counts)


def liblinear(columns: sp.csc_matrix, target: np.ndarray, penalty: float) -> np.ndarray:
    """L1 alone; its intercept is penalised."""
    model = LogisticRegression(
        solver="liblinear", l1_ratio=1.0, C=1.0 / (penalty * len(target)), tol=1e-3
    )
    return model.fit(columns, target).coef_


def skglm_fit(skglm: Any) -> OneClass:
    """Elastic net with intercept."""
    from skglm.datafits import Logistic
    from skglm.penalties import L1_plus_L2
    from skglm.solvers import ProxNewton

    def fit(columns: sp.csc_matrix, target: np.ndarray, penalty: float) -> np.ndarray:
        model = skglm.GeneralizedLinearEstimator(
            Logistic(), L1_plus_L2(penalty, L1_RATIO), ProxNewton(tol=1e-2 * penalty)
        )
        return model.fit(columns, np.where(target, 1.0, -1.0)).coef_

    return fit


def celer_fit(celer: Any) -> OneClass:
    """L1 alone; it has no intercept, which changes the problem."""

    def fit(columns: sp.csc_matrix, target: np.ndarray, penalty: float) -> np.ndarray:
        model = celer.LogisticRegression(
            C=1.0 / (penalty * len(target)), fit_intercept=False, tol=1e-3
        )
        return model.fit(columns, np.where(target, 1.0, -1.0)).coef_

    return fit


def adelie_fit(adelie: Any) -> OneClass:
    """Elastic net with intercept; its own softmax ties each column across classes."""

    def fit(columns: sp.csc_matrix, target: np.ndarray, penalty: float) -> np.ndarray:
        state = adelie.grpnet(
            adelie.matrix.sparse(columns), adelie.glm.binomial(target.astype(np.float64)),
            alpha=L1_RATIO, lmda_path=penalty * np.array([4.0, 2.0, 1.0]),
            progress_bar=False, early_exit=False,
        )  # fmt: skip
        if state.betas.shape[0] < 3:
            raise RuntimeError("adelie stopped before the wanted penalty: no convergence")
        return state.betas[2].toarray()

    return fit


def binary_solvers(peers: Sequence[Peer]) -> dict[str, OneClass]:
    """The one-against-the-rest solvers that are installed."""
    made = {"skglm": skglm_fit, "celer": celer_fit, "adelie": adelie_fit}
    found = {peer.name: made[peer.name](peer.module) for peer in peers if peer.module is not None}
    return {"liblinear": liblinear, **found}
