"""Read the photos, labels and captions that `mini` learns from, straight out of their zips.

Every reader yields :class:`Photo` records with encoded bytes; nothing is decoded here. Rows
that must never teach are yielded with another split than ``train`` or not at all.
"""

import io
import json
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HELD_OUT_EVERY = 7  # every 7th Flickr photo: 143 of 1,000, with all of its captions
CIFAR_MONITOR_EVERY = 40  # 500 CIFAR *training* photos watch the run, so that the test stays unseen


@dataclass(frozen=True, slots=True)
class Photo:
    """One encoded picture with what is known about it."""

    source: str
    split: str
    label: str
    captions: tuple[str, ...]
    data: bytes
    key: str


def all_photos(root: Path) -> Iterator[Photo]:
    """Every photo that teaches or watches, in a fixed order."""
    yield from cifar(root)
    yield from tiny_imagenet(root)
    yield from clothing(root)
    yield from flickr(root)
    yield from coco(root)
    yield from cc12m(root)
    yield from clip_photos(root)


def cifar(root: Path) -> Iterator[Photo]:
    """CIFAR-10 training photos; a fixed 500 of them only watch."""
    with zipfile.ZipFile(root / "cifar10.zip") as archive:
        names = sorted(n for n in archive.namelist() if n.startswith("train/"))
        for index, name in enumerate(n for n in names if n.endswith(".jpg")):
            split = "watch" if index % CIFAR_MONITOR_EVERY == 0 else "train"
            yield Photo("cifar", split, name.split("/")[1], (), archive.read(name), name)


def tiny_imagenet(root: Path) -> Iterator[Photo]:
    """Tiny-ImageNet training photos, labelled by WordNet id; its validation is not read."""
    with zipfile.ZipFile(root / "tiny_imagenet.zip") as archive:
        for name in sorted(archive.namelist()):
            if "/train/" in name and name.endswith(".JPEG"):
                yield Photo("tiny", "train", name.split("/")[2], (), archive.read(name), name)


def clothing(root: Path) -> Iterator[Photo]:
    """Garment photos: `train/` teaches, `validation/` watches, `test/` is not read."""
    with zipfile.ZipFile(root / "clothing.zip") as archive:
        for name in sorted(archive.namelist()):
            folder = name.split("/")[0]
            if folder in ("train", "validation") and name.endswith(".jpg"):
                split = "train" if folder == "train" else "watch"
                yield Photo("clothing", split, name.split("/")[1], (), archive.read(name), name)


def flickr_captions(root: Path) -> dict[str, list[str]]:
    """Photo file name → its captions, for all 8,091 captioned photos (1,000 are present)."""
    captions: dict[str, list[str]] = {}
    with zipfile.ZipFile(root / "flickr8k_1000.zip") as archive:
        for line in archive.read("captions.txt").decode("utf-8").splitlines()[1:]:
            name, _, caption = line.partition(",")
            captions.setdefault(name, []).append(caption.strip().strip('"').strip())
    return captions


def held_out_flickr(root: Path) -> list[str]:
    """The file names of the photos kept for the retrieval test."""
    with zipfile.ZipFile(root / "flickr8k_1000.zip") as archive:
        names = sorted(n for n in archive.namelist() if n.endswith(".jpg"))
    return [Path(n).name for n in names[::HELD_OUT_EVERY]]


def flickr(root: Path) -> Iterator[Photo]:
    """Flickr photos with five captions each; every seventh only watches."""
    captions, held_out = flickr_captions(root), set(held_out_flickr(root))
    with zipfile.ZipFile(root / "flickr8k_1000.zip") as archive:
        for path in sorted(n for n in archive.namelist() if n.endswith(".jpg")):
            name = Path(path).name
            split = "watch" if name in held_out else "train"
            yield Photo("flickr", split, "", tuple(captions[name]), archive.read(path), name)


def coco(root: Path) -> Iterator[Photo]:
    """COCO photos with captions made from their boxes ("two dogs and a chair")."""
    with zipfile.ZipFile(root / "coco128_boxes.zip") as archive:
        names = _yaml_names(archive.read("object_detection/config.yaml").decode())
        for path in sorted(n for n in archive.namelist() if n.startswith("images/")):
            if path.endswith(".jpg"):
                label_path = "object_detection/labels/" + path[len("images/") : -4] + ".txt"
                boxes = (
                    archive.read(label_path).decode() if label_path in archive.NameToInfo else ""
                )
                yield Photo(
                    "coco", "train", "", _box_captions(boxes, names), archive.read(path), path
                )


