import errno
import json
import os
from pathlib import Path

import pytest

from dncbm import artifacts
from dncbm.artifacts import create_artifact, load_manifest, require_input, seal, verify_files
from dncbm.errors import ArtifactError, ArtifactMismatch, Unavailable


def make(path: Path, text: str = "data", seed: int = 0) -> Path:
    with create_artifact(path, "sae", config={"seed": seed}, inputs={"encoder": "e1"}) as draft:
        (draft.path / "data.txt").write_text(text)
        draft.metrics["loss"] = 0.5
    return path


def test_an_artifact_reads_back_with_its_recipe(tmp_path: Path) -> None:
    manifest = load_manifest(make(tmp_path / "a"), "sae")
    assert manifest.config == {"seed": 0}
    assert manifest.inputs == {"encoder": "e1"}
    assert manifest.metrics == {"loss": 0.5}
    assert list(manifest.files) == ["data.txt"]
    assert manifest.created.startswith("20")


def test_the_fingerprint_follows_recipe_and_content_not_time_or_place(tmp_path: Path) -> None:
    first, again = (load_manifest(make(tmp_path / name)) for name in ("a", "b"))
    assert first.fingerprint == again.fingerprint
    assert load_manifest(make(tmp_path / "c", seed=1)).fingerprint != first.fingerprint
    assert load_manifest(make(tmp_path / "d", text="other")).fingerprint != first.fingerprint


def test_a_failed_writer_leaves_the_old_artifact_and_no_debris(tmp_path: Path) -> None:
    path = make(tmp_path / "a")
    with (
        pytest.raises(RuntimeError),
        create_artifact(path, "sae", config={}, inputs={}) as draft,
    ):
        (draft.path / "half.txt").write_text("half")
        raise RuntimeError("killed")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (path / "data.txt").read_text() == "data"


def test_an_artifact_is_replaced_whole(tmp_path: Path) -> None:
    path = make(tmp_path / "a")
    make(path, text="new")
    assert (path / "data.txt").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_directory_of_other_things_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_text("precious")
    with pytest.raises(ArtifactError, match="not a dncbm artifact; it will not be overwritten"):
        make(tmp_path / "photos")
    assert (tmp_path / "photos" / "mine.jpg").read_text() == "precious"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format_version=99), "format version 99"),
        (lambda d: d.update(config={"seed": 7}), "changed after it was written"),
        (lambda d: d.update(surprise=1), "is not a dncbm manifest"),
        (lambda d: d.update(kind="cbm"), "is of kind 'cbm', not 'sae'"),
    ],
)
def test_a_changed_manifest_is_refused(tmp_path: Path, change, message: str) -> None:
    path = make(tmp_path / "a")
    data = json.loads((path / "manifest.json").read_text())
    change(data)
    (path / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(ArtifactError, match=message):
        load_manifest(path, "sae")


def test_missing_changed_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "a")
    (path / "data.txt").write_text("tampered")
    with pytest.raises(ArtifactError, match=r"data\.txt was changed"):
        verify_files(path, load_manifest(path))
    (path / "data.txt").unlink()
    with pytest.raises(ArtifactError, match=r"incomplete: data\.txt missing"):
        load_manifest(path)
    with pytest.raises(ArtifactError, match=r"has no manifest\.json"):
        load_manifest(tmp_path)
    (path / "manifest.json").write_text("{not json")
    with pytest.raises(ArtifactError, match="is not valid JSON"):
        load_manifest(path)


def test_a_manifest_cannot_name_files_outside_its_directory(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    path = tmp_path / "a"
    path.mkdir()
    manifest = artifacts.Manifest(
        kind="sae",
        format_version=1,
        dncbm_version="0",
        config={},
        inputs={},
        files={"../secret": "0" * 64},
    )
    data = {field: getattr(manifest, field) for field in manifest.__dataclass_fields__}
    (path / "manifest.json").write_text(json.dumps(data | {"fingerprint": manifest.fingerprint}))
    with pytest.raises(ArtifactError, match="outside the artifact"):
        load_manifest(path)


def test_inputs_are_refused_by_name(tmp_path: Path) -> None:
    manifest = load_manifest(make(tmp_path / "a"))
    require_input(manifest, "encoder", "e1", artifact="a", remedy="")
    with pytest.raises(ArtifactMismatch, match="a was made with encoder e1, but encoder e2 was"):
        require_input(manifest, "encoder", "e2", artifact="a", remedy="Run again.")
    with pytest.raises(ArtifactMismatch, match=r"made with data \(none\)"):
        require_input(manifest, "data", "d", artifact="a", remedy="Run again.")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "No space left while writing"),
        (errno.EROFS, "Cannot write to"),
        (errno.EACCES, "Cannot write to"),
        (errno.ENOTDIR, "a file stands where a directory is needed"),
    ],
)
def test_refusals_of_the_operating_system_are_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, message: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(Unavailable, match=message):
        make(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    with pytest.raises(Unavailable, match=message):
        artifacts.write_bytes(tmp_path / "file", b"x")
    assert list(tmp_path.iterdir()) == []


def test_other_failures_pass_through_unchanged(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="elsewhere"), artifacts.writing(tmp_path):
        raise OSError(errno.EIO, "elsewhere")


def test_sealing_in_place_skips_working_files(tmp_path: Path) -> None:
    (tmp_path / "rows.npy").write_bytes(b"1")
    (tmp_path / ".work").mkdir()
    (tmp_path / ".work" / "state.json").write_text("{}")
    manifest = seal(tmp_path, "embeddings", config={}, inputs={}, metrics={})
    assert list(manifest.files) == ["rows.npy"]
    assert load_manifest(tmp_path, "embeddings").fingerprint == manifest.fingerprint
