"""A set like Waterbirds out of Tiny ImageNet: its things, by their boxes, on its scenes.

    python -m benchmarks.spurious.build tiny_imagenet.zip OUT --things mammals-vehicles --seed 0

Two groups of classes on two kinds of background, water and rock. With `--correlation 1` (as in
Waterbirds-100) training shows only two of the four groups; validation and test show every thing on
both backgrounds. No photo is in two splits, neither as a thing nor as a background. OUT takes the
layout of Waterbirds, with COCO's boxes and masks beside it: `open_source(OUT)` and
`read_annotations(OUT)` read it. `OUT-contact.png` shows some of each group.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from dncbm.data.annotations import Annotations, Box, read_annotations
from dncbm.data.images import decode_image
from dncbm.data.sources import ImageSource, open_source
from dncbm.data.spurious import Composite, Composition, Cutout, Pool, compose, cut_out, write_set

PLACES = ("water", "rock")
SCENES: tuple[tuple[str, ...], tuple[str, ...]] = (
    ("n09428293", "n09332890", "n09256479"),  # seashore, lakeside, coral reef
    ("n09193705", "n09246464", "n03042490"),  # alp, cliff, cliff dwelling
)
THINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "mammals-vehicles": (
        ("n02099601", "n02099712", "n02106662", "n02123045", "n02125311", "n02129165",
         "n02132136", "n02364673", "n02395406", "n02403003", "n02410509", "n02415577",
         "n02423022", "n02437312", "n02481823", "n02504458"),
        ("n02814533", "n02917067", "n03100240", "n03393912", "n03444034", "n03599486",
         "n03649909", "n03670208", "n03796401", "n03977966", "n04146614", "n04285008",
         "n04465501", "n04487081", "n03662601", "n03447447"),
    ),
    "birds-dogs": (
        ("n01855672", "n02002724", "n02056570", "n02058221"),
        ("n02085620", "n02094433", "n02099601", "n02106662"),
    ),
}  # fmt: skip
"""WordNet numbers, as Tiny ImageNet names its classes."""
_SMALLEST_THING = 18
"""Pixels along the shorter side of a box, of 64."""
_VALIDATION = 5
"""Every so many training photos, one goes to validation."""


def pools(
    source: ImageSource, boxes: Annotations, things: Sequence[Sequence[str]]
) -> dict[str, Pool]:
    """What each split is made of: Tiny ImageNet's validation photos are for the test."""
    found: dict[tuple[str, str], list[tuple[int, Box]]] = defaultdict(list)
    counts: Counter[str] = Counter()
    for row, record in enumerate(source.records):
        split = "test" if "val" in PurePosixPath(record.path).parts else "train"
        for box in boxes.boxes(record.id):
            counts[box.label] += split == "train"
            held_out = split == "train" and counts[box.label] % _VALIDATION == 0
            found["validation" if held_out else split, box.label].append((row, box))

    def of(split: str, labels: Sequence[str]) -> list[tuple[int, Box]]:
        return [item for label in labels for item in found[split, label]]

    return {
        split: Pool(
            (_cutouts(source, of(split, things[0])), _cutouts(source, of(split, things[1]))),
            (_scenes(source, of(split, SCENES[0])), _scenes(source, of(split, SCENES[1]))),
        )
        for split in ("train", "validation", "test")
    }


def _cutouts(source: ImageSource, found: Iterable[tuple[int, Box]]) -> list[Cutout]:
    """Of the things that are large enough to be told."""
    return [
        cut_out(_pixels(source, row), box)
        for row, box in found
        if min(box.right - box.left, box.bottom - box.top) >= _SMALLEST_THING
    ]


def _scenes(source: ImageSource, found: Iterable[tuple[int, Box]]) -> UInt8[np.ndarray, "m s s 3"]:
    return np.stack([_pixels(source, row) for row, _ in found])


def _pixels(source: ImageSource, row: int) -> UInt8[np.ndarray, "h w 3"]:
    return np.asarray(decode_image(source.read(row)))


def contact_sheet(photos: Sequence[Composite], path: Path, columns: int = 12) -> None:
    """The first photos of each group that there is in training and test, a row each."""
    groups = sorted(
        {(p.split, p.label, p.place) for p in photos if p.split != "validation"}, reverse=True
    )
    side = photos[0].pixels.shape[0]
    sheet = np.full((side * len(groups), side * columns, 3), 255, np.uint8)
    for row, group in enumerate(groups):
        shown = [p for p in photos if (p.split, p.label, p.place) == group][:columns]
        for column, photo in enumerate(shown):
            part = sheet[row * side : (row + 1) * side, column * side : (column + 1) * side]
            part[:] = photo.pixels
    Image.fromarray(sheet).save(path)


def main() -> None:
    """Build one set."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("data", help="tiny_imagenet.zip")
    options.add_argument("out", type=Path, help="folder for the set")
    options.add_argument("--things", choices=sorted(THINGS), default="mammals-vehicles")
    options.add_argument("--correlation", type=float, default=1.0)
    options.add_argument("--train", type=int, default=2400, help="training photos")
    options.add_argument("--smallest", type=float, default=0.5, help="longer side, as a share")
    options.add_argument("--largest", type=float, default=0.75, help="longer side, as a share")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    source = open_source(given.data)
    made = pools(source, read_annotations(given.data, photos=source), THINGS[given.things])
    how = Composition(
        correlation=given.correlation, train=given.train, smallest=given.smallest,
        largest=given.largest, seed=given.seed,
    )  # fmt: skip
    photos = list(compose(made, how))
    first, second = given.things.split("-")
    count = write_set(given.out, photos, (first.rstrip("s"), second.rstrip("s")), PLACES)
    contact_sheet(photos, given.out.parent / f"{given.out.name}-contact.png")
    print(f"{count} photos in {given.out}")


if __name__ == "__main__":
    main()
