"""Debris of killed processes goes, work of living ones stays."""

import errno
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dncbm import files
from dncbm.artifacts import create_artifact
from dncbm.data.concept_world import write_concept_world

_KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from dncbm import artifacts, files

def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def one(text):
    with artifacts.create_artifact(Path(sys.argv[1]), "sae", config={}, inputs={}) as draft:
        (draft.path / "data.txt").write_text(text)
        if sys.argv[2] == "draft" and text == "new":
            kill()

one("old")
files.shutil.rmtree = kill
one("new")
"""


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def _write(path: Path) -> None:
    with create_artifact(path, "sae", config={}, inputs={}) as draft:
        (draft.path / "data.txt").write_text("newer")


@pytest.mark.parametrize(("where", "left"), [("draft", "old"), ("retired", "new")])
def test_the_next_writer_removes_what_a_killed_one_left(
    tmp_path: Path, where: str, left: str
) -> None:
    path = tmp_path / "a"
    command = [sys.executable, "-c", _KILLED_WHILE_WRITING, str(path), where]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert (path / "data.txt").read_text() == left
    assert len(_names(tmp_path)) == 2
    _write(path)
    assert _names(tmp_path) == ["a"]


def test_a_draft_at_work_and_names_that_are_not_ours_stay(tmp_path: Path) -> None:
    (tmp_path / ".a.draftsman").mkdir()
    (tmp_path / ".ab.draft-12345678").mkdir()
    (tmp_path / ".a.draft-00000000").symlink_to(tmp_path / ".a.draftsman")
    with create_artifact(tmp_path / "a", "sae", config={}, inputs={}) as draft:
        _write(tmp_path / "a")
        assert draft.path.is_dir()
        (draft.path / "data.txt").write_text("last")
    assert (tmp_path / "a" / "data.txt").read_text() == "last"
    assert _names(tmp_path) == [".a.draft-00000000", ".a.draftsman", ".ab.draft-12345678", "a"]
    assert _names(tmp_path / ".a.draftsman") == []


def test_a_killed_concept_world_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".w.draft-0123abcd").mkdir()
    write_concept_world(tmp_path / "w", num_images=1, size=16, seed=0)
    assert _names(tmp_path) == ["w"]
    assert not (tmp_path / "w" / files.LOCK).exists()


def test_two_holders_of_one_lock(tmp_path: Path) -> None:
    with files.locked(tmp_path), pytest.raises(BlockingIOError), files.locked(tmp_path):
        pass
    with files.locked(tmp_path):
        pass


def _no_locks(*_: object) -> None:
    raise OSError(errno.ENOSYS, "Function not implemented")


@pytest.mark.parametrize("fcntl", [None, SimpleNamespace(flock=_no_locks, LOCK_EX=1, LOCK_NB=2)])
def test_without_locks_debris_is_left_rather_than_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fcntl: object
) -> None:
    monkeypatch.setattr(files, "fcntl", fcntl)
    (tmp_path / ".a.draft-0123abcd").mkdir()
    _write(tmp_path / "a")
    _write(tmp_path / "a")
    assert _names(tmp_path) == [".a.draft-0123abcd", "a"]
    assert _names(tmp_path / "a") == ["data.txt", "manifest.json"]


def test_a_file_system_that_flushes_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("os.fsync", refuse)
    files.sync(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="Invalid argument"):
        files.sync(tmp_path / "file")


@pytest.mark.skipif(files.fcntl is None, reason="this system has no file locks")
def test_a_lock_on_what_was_removed_meanwhile_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "draft"
    folder.mkdir()
    flock = files._flock

    def swept_first(handle: int) -> bool:
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / files.LOCK).write_text("of another writer")
        return flock(handle)

    monkeypatch.setattr(files, "_flock", swept_first)
    with (
        pytest.raises(FileNotFoundError, match="removed before it was locked"),
        files.locked(folder),
    ):
        pass
