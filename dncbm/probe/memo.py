"""Solved pieces of a long fit, kept on disk, so that a killed run solves each piece once."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Int

from dncbm.artifacts import fingerprint
from dncbm.probe.matrix import Matrix
from dncbm.probe.solvers import Solution
from dncbm.training.checkpoints import load_checkpoint, save_checkpoint

logger = logging.getLogger(__name__)

_FORMAT = "probe pieces 3"
"""Changes with the solvers: pieces of an older version are solved again."""
_DIGITS = 16
_SPARSE_BELOW = 0.5


@final
@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A solution that takes no room for zeros."""

    places: Int[np.ndarray, " p"] | None
    """Flat indices of the values; None where all weights are kept."""
    values: Float[np.ndarray, " p"]
    shape: tuple[int, int]
    rest: Solution
    """Everything but the weights."""

    @classmethod
    def of(cls, solution: Solution) -> "Packed":
        """The solution without its zeros, if there are many."""
        weights = solution.weights
        rest = solution.with_weights(weights[:0].copy())
        shape = (weights.shape[0], weights.shape[1])
        if np.count_nonzero(weights) > _SPARSE_BELOW * weights.size:
            return cls(None, weights.ravel(), shape, rest)
        places = np.flatnonzero(weights)
        return cls(places, weights.ravel()[places], shape, rest)

    def solution(self) -> Solution:
        """The solution as it was, bit for bit."""
        if self.places is None:
            return self.rest.with_weights(self.values.reshape(self.shape))
        weights = np.zeros(self.shape[0] * self.shape[1], dtype=self.values.dtype)
        weights[self.places] = self.values
        return self.rest.with_weights(weights.reshape(self.shape))

    @property
    def effective_concepts(self) -> float:
        """NEC: mean number of non-zero weights per class."""
        return float(np.count_nonzero(self.values)) / self.shape[1]


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
        return self._directory / f"{name}-{self._identity[:_DIGITS]}.safetensors"

    def solution(self, name: str, solve: Callable[[], Solution]) -> Solution:
        """The stored solution called `name`, or the one that `solve` finds, then stored."""
        path = self.path(name)
        if path is None:
            return solve()
        found = load_checkpoint(path)
        if found is not None:
            logger.info("Probe: %s was solved before and is read from %s.", name, path)
            return _unpack(*found)
        solved = solve()
        _write(path, Packed.of(solved))
        return solved

    def forget_others(self) -> None:
        """Remove the pieces of other data or another configuration from the directory."""
        if self._directory is None or not self._directory.is_dir():
            return
        for path in self._directory.glob(f"*-{'[0-9a-f]' * _DIGITS}.safetensors"):
            if not path.stem.endswith(self._identity[:_DIGITS]):
                path.unlink(missing_ok=True)


def _write(path: Path, packed: Packed) -> None:
    arrays = {"values": packed.values, "bias": packed.rest.bias}
    if packed.places is not None:
        arrays["places"] = packed.places
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    save_checkpoint(path, tensors, {"shape": list(packed.shape), **_scalars(packed.rest)})


def _unpack(tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> Solution:
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    rows, classes = state.pop("shape")
    nothing = np.zeros((0, classes), dtype=arrays["values"].dtype)
    rest = Solution(weights=nothing, bias=arrays["bias"], **state)
    return Packed(arrays.get("places"), arrays["values"], (rows, classes), rest).solution()


def _scalars(solution: Solution) -> dict[str, float | int | bool]:
    return {
        "penalty": solution.penalty,
        "l1_ratio": solution.l1_ratio,
        "objective": solution.objective,
        "violation": solution.violation,
        "iterations": solution.iterations,
        "converged": solution.converged,
    }


def identity_of(recipe: object, *arrays: Matrix) -> str:
    """Hash of a configuration and of every array that the result depends on."""
    digest = hashlib.sha256(f"{_FORMAT} {fingerprint(recipe)}".encode())
    for array in arrays:
        parts = (array.data, array.indices, array.indptr) if sp.issparse(array) else (array,)
        for part in parts:
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()
