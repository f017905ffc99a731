"""Where the dictionary's unit rows come from: free directions, or mixtures of data points."""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dncbm.sae.model import SaeModel
from dncbm.sae.rows import EmbeddingRows

_POINTS_PER_CENTRE = 16
_KMEANS_ROUNDS = 8


@runtime_checkable
class Atoms(Protocol):
    """What the training loop does with the dictionary, whatever it is made of."""

    def rows(self) -> Float[Tensor, "c d"]:
        """Unit rows, differentiable in what they are made of."""
        ...

    def parameters(self) -> list[nn.Parameter]:
        """What the optimizer moves beside encoder and biases."""
        ...

    def after_backward(self) -> None:
        """Before the optimizer's step."""
        ...

    def after_step(self) -> None:
        """Return to the constraint and write the rows into the model."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Tensors beside the model's own that a checkpoint must hold, to be written in place."""
        ...


class FreeAtoms:
    """The model's own rows: gradients along a row are dropped and rows return to unit length."""

    def __init__(self, model: SaeModel) -> None:
        self._dictionary = model.dictionary

    def rows(self) -> Float[Tensor, "c d"]:
        """The parameter itself."""
        return self._dictionary

    def parameters(self) -> list[nn.Parameter]:
        """The dictionary."""
        return [self._dictionary]

    @torch.no_grad()
    def after_backward(self) -> None:
        """Remove from each row's gradient what would only change the row's length."""
        gradient = self._dictionary.grad
        if gradient is not None:
            along = torch.linalg.vecdot(gradient, self._dictionary)[:, None]
            gradient.addcmul_(along, self._dictionary, value=-1)

    @torch.no_grad()
    def after_step(self) -> None:
        """Unit length."""
        self._dictionary.div_(torch.linalg.vector_norm(self._dictionary, dim=1, keepdim=True))

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}


class ArchetypalAtoms:
    """Unit rows along convex combinations of data points, plus a bounded relaxation.

    D = unit(W P + R) with W >= 0 and rows that sum to 1, P the points, and rows of R no longer
    than `relaxation` times the points' mean length (RA-SAE, Fel et al. 2502.12892, equation 4;
    there without unit length, which for us is the dictionary's contract).

    Args:
        model: its dictionary receives the rows.
        points: (p, d) standardised.
        relaxation: 0 keeps rows within the cone of the points.
    """

    def __init__(self, model: SaeModel, points: Float[Tensor, "p d"], relaxation: float) -> None:
        self._dictionary = model.dictionary.requires_grad_(False)
        self._points = points
        self._mixture = nn.Parameter(_first_mixture(model.num_concepts, points))
        self._relaxed = nn.Parameter(torch.zeros_like(self._dictionary))
        self._limit = relaxation * float(points.norm(dim=1).mean())
        tied = torch.equal(model.encoder_weight, self._dictionary)
        self.after_step()
        if tied:
            model.encoder_weight.data.copy_(self._dictionary)

    def rows(self) -> Float[Tensor, "c d"]:
        """Composed anew, so that mixture and relaxation get their gradients."""
        return functional.normalize(self._mixture @ self._points + self._relaxed, dim=1)

    def parameters(self) -> list[nn.Parameter]:
        """Mixture and relaxation."""
        return [self._mixture, self._relaxed]

    def after_backward(self) -> None:
        """Nothing: the projection comes after the step."""

    @torch.no_grad()
    def after_step(self) -> None:
        """Mixtures back to the simplex's scale, relaxations back into their ball."""
        self._mixture.relu_()
        self._mixture.div_(self._mixture.sum(dim=1, keepdim=True).clamp_min(1e-8))
        lengths = self._relaxed.norm(dim=1, keepdim=True)
        self._relaxed.mul_((self._limit / lengths.clamp_min(1e-30)).clamp(max=1.0))
        self._dictionary.copy_(self.rows())

    def state(self) -> dict[str, Tensor]:
        """Points, mixture and relaxation."""
        return {
            "atoms.points": self._points,
            "atoms.mixture": self._mixture.data,
            "atoms.relaxed": self._relaxed.data,
        }


def _first_mixture(num_concepts: int, points: Float[Tensor, "p d"]) -> Float[Tensor, "c p"]:
    """One point for each row; where they run out, two unevenly: p² rows are all distinct."""
    count = len(points)
    numbers = torch.arange(num_concepts, device=points.device)
    one, other = numbers % count, (numbers + numbers // count) % count
    mixture = 2 * functional.one_hot(one, count) + functional.one_hot(other, count)
    return mixture.to(points.dtype) / 3


def archetypes(
    model: SaeModel, rows: EmbeddingRows, count: int, generator: torch.Generator
) -> Float[Tensor, "p d"]:
    """Centres of k-means on standardised rows, at most one per row: points that stand for data."""
    import faiss  # loaded here: training free dictionaries needs none of it

    count = min(count, len(rows))
    sample = torch.randperm(len(rows), generator=generator)[: count * _POINTS_PER_CENTRE]
    with torch.no_grad():
        points = model.standardize(rows.gather(sample).to(model.input_mean.device)).cpu().numpy()
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    clustering = faiss.Kmeans(
        points.shape[1], count, niter=_KMEANS_ROUNDS, seed=seed, min_points_per_centroid=1
    )
    clustering.train(np.ascontiguousarray(points, dtype=np.float32))
    return torch.from_numpy(np.array(clustering.centroids))
