"""What a guided network is judged by: how it decides, and where its reasons lie."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dncbm.attribution.methods import upsampled
from dncbm.data.views import Views
from dncbm.guidance.loss import SMALLEST_MASS
from dncbm.guidance.masks import Masks, Pairs, pairs_in_crops
from dncbm.guidance.task import Attributor
from dncbm.training.loop import Row
from dncbm.training.photos import EVALUATED_AT_ONCE, Photos, whole

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Shares of a map's largest attribution, of which the best for IoU is chosen."""


def measured(  # noqa: PLR0913 - photos with all that is known of them
    attributor: Attributor, photos: Photos, truth: Bool[np.ndarray, "n k"], masks: Masks,
    views: Views, device: str, *, multiple: bool = False, outside: bool = False,
    groups: Int[np.ndarray, " n"] | None = None, most: int | None = None,
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
        threshold: for IoU; None chooses the best of `THRESHOLDS` for these photos.
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
