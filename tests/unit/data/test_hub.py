"""Hugging Face and torchvision data sets, all made here and without a network."""

import pickle
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from dncbm.data import hub, network
from dncbm.data.images import decode_image
from dncbm.data.sources import open_source
from dncbm.errors import InvalidInput, Unavailable, UnknownName
from tests.unit.data.pictures import encode, noise

datasets = pytest.importorskip("datasets")


def _table(count: int, *, labels: bool) -> "datasets.Dataset":
    features = {"photo": datasets.Image()}
    columns: dict[str, list[object]] = {
        "photo": [{"bytes": encode(noise(i)), "path": None} for i in range(count)]
    }
    if labels:
        features["kind"] = datasets.ClassLabel(names=["cat", "dog"])
        columns["kind"] = [-1 if i == 2 else i % 2 for i in range(count)]
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def test_a_saved_data_set_with_splits_and_classes(tmp_path: Path) -> None:
    saved = datasets.DatasetDict(
        {"train": _table(4, labels=True), "validation": _table(2, labels=True)}
    )
    saved.save_to_disk(str(tmp_path / "d"))
    source = open_source(f"hf:{tmp_path / 'd'}")
    assert [(r.split, r.label) for r in source.records] == [
        ("train", "cat"), ("train", "dog"), ("train", None), ("train", "dog"),
        ("validation", "cat"), ("validation", "dog"),
    ]  # fmt: skip
    copy = pickle.loads(pickle.dumps(source))
    assert source.read(5) == copy.read(5) == encode(noise(1))


def test_splits_of_one_meaning_and_of_none_keep_ids_apart(tmp_path: Path) -> None:
    names = ["validation", "valid", "unlabeled", "extra"]
    saved = datasets.DatasetDict({name: _table(1, labels=True) for name in names})
    saved.save_to_disk(str(tmp_path / "d"))
    records = open_source(f"hf:{tmp_path / 'd'}").records
    assert [r.split for r in records] == ["validation", "validation", None, None]
    assert [r.id for r in records] == [f"{name}/0000000" for name in names]


def test_a_data_set_without_labels_opens_by_its_bare_name_too(tmp_path: Path) -> None:
    _table(2, labels=False).save_to_disk(str(tmp_path / "d"))
    source = open_source(str(tmp_path / "d"), dataset=True)
    assert [(r.split, r.label) for r in source.records] == [(None, None)] * 2


def test_plain_label_columns_are_found_and_missing_images_told(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    images = [{"bytes": encode(noise(i)), "path": None} for i in range(2)]
    rows = {"image": [None, images[0], images[1]], "label": ["a", "b", None]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "d"))
    source = open_source(f"hf:{tmp_path / 'd'}")
    assert [r.label for r in source.records] == ["a", "b", None]
    with pytest.raises(InvalidInput, match="Row 0 has no image"):
        source.read(0)


def test_a_data_set_without_images_is_refused(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(str(tmp_path / "d"))
    with pytest.raises(InvalidInput, match="no image column; its columns are text"):
        open_source(f"hf:{tmp_path / 'd'}")


def test_without_network_a_hub_name_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "hub_reachable", lambda: False)
    with pytest.raises(Unavailable, match="there is no network to fetch it"):
        open_source("hf:nobody/nothing-here")


def test_torchvision_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DNCBM_DATA", str(tmp_path))
    monkeypatch.setattr(
        "torchvision.datasets.FakeData.__init__.__defaults__", (6, (3, 8, 8), 3, None, None, 0)
    )
    source = open_source("torchvision:FakeData")
    assert len(source.records) == 6
    assert {r.label for r in source.records} <= {"0", "1", "2"}
    assert np.asarray(decode_image(source.read(0))).shape == (8, 8, 3)


class _Pets(list):
    """A torchvision data set of pictures and targets, as `split` and `target` ask for them."""

    opened: ClassVar[list[str]] = []
    splits: ClassVar[tuple[str, ...]] = ()
    target: ClassVar[object] = 0
    mode: ClassVar[str] = "RGB"

    def __init__(self, root: str, split: str = "train") -> None:
        if split not in self.splits:
            raise ValueError(f"unknown split {split}")
        self.opened.append(split)
        super().__init__([(noise(len(self.opened)).convert(self.mode), self.target)])


@pytest.fixture
def pets(monkeypatch: pytest.MonkeyPatch) -> type[_Pets]:
    monkeypatch.setattr("torchvision.datasets.OxfordIIITPet", _Pets)
    monkeypatch.setattr(_Pets, "opened", [])
    monkeypatch.setattr(_Pets, "splits", ("train", "val", "trainval", "test"))
    return _Pets


@pytest.mark.parametrize(
    ("offered", "opened", "named"),
    [
        (("train", "trainval", "val", "test"), ["train", "val", "test"],
         ["train", "validation", "test"]),
        (("trainval", "test"), ["trainval", "test"], ["train", "test"]),
    ],
)  # fmt: skip
def test_trainval_is_opened_only_in_place_of_train(
    pets: type[_Pets],
    monkeypatch: pytest.MonkeyPatch,
    offered: tuple[str, ...],
    opened: list[str],
    named: list[str],
) -> None:
    monkeypatch.setattr(pets, "splits", offered)
    source = open_source("torchvision:OxfordIIITPet")
    assert pets.opened == opened
    assert [r.split for r in source.records] == named
    assert [r.id for r in source.records] == [f"{split}/0000000" for split in opened]


@pytest.mark.parametrize("target", [np.zeros(40), {"annotation": {}}, noise(1)])
def test_targets_that_are_no_class_numbers_are_refused(
    pets: type[_Pets], monkeypatch: pytest.MonkeyPatch, target: object
) -> None:
    monkeypatch.setattr(pets, "target", target)
    with pytest.raises(InvalidInput, match="OxfordIIITPet has targets of type .* one class number"):
        open_source("torchvision:OxfordIIITPet")


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "L"])
def test_pictures_that_png_does_not_know_are_converted(
    pets: type[_Pets], monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr(pets, "mode", mode)
    assert decode_image(open_source("torchvision:OxfordIIITPet").read(0)).mode == "RGB"


def test_an_unknown_torchvision_name_gets_its_neighbours() -> None:
    with pytest.raises(UnknownName, match="Nearest known names: .*CIFAR10"):
        open_source("torchvision:CIFAR11")


def test_torchvision_without_network_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no route")

    monkeypatch.setenv("DNCBM_DATA", str(tmp_path))
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", refuse)
    with pytest.raises(Unavailable, match="torchvision:CIFAR10 is not in .* cannot be fetched"):
        open_source("torchvision:CIFAR10")


def test_reachability_is_asked_with_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def refuse(address: tuple[str, int], timeout: float) -> None:
        seen.append(timeout)
        raise OSError("no route")

    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("socket.create_connection", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert not network.hub_reachable()
    assert seen == [3.0]
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:1")
    assert network.hub_reachable()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert not network.hub_reachable()
