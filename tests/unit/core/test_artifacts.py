import errno
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

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


def test_an_artifact_that_cannot_be_replaced_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path / "a")
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if target == path and (Path(source) / "data.txt").read_text() == "new":
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(Unavailable, match="No space left"):
        make(path, text="new")
    assert (load_manifest(path).metrics, (path / "data.txt").read_text()) == ({"loss": 0.5}, "data")
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
        format_version=artifacts.FORMAT_VERSION,
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


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_others_may_read_what_the_umask_lets_them(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        with create_artifact(tmp_path / "a", "sae", config={}, inputs={}) as draft:
            save_file({"w": torch.zeros(2)}, draft.path / "w.safetensors")  # writes with 0600
            (draft.path / "deep").mkdir(mode=0o700)
            artifacts.write_bytes(draft.path / "deep" / "notes.txt", b"x")
        artifacts.write_bytes(tmp_path / "alone.json", b"{}")
    finally:
        os.umask(before)
    files = [tmp_path / "alone.json", *(f for f in (tmp_path / "a").rglob("*") if f.is_file())]
    assert len(files) == 4
    assert {file.stat().st_mode & 0o777 for file in files} == {mode}
    assert (tmp_path / "a" / "deep").stat().st_mode & 0o777 == 0o777 & ~umask


def test_a_file_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path / "a")
    manifest = load_manifest(path)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ArtifactError, match=r"data\.txt cannot be read: Permission denied"):
        verify_files(path, manifest)
    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(ArtifactError, match=r"manifest\.json cannot be read: Permission denied"):
        load_manifest(path)
    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(ArtifactError, match="a cannot be read: Permission denied. Its owner"):
        load_manifest(path)


def test_what_came_while_the_artifact_was_made_is_not_overwritten(tmp_path: Path) -> None:
    with (
        pytest.raises(ArtifactError, match="will not be overwritten"),
        create_artifact(tmp_path / "a", "sae", config={}, inputs={}),
    ):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "thesis.txt").write_text("x")
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "thesis.txt"]


def test_an_artifact_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(handle: int) -> None:
        events.append(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    def noted_replace(source: Path, target: Path) -> None:
        events.append(f"named {target}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    path = make(tmp_path / "a")
    before, after = events[: events.index(f"named {path}")], events[events.index(f"named {path}") :]
    assert any(name.endswith("/data.txt") for name in before)
    assert str(tmp_path) in after


def test_sealing_in_place_skips_working_files(tmp_path: Path) -> None:
    (tmp_path / "rows.npy").write_bytes(b"1")
    (tmp_path / ".work").mkdir()
    (tmp_path / ".work" / "state.json").write_text("{}")
    manifest = seal(tmp_path, "embeddings", config={}, inputs={}, metrics={})
    assert list(manifest.files) == ["rows.npy"]
    assert load_manifest(tmp_path, "embeddings").fingerprint == manifest.fingerprint
