"""Live codes against training codes: which concepts became more or less frequent.

Activity is tested by the two-proportion z test with pooled variance, concept by concept, and the
p-values are corrected across concepts by Benjamini and Hochberg (1995), which bounds the
expected share of false alarms among those raised.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool, Float64
from scipy.special import erfc

from dncbm.drift.reference import Reference
from dncbm.drift.statistics import CodeStatistics

FALSE_ALARMS = 0.05
"""Expected share of concepts without a change among those that are called shifted."""
_FEWEST = 5.0
"""Expected images with the concept, and without it, from which the test's normal approximation
holds (Cochran 1954)."""
_SMALLEST_EFFECT = 0.1
"""Difference of arcsine-transformed shares (Cohen's h) below which nobody cares; in millions of
images any difference is significant. Half of what Cohen calls small."""
_PRIOR = 0.5
"""Added to each count, so that an empty bin has no infinite weight."""


@final
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Comparison:
    """Per concept, and over all."""

    images: int
    p_value: Float64[np.ndarray, " c"]
    """Corrected across concepts; NaN where too few images were seen to test."""
    shift: Float64[np.ndarray, " c"]
    """Live minus training mean code, in training standard deviations; NaN where those are not
    known or 0."""
    effect: Float64[np.ndarray, " c"]
    """Cohen's h of activity: positive where the concept became more frequent."""
    is_shifted: Bool[np.ndarray, " c"]
    psi: float | None
    """Population stability index, mean over tested concepts; None where none is tested."""

    @property
    def tested(self) -> int:
        """Concepts with a p-value."""
        return int(np.isfinite(self.p_value).sum())

    @property
    def shifted(self) -> int:
        """Concepts that became clearly more or less frequent."""
        return int(self.is_shifted.sum())

    @property
    def share_shifted(self) -> float | None:
        """Of the tested concepts; None where none is tested."""
        return self.shifted / self.tested if self.tested else None


def compare(live: CodeStatistics, reference: Reference) -> Comparison:
    """How live images differ from training images."""
    trained = reference.statistics
    p_value = corrected(_activity_p(live, reference))
    effect = _angle(live.density) - _angle(reference.density)
    is_tested = np.isfinite(p_value)
    deviation = np.zeros(len(effect)) if trained is None else trained.deviation
    shift = np.full(len(effect), np.nan)
    np.divide(live.mean - reference.mean, deviation, out=shift, where=deviation > 0)
    psi = stability_index(live, reference)[is_tested]
    with np.errstate(invalid="ignore"):
        is_significant = p_value <= FALSE_ALARMS
    return Comparison(
        images=live.images,
        p_value=p_value,
        shift=shift,
        effect=effect,
        is_shifted=is_significant & (np.abs(effect) >= _SMALLEST_EFFECT),
        psi=float(psi.mean()) if len(psi) else None,
    )


def _angle(share: Float64[np.ndarray, " c"]) -> Float64[np.ndarray, " c"]:
    return 2 * np.arcsin(np.sqrt(np.clip(share, 0, 1)))


def _activity_p(live: CodeStatistics, reference: Reference) -> Float64[np.ndarray, " c"]:
    """Two-sided p of equal activity; NaN where too few images are expected."""
    count = live.images
    if count == 0:
        return np.full(len(live.active), np.nan)
    trained = reference.statistics
    if trained is None:  # shares of so many images that they count as known
        pooled, spread = reference.density, 1 / count
    else:
        pooled = (live.active + trained.active) / (count + trained.images)
        spread = 1 / count + 1 / trained.images
    error = np.sqrt(pooled * (1 - pooled) * spread)
    is_enough = np.minimum(pooled, 1 - pooled) * count >= _FEWEST
    z = np.zeros(len(pooled))
    np.divide(live.density - reference.density, error, out=z, where=error > 0)
    return np.where(is_enough, erfc(np.abs(z) / np.sqrt(2)), np.nan)


def corrected(p_value: Float64[np.ndarray, " c"]) -> Float64[np.ndarray, " c"]:
    """Adjusted p-values of Benjamini and Hochberg; NaN is not counted and stays."""
    tested = np.flatnonzero(np.isfinite(p_value))
    order = tested[np.argsort(p_value[tested], kind="stable")]
    ranks = np.arange(1, len(order) + 1)
    scaled = p_value[order] * len(order) / ranks
    found = np.full(len(p_value), np.nan)
    found[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return found


def stability_index(live: CodeStatistics, reference: Reference) -> Float64[np.ndarray, " c"]:
    """Population stability index over the bins of codes above 0 and the images without.

    Over activity alone where the training codes are gone.
    """
    now = _shares(live.histogram, live.images, live.active)
    if reference.statistics is not None:
        trained = reference.statistics
        before = _shares(trained.histogram, trained.images, trained.active)
    else:
        now = _shares(live.active[:, None], live.images, live.active)
        share = np.clip(reference.density, 1e-6, 1 - 1e-6)
        before = np.stack([share, 1 - share], axis=1)
    return ((now - before) * np.log(now / before)).sum(axis=1)


def _shares(
    counts: np.ndarray, images: int, active: np.ndarray
) -> Float64[np.ndarray, "c categories"]:
    every = np.concatenate([counts, (images - active)[:, None]], axis=1) + _PRIOR
    return every / every.sum(axis=1, keepdims=True)
