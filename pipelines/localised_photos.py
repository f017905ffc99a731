"""The photos that grids are made of: those that a network is right and sure about."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dncbm.attribution.localisation import Sure, sure_images
from dncbm.data.images import decode_image
from dncbm.data.sources import ImageSource
from dncbm.errors import DncbmError, InvalidInput
from dncbm.training.progress import Progress
from dncbm.training.seeding import generator
from pipelines.embed import split_records
from pipelines.localised_models import Subject, known_labels, with_concepts

_log = logging.getLogger(__name__)
_AT_ONCE = 64
_KEPT_DECODED = 256
"""Photos held decoded, since each method sees the same ones."""
_CODES = 16
"""Largest codes of an image that are kept to find its concept."""
_BEST_SHARE = 0.5
"""Of the images of a class or concept by margin, where outputs are no logits."""
_FEWEST = 2
"""Photos that a concept needs, as corners show two of one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Which photos are looked at."""

    most: int = 2000
    """At most so many are drawn."""
    confidence: float = 0.5
    """Lowest probability of the class, where outputs are logits."""
    seed: int = 0


class PhotoReader:
    """Photos of a source as a network takes them, decoded when asked for.

    Args:
        source: of the photos.
        rows: which of its records, by the number that photos have here.
        subject: says how they are resized and normalised.
    """

    def __init__(self, source: ImageSource, rows: Sequence[int], subject: Subject) -> None:
        self._rows, self.subject = list(rows), subject
        self.ids = [source.records[row].id for row in rows]

        def one(photo: int) -> np.ndarray:
            return subject.resize(decode_image(source.read(self._rows[photo])))

        self._one = lru_cache(maxsize=_KEPT_DECODED)(one)

    def levels(self, photos: Sequence[int]) -> UInt8[Tensor, "m h w 3"]:
        """Colours from 0 to 255."""
        return torch.from_numpy(np.stack([self._one(photo) for photo in photos]))

    def pixels(self, photos: Sequence[int]) -> Float[Tensor, "m 3 h w"]:
        """What the network takes."""
        return self.subject.pixels(self.levels(photos))


class Candidates(NamedTuple):
    """Photos for grids, and the network with the outputs that they are about."""

    subject: Subject
    reader: PhotoReader
    labels: Tensor
    """Output of each photo, (m)."""
    confidences: Tensor
    """(m)"""
    seen: int
    """Photos that were looked at."""
    broken: int
    """Photos that cannot be read, of those."""

    def counts(self) -> dict[str, int]:
        """Photos of grids, those looked at, and those that cannot be read."""
        return {"photos": len(self.labels), "seen": self.seen, "broken": self.broken}


def candidates(
    subject: Subject, source: ImageSource, choice: Choice, progress: Progress
) -> Candidates:
    """Look at photos and keep those that the network is right and sure about.

    Test photos only, where the data has some or training would hold some out. With concepts, a
    photo belongs to the concept with the largest code relative to the largest that any photo has.

    Raises:
        InvalidInput: none is left.
        UnknownName: no class of the data is one of the network's.
    """
    rows = _drawn(subject, source, choice)
    found: list[tuple[int, Tensor]] = []
    for row, output in _outputs(subject, source, rows, progress):
        found.append((row, _strongest(output) if subject.targets == "concepts" else output))
    broken = len(rows) - len(found)
    if not found:
        raise InvalidInput(f"None of {len(rows)} photos can be read. Give JPEG, PNG or WebP.")
    seen, outputs = [row for row, _ in found], torch.stack([output for _, output in found])
    if subject.targets == "concepts":
        subject, labels, sure = _of_concepts(subject, outputs)
    else:
        names = [source.records[row].label for row in seen]
        labels = torch.tensor([k or 0 for k in known_labels(names, subject.names, subject.spec)])
        logits = subject.confidence != "margin"
        sure = sure_images(
            outputs, labels, by=subject.confidence,
            at_least=choice.confidence if logits else None,
            best_share=None if logits else _BEST_SHARE,
        )  # fmt: skip
    if not len(sure.rows):
        raise InvalidInput(
            f"The network is right and sure about none of {len(seen)} photos. Lower --confidence, "
            "or give photos of its own classes."
        )
    reader = PhotoReader(source, [seen[row] for row in sure.rows.tolist()], subject)
    return Candidates(subject, reader, labels[sure.rows], sure.confidences, len(seen), broken)


def _drawn(subject: Subject, source: ImageSource, choice: Choice) -> list[int]:
    """Records to look at, in the order of the source."""
    records = source.records
    rows = range(len(records))
    if subject.targets == "classes":
        labels = known_labels([r.label for r in records], subject.names, subject.spec)
        rows = [row for row in rows if labels[row] is not None]
    splits = split_records(source, choice.seed)
    tested = [row for row in rows if splits[row] == "test"]
    chosen = tested or list(rows)
    order = torch.randperm(len(chosen), generator=generator(choice.seed, "photos"))
    return sorted(chosen[place] for place in order[: choice.most].tolist())


@torch.no_grad()
def _outputs(
    subject: Subject, source: ImageSource, rows: Sequence[int], progress: Progress
) -> Iterator[tuple[int, Tensor]]:
    """Records that can be read, and what the network makes of them."""
    for start in range(0, len(rows), _AT_ONCE):
        read: list[int] = []
        levels: list[np.ndarray] = []
        for row in rows[start : start + _AT_ONCE]:
            try:
                levels.append(subject.resize(decode_image(source.read(row))))
                read.append(row)
            except DncbmError as error:
                _log.warning("Skipped %s: %s", source.records[row].path, error)
        if read:
            outputs = subject.network(subject.pixels(torch.from_numpy(np.stack(levels))))
            yield from zip(read, outputs.float().cpu(), strict=True)
        progress("photos", min(start + _AT_ONCE, len(rows)), len(rows))


def _strongest(codes: Tensor) -> Tensor:
    """The largest codes of an image and their concepts: (codes, 2)."""
    best = codes.topk(min(_CODES, len(codes)))
    return torch.stack([best.values, best.indices.to(best.values.dtype)], dim=1)


def _of_concepts(subject: Subject, strongest: Tensor) -> tuple[Subject, Tensor, Sure]:
    """The concepts that are the strongest of several images, as outputs."""
    values, concepts = strongest[..., 0], strongest[..., 1].long()
    scales = torch.zeros(len(subject.names))
    scales.scatter_reduce_(0, concepts.flatten(), values.flatten(), "amax")
    shares = values / scales[concepts].clamp_min(1e-12)
    best = shares.topk(min(2, shares.shape[1]), dim=1)
    labels = concepts.gather(1, best.indices[:, :1])[:, 0]
    counts = labels.bincount(minlength=len(subject.names))
    chosen = (counts >= _FEWEST).nonzero()[:, 0].tolist()
    if not chosen:
        raise InvalidInput(
            f"No concept is the strongest of {_FEWEST} of {len(labels)} photos. Give more photos."
        )
    dense = torch.zeros(len(labels), len(subject.names)).scatter(1, concepts, shares)[:, chosen]
    place = torch.full((len(subject.names),), -1)
    place[chosen] = torch.arange(len(chosen))
    own = place[labels]
    known = (own >= 0).nonzero()[:, 0]
    sure = sure_images(
        dense[known], own[known], by="margin", at_least=None, best_share=_BEST_SHARE
    )  # fmt: skip
    narrowed = with_concepts(subject, chosen, scales)
    return narrowed, own, Sure(known[sure.rows], sure.confidences)
