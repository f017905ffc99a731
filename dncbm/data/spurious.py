"""Sets in which the background goes with the class while training, but not in the test.

Things are cut out of photos and pasted on backgrounds of two kinds, as Waterbirds was made (Sagawa
et al. 2020): a network that reads the background is right in training and wrong in the groups that
training did not show. Where each thing lies is known exactly. Written in Waterbirds' layout, with
COCO's annotations beside it.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from dncbm.artifacts import write_json, writing
from dncbm.data.annotations.regions import Box
from dncbm.data.splits import SPLITS
from dncbm.data.waterbirds import COLUMNS, METADATA
from dncbm.errors import InvalidInput
from dncbm.files import draft_of, publish

_ANNOTATIONS = "instances.json"
_EXPONENT = 2.5
"""Of the outline |x|^e + |y|^e = 1 of a cutout: between an ellipse (2) and its box."""


@dataclass(frozen=True, slots=True)
class Cutout:
    """A thing without its background."""

    pixels: UInt8[np.ndarray, "h w 3"]
    alpha: Float[np.ndarray, "h w"]
    """From 0 (background) to 1 (thing)."""


@dataclass(frozen=True, slots=True)
class Pool:
    """What the photos of one split are made of; share nothing between splits."""

    things: tuple[Sequence[Cutout], Sequence[Cutout]]
    """Of the first and the second class."""
    backgrounds: tuple[UInt8[np.ndarray, "m s s 3"], UInt8[np.ndarray, "n s s 3"]]
    """Of the first and the second kind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Composition:
    """How photos are put together."""

    size: int = 64
    """Height and width."""
    correlation: float = 1.0
    """Share of the training photos whose background is of the kind of their class."""
    smallest: float = 0.5
    """Longer side of a thing as a share of the photo's, at least."""
    largest: float = 0.75
    """Longer side of a thing as a share of the photo's, at most."""
    train: int = 2400
    """Training photos, half of them of each class."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.correlation <= 1 or not 0 < self.smallest <= self.largest <= 1:
            raise InvalidInput(
                f"correlation={self.correlation}, smallest={self.smallest}, largest={self.largest};"
                " the rule is shares from 0 to 1, the smallest thing not above the largest."
            )
        if self.size < 8 or self.train < 2:
            raise InvalidInput(
                f"size={self.size}, train={self.train}; the rule is at least 8 pixels and 2 photos."
            )


@dataclass(frozen=True, slots=True)
class Composite:
    """One photo and what is in it."""

    pixels: UInt8[np.ndarray, "s s 3"]
    mask: Bool[np.ndarray, "s s"]
    """Where the thing covers at least half of the background."""
    label: int
    place: int
    split: str
    background: int
    """Which one of its kind in the split's pool."""


def cut_out(photo: UInt8[np.ndarray, "h w 3"], box: Box, softness: float = 0.15) -> Cutout:
    """A thing in a box as a rounded patch: boxes do not say which of their pixels it has.

    Args:
        photo: that shows it.
        box: within the photo.
        softness: width of the edge as a share of the patch's half.
    """
    rows = slice(int(np.floor(box.top)), int(np.ceil(box.bottom)))
    columns = slice(int(np.floor(box.left)), int(np.ceil(box.right)))
    patch = photo[rows, columns]
    y, x = (np.abs((2 * np.arange(n) + 1) / n - 1) for n in patch.shape[:2])
    radius = (y[:, None] ** _EXPONENT + x[None, :] ** _EXPONENT) ** (1 / _EXPONENT)
    return Cutout(patch, np.clip((1 - radius) / softness, 0, 1))


def compose(pools: Mapping[str, Pool], how: Composition) -> Iterator[Composite]:
    """Photos of all splits, the same for the same seed.

    Training photos have the background of their class's kind, but for a share of
    `1 - correlation` in each class. In the other splits every thing is shown twice, at the same
    place and size: once on a background of each kind, so that the four groups are equally large.

    Raises:
        InvalidInput: an unknown split, or a pool that lacks things or backgrounds.
    """
    for split, pool in pools.items():
        if split not in SPLITS or not all(len(part) for part in (*pool.things, *pool.backgrounds)):
            raise InvalidInput(
                f"The split {split!r} must be one of {', '.join(SPLITS)} and have things of both "
                "classes and backgrounds of both kinds."
            )
        rng = np.random.default_rng([how.seed, SPLITS.index(split)])
        plan = _training(pool, how, rng) if split == "train" else _balanced(pool)
        for label, thing, places in plan:
            cutout = _resized(pool.things[label][thing], how, rng)
            room = how.size - np.array(cutout.alpha.shape)
            top, left = (int(rng.integers(0, space + 1)) for space in room)
            for place in places:
                number = int(rng.integers(len(pool.backgrounds[place])))
                ground = _varied(pool.backgrounds[place][number], how.size, rng)
                pixels, mask = pasted(ground, cutout, left, top)
                yield Composite(pixels, mask, label, place, split, number)


_Planned = tuple[int, int, tuple[int, ...]]
"""Class, which thing of it, and on which kinds of background."""


def _training(pool: Pool, how: Composition, rng: np.random.Generator) -> list[_Planned]:
    plan: list[_Planned] = []
    for label in (0, 1):
        count = how.train // 2
        things = np.resize(rng.permutation(len(pool.things[label])), count)
        odd = set(rng.permutation(count)[: round((1 - how.correlation) * count)].tolist())
        plan += [(label, int(t), (1 - label if i in odd else label,)) for i, t in enumerate(things)]
    return [plan[i] for i in rng.permutation(len(plan))]


