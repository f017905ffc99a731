"""Checkpoints of a guided training to choose from: how it began and ended, and the best on the way.

Guidance trades classification against localisation, so that no single epoch is best. Rao et al.
2023 keep the Pareto front of classification, EPG and IoU over all epochs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from torch import Tensor, nn

from dncbm.artifacts import read_json, write_json
from dncbm.errors import ArtifactError, ArtifactMismatch, InvalidInput
from dncbm.guidance.selection import best_above, pareto_front
from dncbm.training.checkpoints import load_checkpoint, save_checkpoint
from dncbm.training.loop import Row

_INDEX = "candidates.json"
_MEASURES = ("epg", "iou")
TOLERANCE = 0.005
"""Classification that a choice may lose against the best that was measured: half a point."""
_MOST_TOLERANCE = 0.05
"""However few photos there are."""


def tolerance_of(figures: Sequence[Row], photos: int) -> float:
    """Half a point, or one standard error of the best classification on so few photos.

    The best of many checkpoints is best by luck as well. On 150 photos, whose standard error is
    four points, hardly any other comes within half a point of it, and guidance would be thrown
    away (the one-standard-error rule, Breiman et al. 1984, section 3.4.3). F1 is taken as a share;
    one photo right and one wrong are added, since no error at all on few photos is luck too. Never
    more than five points.
    """
    best = min(1.0, max(map(classification, figures)))
    share = (best * photos + 1) / (photos + 2)
    error = math.sqrt(share * (1 - share) / (photos + 2))
    return min(_MOST_TOLERANCE, max(TOLERANCE, error))


def classification(figures: Row) -> float:
    """F1 or accuracy, whichever was measured."""
    return float(figures["f1"] if "f1" in figures else figures["accuracy"])


@final
@dataclass(slots=True)
class Candidates:
    """Measured states of one training; the weights of those worth keeping are on the disk."""

    folder: Path
    purpose: str
    most: int
    figures: dict[int, Row]
    """Of held-out photos, by the number of updates before; 0 is before training."""

    @classmethod
    def open(cls, folder: Path, purpose: str, most: int) -> "Candidates":
        """Those that an earlier, interrupted run left, or none.

        Raises:
            ArtifactMismatch: they are of another run.
        """
        try:
            saved: Any = read_json(folder / _INDEX)
        except ArtifactError:
            return cls(folder, purpose, most, {})
        if saved["purpose"] != purpose:
            raise ArtifactMismatch(
                f"{folder} holds candidates of another run. Give another checkpoint file, or "
                "delete the folder to start anew."
            )
        return cls(folder, purpose, most, {int(k): v for k, v in saved["figures"].items()})

    def is_empty(self) -> bool:
        """Nothing was measured yet."""
        return not self.figures

    def add(self, step: int, figures: Row, network: nn.Module) -> None:
        """A measured state; weights that are now worse than others go."""
        self.figures[step] = figures
        save_checkpoint(self._file(step), network.state_dict(), {"step": step})
        kept = self.kept()
        write_json(self.folder / _INDEX, {"purpose": self.purpose, "figures": self.figures})
        for old in set(self.figures) - kept:
            self._file(old).unlink(missing_ok=True)

    def front(self) -> list[int]:
        """Steps of the Pareto front, in order; thinned out evenly along EPG to `most`."""
        steps = sorted(self.figures)
        found = [steps[i] for i in pareto_front([_point(self.figures[s]) for s in steps])]
        found = [step for step in found if self._file(step).is_file()]  # thinned out before: gone
        if len(found) <= self.most:
            return found
        by_epg = sorted(found, key=lambda step: _point(self.figures[step])[1])
        places = np.linspace(0, len(by_epg) - 1, self.most).round().astype(int)
        return sorted({by_epg[place] for place in places})

    def kept(self) -> set[int]:
        """Steps whose weights stay: first, last, best classification, and the front."""
        best = max(self.figures, key=lambda step: (classification(self.figures[step]), step))
        return {min(self.figures), max(self.figures), best, *self.front()}

    def chosen(self, tolerance: float = TOLERANCE) -> int:
        """The kept step with the best EPG, its classification at most `tolerance` below the best.

        Without annotation it is the best classification.
        """
        steps = sorted(self.kept())
        return steps[choice([self.figures[step] for step in steps], tolerance)]

    def weights(self, step: int) -> dict[str, Tensor]:
        """Of a kept state.

        Raises:
            InvalidInput: it was not kept.
        """
        found = load_checkpoint(self._file(step))
        if found is None:
            raise InvalidInput(
                f"The weights of step {step} were not kept; there are those of "
                f"{', '.join(map(str, sorted(self.kept())))}."
            )
        return found[0]

    def _file(self, step: int) -> Path:
        return self.folder / f"step-{step}.safetensors"


def choice(figures: Sequence[Row], tolerance: float = TOLERANCE) -> int:
    """Which row has the best EPG, its classification at most `tolerance` below the best row's.

    The weights before training are a row too, so that not more than this is lost against them.
    Without annotation it is the best classification.
    """
    points = np.array([_point(row) for row in figures])
    by = 1 if "epg" in figures[0] else 0
    found = best_above(points, by=by, column=0, floor=points[:, 0].max() - tolerance - 1e-9)
    return 0 if found is None else found


def _point(figures: Row) -> Sequence[float]:
    return [classification(figures), *(float(figures.get(name, 0.0)) for name in _MEASURES)]
