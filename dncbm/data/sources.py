"""Where images come from: one protocol, and the reader that fits a location."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from dncbm.errors import InvalidInput

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image of a source, not yet read."""

    id: str
    """Unique within the source and independent of the machine."""
    path: str
    """Where it lies, as a person would look it up within the source."""
    label: str | None
    """Class name, None where unknown."""
    split: str | None
    """`train`, `validation` or `test`, None where the source does not say."""


@runtime_checkable
class ImageSource(Protocol):
    """A fixed list of images whose encoded bytes can be read in any order.

    Sources can be pickled: worker processes read from copies.
    """

    @property
    def records(self) -> Sequence[ImageRecord]:
        """All images, in an order that depends on the data alone."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the records and evidence of their content."""
        ...

    def read(self, index: int) -> bytes:
        """The encoded bytes of one image.

        Raises:
            InvalidInput: this image cannot be read; others may be.
        """
        ...


def groups_of(source: ImageSource) -> Sequence[str | None] | None:
    """The group of each image, None where the source has no groups."""
    groups: Sequence[str | None] | None = getattr(source, "groups", None)
    return groups


def open_source(location: str, *, dataset: bool = False) -> ImageSource:
    """The images at `location`.

    A folder (one folder per class, optionally below train/validation/test, or flat), a CSV,
    TSV or Parquet manifest (columns path[, label][, split][, id][, group]) or Waterbirds'
    `metadata.csv` (or the folder with it), a zip, a tar (WebDataset)
    or a folder of tars and no images; a data set `hf:NAME` (also a folder saved by the datasets
    library) or `torchvision:CLASS`. With `dataset=True` a bare name is a Hugging Face data set.

    Raises:
        InvalidInput: nothing there, or nothing that can be read as images.
        Unavailable: a data set that needs a network, where there is none.
    """
    scheme, _, name = location.partition(":")
    if scheme in ("hf", "torchvision") and name:
        return _open_dataset(scheme, name)
    if dataset:
        return _open_dataset("hf", location)
    path = Path(location).expanduser()
    if not path.exists():
        raise InvalidInput(
            f"{location} does not exist. Give a folder, a zip, a tar or a CSV/Parquet manifest "
            "of images, or a data set as hf:NAME or torchvision:NAME."
        )
    return _open_folder(path) if path.is_dir() else _open_file(path)


def _open_folder(path: Path) -> ImageSource:
    from dncbm.data.archives import open_tar
    from dncbm.data.folder import holds_images, open_folder
    from dncbm.data.waterbirds import METADATA, is_waterbirds, open_waterbirds

    if is_waterbirds(path / METADATA):
        return open_waterbirds(path / METADATA)
    shards = sorted(path.glob("*.tar"))
    if shards and not holds_images(path):
        return open_tar(*shards)
    if shards:
        _log.warning(
            "%s holds images and tar files: the images are read, %s is not.", path, shards[0].name
        )
    return open_folder(path)


def _open_file(path: Path) -> ImageSource:
    from dncbm.data.archives import open_tar, open_zip
    from dncbm.data.tables import open_manifest

    readers: dict[str, Callable[[Path], ImageSource]] = {
        ".zip": open_zip, ".tar": open_tar, ".gz": open_tar, ".tgz": open_tar,
        ".csv": open_manifest, ".tsv": open_manifest, ".parquet": open_manifest,
    }  # fmt: skip
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InvalidInput(
            f"{path} is a file of unknown kind {path.suffix!r}. Give a folder, or a file ending "
            "in .zip, .tar, .csv, .tsv or .parquet."
        )
    return reader(path)


def _open_dataset(scheme: str, name: str) -> ImageSource:
    from dncbm.data.hub import open_hugging_face, open_torchvision

    return open_hugging_face(name) if scheme == "hf" else open_torchvision(name)
