"""Images of Hugging Face and torchvision data sets."""

import hashlib
import inspect
import io
import os
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from dncbm.artifacts import fingerprint
from dncbm.data.network import hub_cache_only, hub_reachable
from dncbm.data.sources import ImageRecord
from dncbm.data.splits import normalise_split
from dncbm.errors import InvalidInput, Unavailable, UnknownName

_LABEL_NAMES = ("label", "labels", "class", "category", "fine_label")
_TORCHVISION_SPLITS = ("train", "trainval", "val", "validation", "test")
_PNG_MODES = ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA")
Part = tuple[str | None, Any]
"""A split's name, as the data set calls it, and its images."""


class DatasetSource:
    """Images of one or more splits of a data set, one after the other."""

    def __init__(
        self,
        name: str,
        parts: Sequence[Part],
        labels: Sequence[Sequence[str | None]],
        read_one: Callable[[Any, int], bytes],
    ) -> None:
        self.records = [
            ImageRecord(id=f"{split or 'all'}/{i:07d}", path=f"{name}/{split or 'all'}/{i}",
                        label=label, split=_usual(split))
            for (split, _), column in zip(parts, labels, strict=True)
            for i, label in enumerate(column)
        ]  # fmt: skip
        if not self.records:
            raise InvalidInput(f"The data set {name} has no rows.")
        self._parts = [part for _, part in parts]
        self._ends = list(accumulate(len(column) for column in labels))
        self._read_one = read_one
        self.fingerprint = self._fingerprint()

    def read(self, index: int) -> bytes:
        """The encoded bytes of one row's image; a damaged row is an `InvalidInput`."""
        part = next(i for i, end in enumerate(self._ends) if index < end)
        row = index - (self._ends[part - 1] if part else 0)
        try:
            return self._read_one(self._parts[part], row)
        except InvalidInput:
            raise
        except Exception as error:
            path = self.records[index].path
            raise InvalidInput(f"The image {path} cannot be read: {error}.") from error

    def _fingerprint(self) -> str:
        """Over all ids, labels and splits and the first and last image."""
        rows = [[record.id, record.label, record.split] for record in self.records]
        return fingerprint([rows, self._evidence(0), self._evidence(len(self.records) - 1)])

    def _evidence(self, index: int) -> str:
        try:
            return hashlib.sha256(self.read(index)).hexdigest()
        except InvalidInput:  # broken images are told when they are embedded
            return ""


def _usual(split: str | None) -> str | None:
    """`train`, `validation`, `test` or None; `trainval` is opened only in place of `train`."""
    return "train" if split == "trainval" else normalise_split(split or "")


def open_hugging_face(name: str) -> DatasetSource:
    """The images of a data set on the hub or of a folder that `save_to_disk` wrote.

    The image column is the first of type Image, the label the first ClassLabel (else a
    column named label, class, ...).

    Raises:
        InvalidInput: no such data set, or no image column.
        Unavailable: the package or the network is missing.
    """
    try:
        import datasets
    except ImportError as error:
        raise Unavailable(
            f"The data set {name!r} needs the package datasets: pip install 'dncbm[huggingface]'."
        ) from error
    loaded = _load_hugging_face(name)
    given = loaded.items() if isinstance(loaded, dict) else [(None, loaded)]
    parts = [(str(split) if split else None, part) for split, part in given]
    features = parts[0][1].features
    images = [key for key, kind in features.items() if isinstance(kind, datasets.Image)]
    if not images:
        columns = ", ".join(features)
        raise InvalidInput(f"The data set {name} has no image column; its columns are {columns}.")
    labels = [_hugging_face_labels(part) for _, part in parts]
    encoded = [
        (
            split,
            part.select_columns([images[0]]).cast_column(images[0], datasets.Image(decode=False)),
        )
        for split, part in parts
    ]
    return DatasetSource(name, encoded, labels, _read_hugging_face)


