"""What live codes are compared with."""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float64

from dncbm.drift.statistics import CodeStatistics


@final
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reference:
    """Training statistics; `statistics` is None where only those of the dictionary are left."""

    edges: Float64[np.ndarray, "c edges"]
    density: Float64[np.ndarray, " c"]
    mean: Float64[np.ndarray, " c"]
    statistics: CodeStatistics | None
    fingerprint: str
    """Of the model and the edges: live statistics of another one are not comparable."""
