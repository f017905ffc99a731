"""Heads with a fixed number of concepts per class: keep the largest weights, fit those again.

NEC as in Srivastava, Yan, Weng (VLG-CBM, 2024). Their protocol cuts globally, so NEC is an
average; the default here cuts per class, which gives every class the same short list.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float

from dncbm.errors import InvalidInput
from dncbm.probe.loss import Design, unscale
from dncbm.probe.model import Probe
from dncbm.probe.solvers import Solution

TRUNCATIONS = ("class", "global")


def check_nec(necs: Sequence[int]) -> None:
    """Refuse a number of concepts per class below one."""
    wrong = [nec for nec in necs if nec < 1]
    if wrong:
        raise InvalidInput(
            f"nec must be >= 1, got {wrong[0]}: it is the number of concepts a class may use."
        )


def largest_weights(
    weights: Float[np.ndarray, "c k"], nec: int, scope: str = "class"
) -> Bool[np.ndarray, "c k"]:
    """Mark the `nec` largest absolute non-zero weights of each class, or `nec * k` overall.

    Ties go to the lower concept index. `weights` are those of the scaled codes (weight times
    column scale), which makes concepts comparable.
    """
    check_nec([nec])
    size = np.abs(weights)
    keep = np.zeros(weights.shape, dtype=bool)
    if scope == "global":
        best = np.argsort(-size, axis=None, kind="stable")[: nec * weights.shape[1]]
        keep.ravel()[best] = True
    else:
        best = np.argsort(-size, axis=0, kind="stable")[:nec]
        np.put_along_axis(keep, best, values=True, axis=0)
    return keep & (weights != 0)


def to_probe(design: Design, solution: Solution, classes: tuple[str, ...]) -> Probe:
    """A solution as float32 probe over the codes as they come."""
    weights, bias = unscale(design, solution.weights, solution.bias)
    return Probe(torch.from_numpy(weights).float(), torch.from_numpy(bias).float(), classes)
