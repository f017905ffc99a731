"""What a guided network is judged by: how it decides, and where its reasons lie."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dncbm.attribution import scores
from dncbm.attribution.methods import upsampled
from dncbm.data.views import Views
from dncbm.guidance.masks import Masks, pairs_in_crops
from dncbm.guidance.metrics import decisions, worst_group
from dncbm.guidance.task import Attributor
from dncbm.training.loop import Row
from dncbm.training.photos import Photos, whole

_WHOLE = (1.0, 1.0, 0.0, 0.0, 1.0)
"""Crop that shows all of a photo."""


def measured(  # noqa: PLR0913 - photos with all that is known of them
    attributor: Attributor, photos: Photos, truth: Bool[np.ndarray, "n k"], masks: Masks,
    views: Views, device: str, *, multiple: bool = False, outside: bool = False,
    groups: Sequence[str | None] | np.ndarray | None = None, most: int | None = None,
    threshold: float | None = None, rows: np.ndarray | None = None,
) -> Row:  # fmt: skip
    """Figures of a network in evaluation mode; {} without photos.

    Args:
        attributor: the network, and whose attribution is looked at where.
        photos: those held out are measured, unless `rows` says others.
        truth: classes that each photo shows.
        masks: where they are.
        views: photos are shown whole.
        device: where the network is.
        multiple: several classes per photo: micro F1 at a logit of 0 and mAP instead of accuracy.
        outside: attribution should be outside of the masks.
        groups: of the photos, for the accuracy of the worst one.
        most: annotated photos, at most, whose attribution is measured; evenly chosen.
        threshold: for IoU; None chooses the best for these photos.
        rows: photos to measure.

    Returns:
        `f1` and `map`, or `accuracy` (with groups `worst_group`); what the task measures; with
        annotation `epg` (maps without positive mass count as 0), `epg_chance` (the share of the
        photo that masks cover), `epg_gain` (their difference), `iou` and `iou_threshold`.
    """
    wanted = photos.held_out if rows is None else rows
    if len(wanted) == 0:
        return {}
    return _decided(attributor, photos, truth, views, device, wanted, multiple, groups) | _located(
        attributor, photos, masks, views, device, _annotated(wanted, masks, most), outside,
        threshold,
    )  # fmt: skip


def _decided(
    attributor: Attributor, photos: Photos, truth: np.ndarray, views: Views, device: str,
    rows: np.ndarray, multiple: bool, groups: Sequence[str | None] | np.ndarray | None,
) -> Row:  # fmt: skip
    """How the network decides, and what its task measures."""
    task, sums, logits = attributor.task, {}, []
    with torch.inference_mode():
        for _, pixels in whole(photos, views, device, rows):
            output = attributor.network(pixels)
            logits.append(task.logits(output).float().cpu())
            for name, values in task.measures(output, pixels).items():
                sums[name] = sums.get(name, 0.0) + float(values.sum())
    found = decisions(torch.cat(logits), torch.from_numpy(truth[rows]), multiple=multiple)
    if groups is not None and not multiple:
        right = torch.cat(logits).argmax(1).numpy() == truth[rows].argmax(1)
        found["worst_group"] = worst_group(right, [groups[row] for row in rows])
    return found | {name: total / len(rows) for name, total in sums.items()}


def _located(
    attributor: Attributor, photos: Photos, masks: Masks, views: Views, device: str,
    rows: np.ndarray, outside: bool, threshold: float | None,
) -> Row:  # fmt: skip
    """Where attribution lies; {} without annotation."""
    known = scores.CANDIDATES if threshold is None else (threshold,)
    shares, areas = [torch.zeros(0).double()], [torch.zeros(0).double()]
    overlaps = torch.zeros(len(known), dtype=torch.float64)
    for maps, shown in _maps(attributor, photos, masks, views, device, rows, outside):
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
    attributor: Attributor, photos: Photos, masks: Masks, views: Views, device: str,
    rows: np.ndarray, outside: bool,
) -> Iterator[tuple[Float[Tensor, "p 1 h w"], Bool[Tensor, "p 1 h w"]]]:  # fmt: skip
    """Maps of all annotated targets of some photos at the size of the views, and their masks."""
    for part, pixels in whole(photos, views, device, rows):
        boxes = torch.tensor(_WHOLE).repeat(len(part), 1)
        pairs = pairs_in_crops(masks, part, views, boxes, outside=outside)
        if pairs is not None:
            found = pairs.maps(attributor.maps(pixels, pairs.targets))
            maps = upsampled(found, (views.size, views.size))
            yield maps, pairs.masks[:, None].to(maps.device)


def _annotated(rows: np.ndarray, masks: Masks, most: int | None) -> np.ndarray:
    """Rows with annotation, at most so many, evenly chosen."""
    known = rows[np.isin(rows, masks.rows)]
    if most is None or len(known) <= most:
        return known
    return known[np.linspace(0, len(known) - 1, most).astype(int)]
