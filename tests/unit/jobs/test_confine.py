"""What a job that came over the network may read."""

from pathlib import Path
from typing import Any

import pytest

from dncbm.errors import InvalidInput
from dncbm.jobs.confine import confined
from dncbm.jobs.places import Places


@pytest.fixture
def places(tmp_path: Path) -> Places:
    data = tmp_path / "data"
    (data / "photos" / "cat").mkdir(parents=True)
    (data / "words.txt").write_text("cat\n")
    (data / "weights.pt").write_text("")
    (tmp_path / "models" / "student").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "weights.pt").write_text("")
    (data / "link").symlink_to(tmp_path / "secret")
    (data / "inner").symlink_to(data / "photos")
    return Places.of(tmp_path / "models", data=data)


def test_paths_of_the_data_folder_become_absolute(places: Places) -> None:
    data = places.data
    found = confined(
        {"data": "photos", "vocabulary": str(data / "words.txt"), "encoder": "mini", "seed": 3},
        places,
    )
    assert found == {
        "data": f"{data}/photos",
        "vocabulary": f"{data}/words.txt",
        "encoder": "mini",
        "seed": 3,
    }
    assert confined({"data": "inner"}, places)["data"] == f"{data}/photos"
    assert confined({"dataset": "hf:photos"}, places)["dataset"] == f"hf:{data}/photos"
    for text in ("ViT-B-32:weights.pt", "ViT-B-32:openai@weights.pt"):
        made = text.replace("weights.pt", f"{data}/weights.pt")
        assert confined({"encoder": text}, places)["encoder"] == made
    student = f"bcos:{places.models}/student"
    assert confined({"encoder": "bcos:student"}, places)["encoder"] == student
    assert confined({"model": "scratch:resnet18"}, places)["model"] == "scratch:resnet18"


@pytest.mark.parametrize(
    "config",
    [
        {"data": "../secret"},
        {"data": "photos/../../secret"},
        {"data": "/etc"},
        {"data": "link"},
        {"data": "link/weights.pt"},
        {"data": "~/photos"},
        {"data": "nothing"},
        {"data": "http://somewhere/photos.zip"},
        {"data": "s3://bucket/photos"},
        {"data": "file:///etc/passwd"},
        {"data": "hf:beans"},
        {"data": "a\0b"},
        {"data": "x" * 5000},
        {"data": 5},
        {"vocabulary": "/etc/passwd"},
        {"vocabulary": "../secret/words.txt"},
        {"dataset": "hf:beans"},
        {"dataset": "torchvision:CIFAR10"},
        {"dataset": "hf:link"},
        {"dataset": "hf:../secret"},
        {"dataset": "/etc"},
        {"encoder": "ViT-B-32:openai"},
        {"encoder": "hf-hub:org/name"},
        {"encoder": "org/name"},
        {"encoder": "ViT-B-32:/etc/passwd"},
        {"encoder": "ViT-B-32:../secret/weights.pt"},
        {"encoder": "ViT-B-32:openai@link/weights.pt"},
        {"encoder": "local-dir:/etc"},
        {"encoder": "bcos:../secret"},
        {"encoder": "x" * 5000},
        {"model": "torchvision:resnet18"},
        {"teacher": "ViT-B-32:openai"},
        {"naming": {"proposer": "http://169.254.169.254/"}},
        {"workers": 1000},
        {"batch_size": 10**9},
        {"world_images": 10**9},
    ],
)
def test_whatever_leads_elsewhere_is_refused(places: Places, config: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        confined(config, places)


def test_without_a_data_folder_nothing_is_read(tmp_path: Path) -> None:
    places = Places.of(tmp_path)
    with pytest.raises(InvalidInput, match="DNCBM_DATA_DIR"):
        confined({"data": "photos"}, places)
    assert confined({"seed": 1}, places) == {"seed": 1}


def test_where_the_network_is_allowed_names_are_but_paths_outside_are_not(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    places = Places.of(tmp_path, data=tmp_path / "data", network=True)
    asked = {"dataset": "hf:beans", "encoder": "ViT-B-32:openai"}
    assert confined(asked, places) == asked
    for config in ({"dataset": "/etc"}, {"encoder": "ViT-B-32:/etc/passwd"}, {"data": "/etc"}):
        with pytest.raises(InvalidInput):
            confined(config, places)
