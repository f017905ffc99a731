"""Photos with what they show and where."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from dncbm.guidance.masks import Masks
from dncbm.training.photos import Photos


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GuidedPhotos:
    """Photos, what they show, and where."""

    photos: Photos
    """Held-out photos choose among the candidates."""
    truth: Bool[np.ndarray, "n k"]
    """Classes that each photo shows; one each where the task is single-label."""
    masks: Masks
    """Of training and held-out photos."""
    groups: Sequence[str | None] | None = None
    """For worst-group accuracy; None where there are none."""

    def wanted(self, rows: np.ndarray) -> Tensor:
        """Truth of some photos, as the losses take it."""
        return torch.from_numpy(self.truth[rows]).float()