def _load_hugging_face(name: str) -> Any:
    import datasets

    local = Path(name).expanduser()
    if (local / "dataset_info.json").is_file() or (local / "dataset_dict.json").is_file():
        return datasets.load_from_disk(str(local))
    online = hub_reachable()
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = before or not online
    try:
        with hub_cache_only(not online):
            return datasets.load_dataset(*name.split(","))
    except Exception as error:
        if not online:
            raise Unavailable(
                f"The data set {name!r} is not stored here and there is no network to fetch it. "
                "Connect, or give a folder, zip or manifest of images."
            ) from error
        raise InvalidInput(
            f"The data set {name!r} cannot be loaded: {error}. Check its name on the hub."
        ) from error
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def _hugging_face_labels(part: Any) -> list[str | None]:
    import datasets

    features = part.features
    classes = [key for key, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    if classes:
        names = features[classes[0]].names
        values = part[classes[0]][:]
        return [None if v is None or v < 0 else names[v] for v in values]
    plain = next((key for key in _LABEL_NAMES if key in features), None)
    if plain is None:
        return [None] * len(part)
    return [None if value is None else str(value) for value in part[plain][:]]


def _read_hugging_face(part: Any, row: int) -> bytes:
    value = next(iter(part[row].values()))
    if value is None:
        raise InvalidInput(f"Row {row} has no image.")
    if value["bytes"] is not None:
        return bytes(value["bytes"])
    return Path(value["path"]).read_bytes()


def open_torchvision(name: str) -> DatasetSource:
    """The images of a torchvision classification data set, fetched when not yet stored.

    Files live in `$DNCBM_DATA`, by default `~/.cache/dncbm/torchvision`.

    Raises:
        UnknownName: torchvision has no such class.
        Unavailable: not stored here, and it cannot be fetched.
    """
    import torchvision

    known = [
        n for n in torchvision.datasets.__all__ if inspect.isclass(getattr(torchvision.datasets, n))
    ]
    if name not in known:
        raise UnknownName("torchvision data set", name, known)
    cls = getattr(torchvision.datasets, name)
    parts: list[Part] = []
    for split, options in _variants(cls):
        # `trainval` is `train` and `val` once more.
        if _usual(split) not in [_usual(other) for other, _ in parts]:
            part = _make_torchvision(name, cls, options)
            parts += [] if part is None else [(split, part)]
    labels = [_torchvision_labels(name, part) for _, part in parts]
    return DatasetSource(name, parts, labels, _read_torchvision)


def _variants(cls: Any) -> list[tuple[str | None, dict[str, Any]]]:
    """The splits that a torchvision class offers, as constructor arguments."""
    options = inspect.signature(cls.__init__).parameters
    if "train" in options:
        return [("train", {"train": True}), ("test", {"train": False})]
    if "split" in options:
        return [(split, {"split": split}) for split in _TORCHVISION_SPLITS]
    return [(None, {})]


def _make_torchvision(name: str, cls: Any, options: dict[str, Any]) -> Any:
    """The data set, or None where it has no such split."""
    parameters = inspect.signature(cls.__init__).parameters
    root = os.environ.get("DNCBM_DATA", str(Path.home() / ".cache" / "dncbm" / "torchvision"))
    if "root" in parameters:
        options = options | {"root": root}
    try:
        return _stored_or_fetched(cls, options, fetch="download" in parameters)
    except ValueError:
        return None
    except TypeError as error:
        raise InvalidInput(
            f"torchvision's {name} needs options of its own: {error}. Store it and give its folder."
        ) from error
    except (OSError, RuntimeError) as error:
        raise Unavailable(
            f"The data set torchvision:{name} is not in {root} and cannot be fetched: {error}. "
            "Connect to a network, or give a folder, zip or manifest of images."
        ) from error


def _stored_or_fetched(cls: Any, options: dict[str, Any], *, fetch: bool) -> Any:
    try:
        return cls(**options)
    except (RuntimeError, FileNotFoundError):
        if not fetch:
            raise
        Path(options["root"]).mkdir(parents=True, exist_ok=True)
        return cls(**options, download=True)


def _torchvision_labels(name: str, part: Any) -> list[str | None]:
    found = (getattr(part, key, None) for key in ("targets", "_labels", "labels"))
    values = next((list(v) for v in found if v is not None), None)
    if values is None or len(values) != len(part):
        values = [part[i][1] for i in range(len(part))]
    numbers = [_class_number(name, value) for value in values]
    classes = getattr(part, "classes", None)
    return [classes[n] if classes and n < len(classes) else str(n) for n in numbers]


def _class_number(name: str, value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInput(
            f"torchvision's {name} has targets of type {type(value).__name__} ({error}), but a "
            "classifier needs one class number per image. Store its images and give their folder, "
            "or a manifest with a label of your choice."
        ) from error


def _read_torchvision(part: Any, row: int) -> bytes:
    image = part[row][0]
    data = io.BytesIO()
    (image if image.mode in _PNG_MODES else image.convert("RGB")).save(data, format="PNG")
    return data.getvalue()
