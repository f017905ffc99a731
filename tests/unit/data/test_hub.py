"""Hugging Face and torchvision data sets, all made here and without a network."""

import pickle
from pathlib import Path

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
