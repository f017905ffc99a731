"""Photos with boxes: whole photos, whose maps should lie in the boxes of a class that they show."""

import logging
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dncbm.attribution.localisation import Plan
from dncbm.data.annotations import Annotations
from dncbm.data.images import decode_image
from dncbm.data.sources import ImageSource
from dncbm.errors import DncbmError, InvalidInput, UnknownName
from dncbm.training.seeding import generator
from pipelines.localised_models import Subject
from pipelines.localised_photos import PhotoReader
from pipelines.localised_tasks import Masks

_log = logging.getLogger(__name__)


class Boxed(NamedTuple):
    """Photos and one class of each whose boxes are known."""

    reader: PhotoReader
    plan: Plan
    """Pictures of one cell."""
    masks: Masks


def boxed_photos(
    subject: Subject, source: ImageSource, known: Annotations, *, most: int, seed: int
) -> Boxed:
    """Photos with boxes of a class that is an output of the network; of several, one at random.

    A photo whose boxes lie outside of what the network sees, or fill all of it, is left out.

    Args:
        subject: the network.
        source: of the photos.
        known: their boxes.
        most: photos.
        seed: of photos and classes.

    Raises:
        UnknownName: no annotated class is one of the outputs.
        InvalidInput: no photo is left.
    """
    place = {name: k for k, name in reversed(list(enumerate(subject.names)))}
    if not place.keys() & set(known.labels):
        raise UnknownName(f"class of {subject.spec}", known.labels[0], subject.names)
    draw = generator(seed, "boxes")
    rows: list[int] = []
    chosen: list[str] = []
    for row in torch.randperm(len(source.records), generator=draw).tolist():
        labels = sorted({box.label for box in known.boxes(source.records[row].id)} & place.keys())
        if labels and len(rows) < most:
            label = labels[int(torch.randint(len(labels), (1,), generator=draw))]
            share = _masks(known, [source.records[row].id], [label], subject, 64).mean()
            if 0 < share < 1 and _can_be_read(source, row):
                rows.append(row)
                chosen.append(label)
    if not rows:
        raise InvalidInput("No photo has a box of a class of the network inside what it sees.")
    reader = PhotoReader(source, rows, subject)

    def masks(photos: Tensor, size: tuple[int, int]) -> Tensor:
        wanted = photos[:, 0].tolist()
        names, labels = [reader.ids[i] for i in wanted], [chosen[i] for i in wanted]
        return torch.from_numpy(_masks(known, names, labels, subject, size[0]))

    classes = torch.tensor([place[label] for label in chosen])[:, None]
    return Boxed(reader, Plan(classes, torch.arange(len(rows))[:, None], 1), masks)


def _can_be_read(source: ImageSource, row: int) -> bool:
    try:
        decode_image(source.read(row))
    except DncbmError as error:
        _log.warning("%s is skipped: %s", source.records[row].path, error)
        return False
    return True


def _masks(
    known: Annotations, ids: list[str], labels: list[str], subject: Subject, size: int
) -> np.ndarray:
    """(n, 1, size, size)"""
    found = [
        known.masks([name], [label], size, geometry=subject.geometry)
        for name, label in zip(ids, labels, strict=True)
    ]
    return np.concatenate(found)