def _balanced(pool: Pool) -> list[_Planned]:
    few = min(map(len, pool.things))
    return [(label, thing, (0, 1)) for label in (0, 1) for thing in range(few)]


def _resized(thing: Cutout, how: Composition, rng: np.random.Generator) -> Cutout:
    """Scaled to a size drawn at random, half of them turned left to right."""
    longest = how.size * rng.uniform(how.smallest, how.largest)
    scale = longest / max(thing.alpha.shape)
    height, width = (max(1, round(n * scale)) for n in thing.alpha.shape)
    size, kind = (width, height), Image.Resampling.BILINEAR
    pixels = np.asarray(Image.fromarray(thing.pixels).resize(size, kind))
    alpha = np.asarray(Image.fromarray(thing.alpha.astype(np.float32)).resize(size, kind))
    turn = slice(None, None, -1) if rng.random() < 0.5 else slice(None)
    return Cutout(pixels[:, turn], np.clip(alpha[:, turn], 0, 1).astype(float))


def _varied(
    ground: UInt8[np.ndarray, "s s 3"], size: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "size size 3"]:
    """A square of at least 70 % of the background's side, half of them turned."""
    side = max(1, int(min(ground.shape[:2]) * rng.uniform(0.7, 1)))
    top, left = (int(rng.integers(0, n - side + 1)) for n in ground.shape[:2])
    part = Image.fromarray(ground[top : top + side, left : left + side])
    pixels = np.asarray(part.resize((size, size), Image.Resampling.BICUBIC))
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels


def pasted(
    ground: UInt8[np.ndarray, "s s 3"], thing: Cutout, left: int, top: int
) -> tuple[UInt8[np.ndarray, "s s 3"], Bool[np.ndarray, "s s"]]:
    """The background with the thing on it, and where the thing covers at least half."""
    alpha = np.zeros(ground.shape[:2])
    height, width = thing.alpha.shape
    rows, columns = slice(top, top + height), slice(left, left + width)
    alpha[rows, columns] = thing.alpha
    front = np.zeros(ground.shape)
    front[rows, columns] = thing.pixels
    mixed = alpha[..., None] * front + (1 - alpha[..., None]) * ground
    return np.rint(mixed).astype(np.uint8), alpha >= 0.5


def write_set(
    folder: Path, photos: Iterable[Composite], classes: tuple[str, str], places: tuple[str, str]
) -> int:
    """Write photos as PNG, `metadata.csv` and `instances.json` (boxes and run lengths), at once.

    Args:
        folder: that appears when all is written.
        photos: composites.
        classes: names of the classes.
        places: names of the kinds of background.

    Returns:
        How many photos there are.

    Raises:
        InvalidInput: the folder is there already.
        Unavailable: no space, or no right to write.
    """
    if folder.exists():
        raise InvalidInput(f"{folder} exists. Give a new folder, or remove that one first.")
    with writing(folder.parent), draft_of(folder) as draft:
        rows: list[dict[str, object]] = []
        images: list[dict[str, object]] = []
        annotations: list[dict[str, object]] = []
        for number, photo in enumerate(photos, start=1):
            name = f"{photo.split}/{classes[photo.label]}/{number:06d}.png"
            _write_png(draft / name, photo.pixels)
            rows.append(_row(number, name, photo, classes, places))
            height, width = photo.mask.shape
            images.append({"id": number, "file_name": name, "width": width, "height": height})
            annotations.append(_annotation(number, photo))
        with (draft / METADATA).open("w", encoding="utf-8", newline="") as stream:
            table = csv.DictWriter(stream, [*COLUMNS, "label", "place_label"])
            table.writeheader()
            table.writerows(rows)
        categories = [{"id": i, "name": name} for i, name in enumerate(classes)]
        write_json(
            draft / _ANNOTATIONS,
            {"images": images, "annotations": annotations, "categories": categories},
        )
        publish(draft, folder)
    return len(rows)


def _write_png(path: Path, pixels: UInt8[np.ndarray, "s s 3"]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    path.write_bytes(stream.getvalue())


def _row(
    number: int, name: str, photo: Composite, classes: Sequence[str], places: Sequence[str]
) -> dict[str, object]:
    values = (
        number, name, photo.label, SPLITS.index(photo.split), photo.place,
        f"{places[photo.place]}/{photo.background}",
    )  # fmt: skip
    names = {"label": classes[photo.label], "place_label": places[photo.place]}
    return dict(zip(COLUMNS, values, strict=True)) | names


def _annotation(number: int, photo: Composite) -> dict[str, object]:
    """COCO's: the box around the mask, and the mask as run lengths down the columns."""
    rows, columns = np.flatnonzero(photo.mask.any(axis=1)), np.flatnonzero(photo.mask.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    flat = photo.mask.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat])))
    counts = np.diff(np.concatenate([[0], edges, [flat.size]]))
    return {
        "id": number, "image_id": number, "category_id": photo.label, "iscrowd": 0,
        "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
        "area": int(photo.mask.sum()),
        "segmentation": {"size": list(photo.mask.shape), "counts": counts.tolist()},
    }  # fmt: skip
