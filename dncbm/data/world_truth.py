"""What the concept world knows about its scenes, to score discovery and naming exactly."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_matrix

from dncbm.data.concept_world import CONCEPTS_FILE
from dncbm.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Truth:
    """Which concepts each scene shows."""

    paths: tuple[str, ...]
    concepts: tuple[str, ...]
    presence: Bool[np.ndarray, "n t"]


@dataclass(frozen=True, slots=True)
class WorldScore:
    """How well discovered concepts match the true ones, one to one."""

    mean_correlation: float
    """Mean Pearson correlation of a true concept's presence with its partner's code."""
    recovered_fraction: float
    """Share of true concepts whose partner correlates by at least 0.5."""
    naming_top1: float
    """Share of true concepts whose partner bears exactly their name."""
    naming_top5: float
    """The same, counting the partner's alternatives."""


def read_truth(world: Path) -> Truth:
    """The truth table that `write_concept_world` left in its folder.

    Raises:
        InvalidInput: the folder is not a concept world.
    """
    table = world / CONCEPTS_FILE
    if not table.is_file():
        raise InvalidInput(f"{world} is not a concept world: it has no {CONCEPTS_FILE}.")
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    shown = [set(row["concepts"].split(";")) for row in rows]
    concepts = tuple(sorted(set().union(*shown)))
    presence = np.array([[concept in scene for concept in concepts] for scene in shown])
    return Truth(tuple(row["path"] for row in rows), concepts, presence)


def correlations(codes: csr_matrix, presence: Bool[np.ndarray, "n t"]) -> Float[np.ndarray, "t c"]:
    """Pearson correlation of each true concept with each code; 0 where one is constant."""
    n = presence.shape[0]
    truth = presence - presence.mean(axis=0)
    means = np.asarray(codes.mean(axis=0)).ravel()
    squares = np.asarray(codes.multiply(codes).mean(axis=0)).ravel()
    spread = np.sqrt(np.maximum(squares - means**2, 0.0))
    # the truth is centred, so the codes' means drop out of the covariance
    covariance = (codes.T @ truth).T / n
    scale = truth.std(axis=0)[:, None] * spread
    return np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 1e-12)


def score_world(
    codes: csr_matrix,
    presence: Bool[np.ndarray, "n t"],
    concepts: Sequence[str],
    candidates: Sequence[Sequence[str]],
) -> WorldScore:
    """Match true and discovered concepts by Hungarian assignment and score the match.

    Args:
        codes: codes (n, c) of the scenes.
        presence: truth of the same scenes, in the same order.
        concepts: names of the true concepts.
        candidates: per discovered concept its words, best first; "" first for an unnamed one.
    """
    matrix = correlations(codes, presence)
    true, found = linear_sum_assignment(-matrix)
    values = matrix[true, found]
    names = [(concepts[t], candidates[f]) for t, f in zip(true, found, strict=True)]
    # Fewer discovered than true concepts leave some without a partner: those count 0.
    return WorldScore(
        mean_correlation=float(values.sum() / len(concepts)),
        recovered_fraction=float((values >= 0.5).sum() / len(concepts)),
        naming_top1=sum(known in words[:1] for known, words in names) / len(concepts),
        naming_top5=sum(known in words[:5] for known, words in names) / len(concepts),
    )
