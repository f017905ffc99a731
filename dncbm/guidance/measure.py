"""What a guided network is judged by: how it decides, and where its reasons lie."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dncbm.attribution import scores
from dncbm.attribution.methods import upsampled
from dncbm.data.views import Views
from dncbm.guidance.masks import pairs_in_crops
from dncbm.guidance.metrics import decisions, worst_group
from dncbm.guidance.photos import GuidedPhotos
from dncbm.guidance.task import Attributor
from dncbm.training.loop import Row
from dncbm.training.photos import whole

_WHOLE = (1.0, 1.0, 0.0, 0.0, 1.0)
"""Crop that shows all of a photo."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Measure:
    """Figures of a network in evaluation mode on whole photos."""

    attributor: Attributor
    """The network, and whose attribution is looked at where."""
    data: GuidedPhotos
    views: Views
    device: str = "cpu"
    """Where the network is."""
    multiple: bool = False
    """Several classes per photo: F1 at a logit of 0 and mAP instead of accuracy."""
    outside: bool = False
    """Attribution should be outside of the masks."""
    most: int | None = None
    """Annotated photos, at most, whose attribution is measured; evenly chosen."""
    threshold: float | None = None
    """For IoU; None chooses the best for the photos that are measured."""

    def __call__(self, rows: np.ndarray | None = None) -> Row:
        """Figures of some photos, by default of those held out; {} without photos.

        Returns:
            `f1`, `macro_f1` and `map`, or `accuracy` (with groups `worst_group`); what the task
            measures; with annotation `epg` (maps without positive mass count as 0), `epg_chance`
            (the share of the photo that masks cover), `epg_gain` (their difference), `iou` and
            `iou_threshold`.
        """
        wanted = self.data.photos.held_out if rows is None else rows
        return self._decided(wanted) | self._located(wanted) if len(wanted) else {}

    def _decided(self, rows: np.ndarray) -> Row:
        """How the network decides, and what its task measures."""
        task, groups = self.attributor.task, self.data.groups
        sums: dict[str, float] = {}
        parts = []
        with torch.inference_mode():
            for _, pixels in whole(self.data.photos, self.views, self.device, rows):
                output = self.attributor.network(pixels)
                parts.append(task.logits(output).float().cpu())
                for name, values in task.measures(output, pixels).items():
                    sums[name] = sums.get(name, 0.0) + float(values.sum())
        logits, truth = torch.cat(parts), self.data.truth[rows]
        found = decisions(logits, torch.from_numpy(truth), multiple=self.multiple)
        known = groups is not None and any(groups[row] is not None for row in rows)
        if groups is not None and known and not self.multiple:
            right = logits.argmax(1).numpy() == truth.argmax(1)
            found["worst_group"] = worst_group(right, [groups[row] for row in rows])
        return found | {name: total / len(rows) for name, total in sums.items()}

    def _located(self, rows: np.ndarray) -> Row:
        """Where attribution lies; {} without annotation."""
        known = scores.CANDIDATES if self.threshold is None else (self.threshold,)
        shares, areas = [torch.zeros(0).double()], [torch.zeros(0).double()]
        overlaps = torch.zeros(len(known), dtype=torch.float64)
        for maps, shown in self._maps(self._annotated(rows)):
            shares.append(scores.mass_ratio(maps, shown)[:, 0].cpu())
            areas.append(scores.chance(shown)[:, 0].cpu())
            for place, value in enumerate(known):
                overlaps[place] += scores.iou(maps, shown, value).sum().cpu()
        share, area = torch.cat(shares), torch.cat(areas)
        if len(share) == 0:
            return {}
        best = int(overlaps.argmax())
        return {
            "epg": float(share.mean()), "epg_chance": float(area.mean()),
            "epg_gain": float((share - area).mean()),
            "iou": float(overlaps[best]) / len(share), "iou_threshold": known[best],
        }  # fmt: skip

    def _maps(
        self, rows: np.ndarray
    ) -> Iterator[tuple[Float[Tensor, "p 1 h w"], Bool[Tensor, "p 1 h w"]]]:
        """Maps of all annotated targets of photos at the size of the views, and their masks."""
        size = (self.views.size, self.views.size)
        for part, pixels in whole(self.data.photos, self.views, self.device, rows):
            boxes = torch.tensor(_WHOLE).repeat(len(part), 1)
            pairs = pairs_in_crops(
                self.data.masks, part, self.views, boxes, outside=self.outside
            )  # fmt: skip
            if pairs is not None:
                found = pairs.maps(self.attributor.maps(pixels, pairs.targets))
                yield upsampled(found, size), pairs.masks[:, None].to(found.device)

    def _annotated(self, rows: np.ndarray) -> np.ndarray:
        """Rows with annotation, at most so many, evenly chosen."""
        known = rows[np.isin(rows, self.data.masks.rows)]
        if self.most is None or len(known) <= self.most:
            return known
        return known[np.linspace(0, len(known) - 1, self.most).astype(int)]