def _yaml_names(text: str) -> list[str]:
    lines = text.split("names:", 1)[1].splitlines()
    pairs = [line.split(":", 1) for line in lines if line.strip()[:1].isdigit()]
    return [value.strip() for _, value in sorted(pairs, key=lambda pair: int(pair[0]))]


def _box_captions(boxes: str, names: list[str]) -> tuple[str, ...]:
    """Captions for YOLO lines ``class x y w h`` (fractions), biggest object first."""
    rows = [line.split() for line in boxes.splitlines() if line.strip()]
    area: Counter[str] = Counter()
    for row in rows:
        area[names[int(row[0])]] += float(row[3]) * float(row[4])  # type: ignore[assignment]
    count = Counter(names[int(row[0])] for row in rows)
    parts = [_counted(name, count[name]) for name, _ in area.most_common(4)]
    if not parts:
        return ()
    return (parts[0], " and ".join(parts[:2]), "a photo of " + ", ".join(parts))


def _counted(name: str, count: int) -> str:
    if count == 1:
        return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
    plural = "people" if name == "person" else name + ("es" if name[-1] in "sxh" else "s")
    return f"{'two' if count == 2 else 'some'} {plural}"


def cc12m(root: Path) -> Iterator[Photo]:
    """The image-caption pairs of the web sample."""
    with tarfile.open(root / "cc12m_test_32_webdataset.tar") as archive:
        files = {m.name.removeprefix("./"): m for m in archive.getmembers() if m.isfile()}
        for name in sorted(n for n in files if n.endswith(".jpg")):
            caption = _member(archive, files[name[:-4] + ".txt"]).decode().strip()
            yield Photo("cc12m", "train", "", (caption,), _member(archive, files[name]), name)


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read() if file else b""


def clip_photos(root: Path) -> Iterator[Photo]:
    """The photos with true CLIP embeddings, without the 500 that are CIFAR *test* photos."""
    table = np.load(root / "clip_vitb32" / "image_embeddings.npz")
    with zipfile.ZipFile(root / "clip_vitb32" / "images.zip") as archive:
        for source, name in zip(table["source"], table["image"], strict=True):
            if source != "cifar10_test_first500":
                yield Photo("clip", "train", "", (), archive.read(str(name)), str(name))


def tiny_words(root: Path) -> dict[str, list[str]]:
    """WordNet id → its synonyms, for the 200 Tiny-ImageNet classes."""
    prefix = "tiny-imagenet-200/"
    with zipfile.ZipFile(root / "tiny_imagenet.zip") as archive:
        ids = archive.read(prefix + "wnids.txt").decode().split()
        lines = archive.read(prefix + "words.txt").decode().splitlines()
    words = dict(line.split("\t", 1) for line in lines if "\t" in line)
    return {wnid: [w.strip().lower() for w in words[wnid].split(",")] for wnid in sorted(ids)}


def coco_names(root: Path) -> list[str]:
    """The 80 COCO category names."""
    with zipfile.ZipFile(root / "coco128_boxes.zip") as archive:
        return _yaml_names(archive.read("object_detection/config.yaml").decode())


def imagenet_names(root: Path) -> list[str]:
    """One plain name for each of the 1,000 ImageNet classes, in the teacher's order."""
    table = json.loads((root / "vocab" / "openai_imagenet_classes_templates.json").read_text())
    return [str(name).lower() for name in table["imagenet_classes"]]


def imagenet_synonyms(root: Path) -> list[list[str]]:
    """All synonyms that the MobileNet teacher's labels list, in the teacher's order."""
    table = json.loads((root / "mobilenet_v1_075_224" / "metadata.json").read_text())
    return [[s.strip().lower() for s in label.split(",")] for label in table["labels"]]


def as_bytes_io(photo: Photo) -> io.BytesIO:
    """The encoded picture as a file object."""
    return io.BytesIO(photo.data)
