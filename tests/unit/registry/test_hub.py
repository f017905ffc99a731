import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from dncbm.errors import ArtifactError, InvalidInput, Unavailable
from dncbm.registry import hub
from dncbm.registry.hub import pull_model, push_model
from tests.unit.registry.directories import write_model


class Hub:
    """Repositories in a folder, behind the three functions that are used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.private: dict[str, bool] = {}
        self.error: Exception | None = None

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool, **_: Any) -> None:
        if self.error:
            raise self.error
        assert exist_ok
        self.private.setdefault(repo_id, private)
        (self.folder / repo_id).mkdir(parents=True, exist_ok=True)
        (self.folder / repo_id / ".gitattributes").write_text("")

    def upload_folder(
        self, *, repo_id: str, folder_path: str, delete_patterns: list[str], **_: Any
    ) -> Any:
        for pattern in delete_patterns:
            shutil.rmtree(self.folder / repo_id / pattern.removesuffix("/*"), ignore_errors=True)
        shutil.copytree(folder_path, self.folder / repo_id, dirs_exist_ok=True)
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")

    def snapshot_download(
        self, repo_id: str, *, local_dir: str, allow_patterns: list[str], **_: Any
    ) -> str:
        if self.error:
            raise self.error
        shutil.copytree(self.folder / repo_id, local_dir, dirs_exist_ok=True)
        (Path(local_dir) / ".cache").mkdir()
        return local_dir


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path / "hub")
    monkeypatch.setattr(hub, "hub_reachable", lambda: True)
    for name in ("create_repo", "upload_folder", "snapshot_download"):
        monkeypatch.setattr(huggingface_hub, name, getattr(made, name))
    return made


def test_there_and_back(fake: Hub, tmp_path: Path) -> None:
    made = write_model(tmp_path / "shoes", kinds=("report",))
    address = push_model(tmp_path / "shoes", "hf:Ann/Shoes")
    assert address == "https://hub/Ann/Shoes/commit/1"
    assert fake.private == {"Ann/Shoes": True}
    card = (tmp_path / "hub" / "Ann" / "Shoes" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: dncbm")
    assert "dncbm import hf:Ann/Shoes" in card
    assert made["cbm"] in card
    back = pull_model("hf:Ann/Shoes", tmp_path / "there")
    assert back == tmp_path / "there" / "shoes"
    assert (back / "report" / "data.txt").read_text() == "report"
    # a second model replaces every part of the first
    write_model(tmp_path / "other", content="b")
    push_model(tmp_path / "other", "hf:Ann/Shoes", private=False, training=False)
    assert fake.private == {"Ann/Shoes": True}
    other = pull_model("hf:Ann/Shoes", tmp_path / "there", name="Other")
    assert sorted(path.name for path in other.iterdir() if path.is_dir()) == [
        "cbm", "dictionary", "sae",
    ]  # fmt: skip


def test_what_was_changed_on_the_hub_is_refused(fake: Hub, tmp_path: Path) -> None:
    write_model(tmp_path / "shoes")
    push_model(tmp_path / "shoes", "hf:ann/shoes")
    (tmp_path / "hub" / "ann" / "shoes" / "sae" / "data.txt").write_text("evil")
    with pytest.raises(ArtifactError, match="another checksum"):
        pull_model("hf:ann/shoes", tmp_path / "there")


@pytest.mark.parametrize("address", ["hf:", "hf:a", "hf:a/b/c", "hf:../b?", "hf:a b/c", "hf:/b"])
def test_names_of_no_repository(fake: Hub, tmp_path: Path, address: str) -> None:
    with pytest.raises(InvalidInput, match="Give hf:OWNER/NAME"):
        pull_model(address, tmp_path)
    with pytest.raises(InvalidInput, match="Give hf:OWNER/NAME"):
        push_model(tmp_path, address)


def test_refusals_of_the_hub(fake: Hub, tmp_path: Path) -> None:
    write_model(tmp_path / "shoes")
    fake.error = RuntimeError("401 Client Error\nInvalid token")
    with pytest.raises(Unavailable, match=r"Reading hf:ann/x failed: 401 Client Error Invalid"):
        pull_model("hf:ann/x", tmp_path)
    with pytest.raises(Unavailable, match="Writing hf:ann/x failed"):
        push_model(tmp_path / "shoes", "hf:ann/x")


def test_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "hub_reachable", lambda: False)
    write_model(tmp_path / "shoes")
    with pytest.raises(Unavailable, match="cannot be reached"):
        push_model(tmp_path / "shoes", "hf:ann/x")
    with pytest.raises(Unavailable, match="cannot be reached"):
        pull_model("hf:ann/x", tmp_path)
