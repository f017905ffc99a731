"""Solved pieces of a long fit, kept on disk, so that a killed run solves each piece once."""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import final

import numpy as np
import scipy.sparse as sp
import torch

from dncbm.artifacts import fingerprint
from dncbm.probe.matrix import Matrix
from dncbm.probe.solvers import Solution
from dncbm.training.checkpoints import load_checkpoint, save_checkpoint

logger = logging.getLogger(__name__)


@final
class Memo:
    """A directory of solutions, each written atomically under its name.

    A file made with other data or another configuration (another `identity`) is not used.
    """

    def __init__(self, directory: Path | None, identity: str) -> None:
        self._directory = directory
        self._identity = identity

    def path(self, name: str) -> Path | None:
        """Where the piece called `name` is kept; None without a directory."""
        if self._directory is None:
            return None
        return self._directory / f"{name}-{self._identity[:16]}.safetensors"

    def solution(self, name: str, solve: Callable[[], Solution]) -> Solution:
        """The stored solution called `name`, or the one that `solve` finds, then stored."""
        path = self.path(name)
        if path is None:
            return solve()
        found = load_checkpoint(path)
        if found is not None:
            logger.info("Probe: %s was solved before and is read from %s.", name, path)
            tensors, state = found
            return Solution(
                weights=tensors["weights"].numpy(), bias=tensors["bias"].numpy(), **state
            )
        solved = solve()
        tensors = {name: torch.from_numpy(getattr(solved, name)) for name in ("weights", "bias")}
        save_checkpoint(path, tensors, _scalars(solved))
        return solved


def _scalars(solution: Solution) -> dict[str, float | int | bool]:
    return {
        "penalty": solution.penalty,
        "l1_ratio": solution.l1_ratio,
        "objective": solution.objective,
        "violation": solution.violation,
        "iterations": solution.iterations,
        "step": solution.step,
        "converged": solution.converged,
    }


def identity_of(recipe: object, *arrays: Matrix) -> str:
    """Hash of a configuration and of every array that the result depends on."""
    digest = hashlib.sha256(fingerprint(recipe).encode())
    for array in arrays:
        parts = (array.data, array.indices, array.indptr) if sp.issparse(array) else (array,)
        for part in parts:
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()
