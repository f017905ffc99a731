"""What a path inside a folder or an archive says: is it an image, which class, which split."""

import logging
from collections.abc import Sequence
from pathlib import PurePosixPath

from dncbm.data.images import IMAGE_EXTENSIONS, ImageLimits
from dncbm.data.sources import ImageRecord
from dncbm.data.splits import normalise_split

_log = logging.getLogger(__name__)

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
    everywhere (`train`, `val`, ...) it is one; the next folder is the class. Pictures beside
    these folders have no label, and do not count for what the folders mean.
    """
    folders = [PurePosixPath(path).parts[:-1] for path in paths]
    skip = _wrapping_depth([parts for parts in folders if parts])
    inner = [parts[skip:] for parts in folders]
    splits = [normalise_split(parts[0]) if parts else None for parts in inner]
    strays = [path for path, parts in zip(paths, inner, strict=True) if not parts]
    if any(split is None for split, parts in zip(splits, inner, strict=True) if parts):
        splits = [None] * len(paths)
    elif len(strays) < len(paths):
        # Without a label there is nothing to test: a picture without a split is for training.
        splits = [split or "train" for split in splits]
    labels = [parts[1:] if split else parts for parts, split in zip(inner, splits, strict=True)]
    if strays and len(strays) < len(paths):
        _log.warning(
            "%d of %d pictures lie beside the folders and have no label, the first is %s.",
            len(strays), len(paths), strays[0],
        )  # fmt: skip
    return [
        ImageRecord(id=path, path=path, label=label[0] if label else None, split=split)
        for path, label, split in zip(paths, labels, splits, strict=True)
    ]


def _wrapping_depth(folders: Sequence[tuple[str, ...]]) -> int:
    """How many leading folders all paths share while more folders follow.

    More must follow in every path, unless what follows is splits: pictures beside `train` and
    `test` do not make a class of the folder that holds both.
    """
    depth = 0
    while True:
        names = {parts[depth] for parts in folders}
        deeper = [parts[depth + 1] for parts in folders if len(parts) > depth + 1]
        if len(names) != 1 or normalise_split(next(iter(names))) is not None:
            return depth
        if len(deeper) < len(folders):
            beside_splits = bool(deeper) and all(map(normalise_split, deeper))
            return depth + 1 if beside_splits else depth
        depth += 1
