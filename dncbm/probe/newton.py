"""Newton steps of softmax regression in the weights of one class after the other.

The loss in the weights of one class, all others held, has the Hessian `X' diag(s p (1 - p)) X`
over the columns that the class uses. Its quadratic model is minimised with the penalty (by
coordinate descent where there is an L1 part, else by one linear system), and a line search makes
every step a descent. This is the partial Newton algorithm of glmnet (Friedman, Hastie,
Tibshirani 2010, section 4) with the Gram matrix in place of the rows inside.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float, Int

from dncbm.probe.classwise import Block, ClassLogits, Columns
from dncbm.probe.loss import kkt_violations, penalty_value

_SWEEPS = 10
_LONGEST = 4.0
"""Largest change of a logit in one step: powers neither overflow nor cancel."""
_HALVINGS = 12
_STALE = 0.3
"""Sum of the largest logit changes of a class after which its Hessian is computed anew."""
_RIDGE = 1e-10
_TRAIL = 5
"""Rounds after which their end is extrapolated."""
_KEPT_NUMBERS = 60_000_000
"""Columns of all classes are kept between visits while they hold no more numbers than this."""


@final
@dataclass(frozen=True, slots=True)
class Net:
    """An elastic net."""

    penalty: float
    l1_ratio: float

    @property
    def l1(self) -> float:
        """Factor of the sum of absolute weights."""
        return self.penalty * self.l1_ratio

    @property
    def l2(self) -> float:
        """Factor of half the sum of squares."""
        return self.penalty * (1.0 - self.l1_ratio)


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Model:
    """The quadratic model of one class, its bias eliminated."""

    table: Float[np.ndarray, "m m"]
    lean: Float[np.ndarray, " m"]
    """Change of the bias per change of each weight, with the sign turned."""
    total: float
    """Curvature by the bias."""

    @classmethod
    def of(cls, block: Block, curvature: Float[np.ndarray, " n"]) -> "_Model":
        total = float(curvature.sum(dtype=np.float64)) + np.finfo(np.float64).tiny
        products = block.pull(curvature)
        table = block.curvature(curvature) - np.outer(products, products) / total
        table[np.diag_indices_from(table)] += _RIDGE
        return cls(table, products / total, total)


@final
class Newton:
    """Weights, bias and logits that move together, one class at a time."""

    def __init__(
        self, columns: Columns, weights: Float[np.ndarray, "c k"], bias: Float[np.ndarray, " k"]
    ) -> None:
        self.weights = weights.astype(np.float64)
        self.bias = bias.astype(np.float64)
        self.columns = columns
        self.logits = ClassLogits(columns)
        self.settle()

    def settle(self) -> None:
        """Compute the logits anew from weights and bias.

        Steps leave rounding errors behind; without them what follows depends on the weights
        only, and a fit that goes on from stored weights ends the same.
        """
        self.logits.load(self.weights, self.bias)

    def is_at(self, weights: Float[np.ndarray, "c k"], bias: Float[np.ndarray, " k"]) -> bool:
        """Whether these are the present weights and bias."""
        return np.array_equal(self.weights, weights) and np.array_equal(self.bias, bias)

    def objective(self, net: Net) -> float:
        """Loss and penalty at the present weights."""
        return self.logits.loss() + penalty_value(self.weights, net.penalty, net.l1_ratio)

    def descend(
        self,
        used: Sequence[Int[np.ndarray, "_"]],
        net: Net,
        goal: float,
        *,
        sweeps: int,
        least: float = 0.0,
    ) -> "Ended":
        """Move the used weights of all classes until no derivative exceeds the goal.

        Args:
            used: the columns that each class may use; all its other weights stay.
            net: the penalty.
            goal: largest violation of the optimality conditions.
            sweeps: most rounds over all classes.
            least: decrease of the objective in one round below which nothing is left to gain.
        """
        descent, done = _Descent(self, used, net, goal), 0
        places = _places(used)
        trail = [self._at(places)]
        while True:
            worst, gained = descent.sweep()
            self.logits.refresh()
            done += 1
            if worst <= goal or gained < least or done >= sweeps:
                return Ended(done, worst, gained)
            trail.append(self._at(places))
            if len(trail) > _TRAIL:
                if self._leap(trail, places, net):
                    descent.forget()
                trail = [self._at(places)]

    def _at(self, places: Int[np.ndarray, " p"]) -> Float[np.ndarray, " q"]:
        return np.concatenate([self.weights.ravel()[places], self.bias])

    def _go(self, places: Int[np.ndarray, " p"], point: Float[np.ndarray, " q"]) -> None:
        self.weights.ravel()[places], self.bias = point[: len(places)], point[len(places) :].copy()
        self.settle()

    def _leap(
        self,
        trail: Sequence[Float[np.ndarray, " q"]],
        places: Int[np.ndarray, " p"],
        net: Net,
    ) -> bool:
        """Go to where the last rounds seem to lead, if the objective is lower there."""
        before, last = self.objective(net), trail[-1]
        there = extrapolated(trail)
        turned = np.sign(there) != np.sign(last)
        turned[len(places) :] = False  # a bias may change its sign
        self._go(places, np.where(turned, last, there))
        if self.objective(net) < before:
            return True
        self._go(places, last)
        return False


def extrapolated(trail: Sequence[Float[np.ndarray, " q"]]) -> Float[np.ndarray, " q"]:
    """Anderson's extrapolation of points that converge linearly.

    Of all mixtures of the points, the one that mixes the steps between them to the shortest
    (Bertrand and Massias 2021, "Anderson acceleration of coordinate descent", algorithm 1).
    """
    points = np.stack(trail)
    steps = np.diff(points, axis=0)
    products = steps @ steps.T
    products[np.diag_indices_from(products)] += _RIDGE * (np.trace(products) + _RIDGE)
    shares = np.linalg.solve(products, np.ones(len(steps)))
    return shares / shares.sum() @ points[1:]


def _places(used: Sequence[Int[np.ndarray, "_"]]) -> Int[np.ndarray, " p"]:
    """Flat indices into a (c, k) table of the columns that each class uses."""
    return np.concatenate([columns * len(used) + index for index, columns in enumerate(used)])


@final
@dataclass(frozen=True, slots=True)
class Ended:
    """How a descent ended."""

    sweeps: int
    violation: float
    """Largest met in the last round; exact where that round moved nothing."""
    gained: float
    """Decrease of the objective in the last round."""


@final
class _Descent:
    """One descent over fixed columns per class."""

    def __init__(
        self, fit: Newton, used: Sequence[Int[np.ndarray, "_"]], net: Net, goal: float
    ) -> None:
        self._fit, self._used, self._net, self._goal = fit, used, net, goal
        self._blocks: dict[int, Block] = {}
        self._kept = 0
        self._models: dict[int, _Model] = {}
        self._since = [0.0] * len(used)

    def sweep(self) -> tuple[float, float]:
        """Visit every class once: the largest violation met, and the decrease."""
        visits = [self._visit(index) for index in range(len(self._used))]
        return max(visit[0] for visit in visits), sum(visit[1] for visit in visits)

    def forget(self) -> None:
        """All classes have moved: every Hessian is out of date."""
        self._models.clear()

    def _block(self, index: int) -> Block:
        found = self._blocks.get(index)
        if found is None:
            found = Block(self._fit.columns, self._used[index])
            if self._kept + found.size <= _KEPT_NUMBERS:
                self._kept += found.size
                self._blocks[index] = found
        return found

    def _visit(self, index: int) -> tuple[float, float]:
        """Move one class if its derivatives are not small: its violation and its decrease."""
        block, net = self._block(index), self._net
        slopes, curvature = self._fit.logits.slopes(index)
        total = float(slopes.sum(dtype=np.float64))
        products = block.pull(slopes)
        weights = self._fit.weights[block.chosen, index]
        violations = kkt_violations(
            weights, products - block.shift * total, net.penalty, net.l1_ratio
        )
        worst = max(float(violations.max(initial=0.0)), abs(total))
        if worst <= self._goal:
            return worst, 0.0
        if index not in self._models or self._since[index] > _STALE:
            self._models[index], self._since[index] = _Model.of(block, curvature), 0.0
        model = self._models[index]
        slope = products - model.lean * total
        step = _minimiser(model.table, slope, weights, net, 0.1 * self._goal) - weights
        return worst, self._move(index, block, step, -total / model.total - model.lean @ step)

    def _move(self, index: int, block: Block, step: Float[np.ndarray, " m"], tilt: float) -> float:
        """Go along a step as far as the objective falls; what it fell by."""
        fit, net = self._fit, self._net
        move = block.move(step) + self._fit.columns.dtype.type(tilt)
        weights = fit.weights[block.chosen, index]
        before = penalty_value(weights, net.penalty, net.l1_ratio)
        longest = float(np.abs(move).max())
        share = min(1.0, _LONGEST / longest) if longest > 0 else 1.0
        slack = float(np.finfo(move.dtype).eps)
        for _ in range(_HALVINGS):
            moved = fit.logits.moved(index, move.dtype.type(share) * move)
            # The whole step keeps exact zeros exact.
            there = weights + step if share == 1.0 else weights + share * step
            change = moved.change + penalty_value(there, net.penalty, net.l1_ratio) - before
            if change <= slack:
                fit.logits.accept(index, moved)
                fit.weights[block.chosen, index] = there
                fit.bias[index] += share * (tilt + float(block.shift @ step))
                self._since[index] += share * longest if share == 1.0 else np.inf
                return -change
            share *= 0.5
        self._since[index] = np.inf
        return 0.0


def _minimiser(
    table: Float[np.ndarray, "m m"],
    slope: Float[np.ndarray, " m"],
    weights: Float[np.ndarray, " m"],
    net: Net,
    tolerance: float,
) -> Float[np.ndarray, " m"]:
    """Where `slope.d + d'table d/2 + net(weights + d)` is least, as `weights + d`.

    Exact without an L1 part. Else rounds of coordinate descent find the signs, and one linear
    system the weights that have them, until no coordinate moves its slope by the tolerance.
    """
    if net.l1 == 0.0:
        whole = table + net.l2 * np.eye(len(weights))
        return weights - np.linalg.solve(whole, slope + net.l2 * weights)
    found, slope = weights.copy(), slope.copy()
    for _ in range(_SWEEPS):
        if _round(table, slope, found, net) <= tolerance:
            break
        used = np.flatnonzero(found)
        inside = table[np.ix_(used, used)] + net.l2 * np.eye(len(used))
        there = slope[used] + net.l2 * found[used] + net.l1 * np.sign(found[used])
        change = -np.linalg.solve(inside, there)
        if (np.sign(found[used] + change) == np.sign(found[used])).all():
            found[used] += change
            slope += table[:, used] @ change
    return found


def _round(
    table: Float[np.ndarray, "m m"],
    slope: Float[np.ndarray, " m"],
    found: Float[np.ndarray, " m"],
    net: Net,
) -> float:
    """Minimise over each coordinate in turn, in place; the largest change of a slope."""
    l1, l2, largest = net.l1, net.l2, 0.0
    for place, (old, size) in enumerate(
        zip(found.tolist(), table.diagonal().tolist(), strict=True)
    ):
        centre = size * old - slope[place]
        if centre > l1:
            new = (centre - l1) / (size + l2)
        elif centre < -l1:
            new = (centre + l1) / (size + l2)
        else:
            new = 0.0
        if new != old:
            found[place] = new
            slope += (new - old) * table[place]
            largest = max(largest, abs(new - old) * size)
    return largest
