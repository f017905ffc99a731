"""What a path inside a folder or an archive says: is it an image, which class, which split."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from dncbm.data.images import IMAGE_EXTENSIONS, ImageLimits
from dncbm.data.sources import ImageRecord
from dncbm.data.splits import normalise_split

MAX_READ = ImageLimits().max_bytes + 1
"""Bytes read of one image at most: one more than is decoded, so that the excess is noticed."""


def is_image_name(path: str) -> bool:
    """True for an image extension outside hidden files and folders."""
    parts = PurePosixPath(path).parts
    hidden = any(part.startswith((".", "__MACOSX")) for part in parts)
    return not hidden and PurePosixPath(path).suffix.lower() in IMAGE_EXTENSIONS


def records_from_paths(paths: Sequence[str]) -> list[ImageRecord]:
    """Records of relative paths `[wrapper/][split/][class/].../name`, in the given order.

    Folders that wrap everything are skipped. If the first folder that remains is a split
    everywhere (`train`, `val`, ...) it is one; the next folder is the class.
    """
    folders = [PurePosixPath(path).parts[:-1] for path in paths]
    skip = _wrapping_depth(folders)
    inner = [parts[skip:] for parts in folders]
    splits = [normalise_split(parts[0]) if parts else None for parts in inner]
    if not all(splits):
        splits = [None] * len(paths)
    labels = [parts[1:] if split else parts for parts, split in zip(inner, splits, strict=True)]
    return [
        ImageRecord(id=path, path=path, label=label[0] if label else None, split=split)
        for path, label, split in zip(paths, labels, splits, strict=True)
    ]


def _wrapping_depth(folders: Sequence[tuple[str, ...]]) -> int:
    """How many leading folders all paths share while more folders follow in every path."""
    depth = 0
    while all(len(parts) > depth + 1 for parts in folders):
        names = {parts[depth] for parts in folders}
        if len(names) > 1 or normalise_split(next(iter(names))) is not None:
            break
        depth += 1
    return depth
