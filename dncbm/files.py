"""Files and directories that appear all at once, and what killed processes leave behind.

Work happens under a hidden name beside the target and is renamed when complete. A directory
under construction is locked by its process, and the system releases the lock when that process
dies: so the next writer of the same target can tell debris from work, and removes the debris.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
_DRAFT, _OLD = "draft", "old"


def hidden(target: Path, role: str) -> Path:
    """A name beside `target` that nothing has yet, for a file or directory of a short life."""
    return target.parent / f".{target.name}.{role}-{secrets.token_hex(4)}"


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of a directory, which may be renamed meanwhile; False where there are no locks.

    Windows renames no directory that holds an open file, and some network file systems know no
    locks. Work goes on there, unprotected from a second process, and debris is left alone.

    Raises:
        BlockingIOError: another process, or thread, holds it.
        FileNotFoundError: it was removed meanwhile.
    """
    if fcntl is None:
        yield False
        return
    with (folder / LOCK).open("w") as lock:
        held = _flock(lock.fileno())
        if held and not os.path.samestat(os.fstat(lock.fileno()), (folder / LOCK).stat()):
            raise FileNotFoundError(errno.ENOENT, "removed before it was locked", str(folder))
        yield held


def _flock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


@contextmanager
def draft_of(target: Path) -> Iterator[Path]:
    """A new, locked directory beside `target` for `publish`; removed if it is not published.

    What killed processes left of earlier drafts goes first, since it may fill the disk.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep(target, _DRAFT)
    with ExitStack() as stack:
        draft = _new_draft(target, stack)
        yield draft


def _new_draft(target: Path, stack: ExitStack) -> Path:
    while True:
        draft = hidden(target, _DRAFT)
        draft.mkdir()
        stack.callback(shutil.rmtree, draft, ignore_errors=True)
        try:
            stack.enter_context(locked(draft))
        except (BlockingIOError, FileNotFoundError):
            continue  # another writer swept it before it was locked
        return draft


def publish(draft: Path, target: Path) -> None:
    """Give a finished directory its name; if that fails, what stood there is put back."""
    retired = hidden(target, _OLD)
    if target.exists():
        os.replace(target, retired)
    try:
        os.replace(draft, target)
    except BaseException:
        if retired.exists() and not target.exists():
            os.replace(retired, target)
        raise
    (target / LOCK).unlink(missing_ok=True)
    sync(target.parent)
    shutil.rmtree(retired, ignore_errors=True)
    sweep(target, _OLD)


def sweep(target: Path, role: str) -> None:
    """Remove the hidden directories of `target` that no living process holds."""
    for folder in target.parent.iterdir():
        if folder.is_symlink() or not folder.name.startswith(f".{target.name}.{role}-"):
            continue
        try:
            with locked(folder) as held:
                if held:
                    shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue


def sync(path: Path) -> None:
    """Flush `path` (a file, or a directory's list of names) to the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no directory, and needs no such call
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems flush files alone.
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(handle)


def sync_all(paths: Iterable[Path]) -> None:
    """Flush many files; together, since one by one each waits for the disk (5 ms a file)."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(sync, paths))
