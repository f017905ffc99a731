"""What decisions rest on when only each one's largest contributions are read."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import final

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from dncbm.errors import InvalidInput
from dncbm.probe.matrix import Codes, Matrix, code_matrix
from dncbm.probe.metrics import probe_logits
from dncbm.probe.model import Probe

TOPS = (1, 3, 5, 10)
"""Numbers of contributions that are measured."""
LISTED = 5
"""The one that stands for the others where there is room for one: what explanations list."""
MOST_ROWS = 10_000
"""A share is known to half a percent from so many rows."""
_BLOCK_NUMBERS = 2_000_000


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ShortDecisions:
    """Decisions made again from the few contributions that an explanation lists."""

    accuracy: float
    """Share of rows classified right with only the listed contributions, in [0, 1]."""
    agreement: float
    """Share of rows whose class is the one that all contributions give, in [0, 1]."""
    remainder: float
    """Mean share of the predicted class's absolute contributions that is not listed, in [0, 1].
    Not the size of the remainder itself, in which contributions of both signs cancel."""


def short_decisions(
    probe: Probe, codes: Codes, labels: Int[np.ndarray, " n"], tops: Sequence[int] = TOPS
) -> dict[int, ShortDecisions]:
    """How far the listed contributions carry, by their number.

    Every class is scored by its bias and its `top` contributions that are largest in absolute
    value: what `Probe.contributions` lists for it, without the remainder. Explanations of all
    classes are cut alike, so the one of the predicted class has no advantage.

    Of more than `MOST_ROWS` rows, so many evenly spaced ones are measured.

    Raises:
        InvalidInput: codes of another width than the probe's, a number of contributions below 1.
    """
    wrong = [top for top in tops if top < 1]
    if wrong or not tops:
        raise InvalidInput(f"tops must be numbers >= 1, got {list(tops)}: how many are listed.")
    matrix = code_matrix(codes)
    rows = np.linspace(0, matrix.shape[0] - 1, min(matrix.shape[0], MOST_ROWS)).astype(np.int64)
    full = probe_logits(probe, matrix[rows]).argmax(axis=1)
    weights = np.ascontiguousarray(probe.weights.detach().cpu().double().numpy().T)
    bias = probe.bias.detach().cpu().double().numpy()
    scores, shares = _short_scores(matrix[rows], weights, full, tops)
    decided = (scores + bias).argmax(axis=2)
    return {
        top: ShortDecisions(
            accuracy=float((guess == labels[rows]).mean()),
            agreement=float((guess == full).mean()),
            remainder=float(share.mean()),
        )
        for top, guess, share in zip(tops, decided, shares, strict=True)
    }


def plain(found: dict[int, ShortDecisions]) -> dict[str, dict[str, float]]:
    """The same as it is written to JSON: by number, then by measure."""
    return {str(top): asdict(measured) for top, measured in found.items()}


def _short_scores(
    matrix: Matrix,
    weights: Float[np.ndarray, "c k"],
    full: Int[np.ndarray, " n"],
    tops: Sequence[int],
) -> tuple[Float[np.ndarray, "t n k"], Float[np.ndarray, "t n"]]:
    """Sums of each class's largest contributions, and what the decided class leaves out."""
    places, stored = _stored(matrix)
    scores = np.zeros((len(tops), len(full), weights.shape[1]))
    shares = np.zeros((len(tops), len(full)))
    step = max(1, _BLOCK_NUMBERS // (places.shape[1] * weights.shape[1]))
    for start in range(0, len(full), step):
        rows = slice(start, start + step)
        parts = stored[rows, :, None] * weights[places[rows]]
        total = np.abs(parts).sum(axis=1)
        listed = _largest_first(parts, max(tops))
        chosen = np.arange(len(listed)), full[rows]
        for index, top in enumerate(tops):
            scores[index, rows] = listed[:, :top].sum(axis=1)
            held, mass = np.abs(listed[:, :top]).sum(axis=1)[chosen], total[chosen]
            shares[index, rows] = np.where(mass > 0, 1.0 - held / np.where(mass > 0, mass, 1.0), 0)
    return scores, np.clip(shares, 0.0, 1.0)


def _stored(matrix: Matrix) -> tuple[Int[np.ndarray, "n a"], Float[np.ndarray, "n a"]]:
    """Concepts and codes of each row, of sparse codes only the stored ones, padded by zeros."""
    table = sp.csr_array(matrix)
    sizes = np.diff(table.indptr)
    row = np.repeat(np.arange(table.shape[0]), sizes)
    place = np.arange(len(row)) - table.indptr[row]
    places = np.zeros((table.shape[0], max(int(sizes.max(initial=0)), 1)), dtype=np.int64)
    stored = np.zeros(places.shape)
    places[row, place], stored[row, place] = table.indices, table.data
    return places, stored


def _largest_first(parts: Float[np.ndarray, "m a k"], most: int) -> Float[np.ndarray, "m b k"]:
    """The largest absolute contributions to each class, largest first; at most `most`."""
    size = np.abs(parts)
    if most < parts.shape[1]:
        kept = np.argpartition(-size, most - 1, axis=1)[:, :most]
        parts, size = (np.take_along_axis(table, kept, axis=1) for table in (parts, size))
    return np.take_along_axis(parts, np.argsort(-size, axis=1, kind="stable"), axis=1)
