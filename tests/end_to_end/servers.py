"""Servers of the deployment as plain processes: Postgres and an S3 store, each in a folder."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

POSTGRES = Path("/usr/lib/postgresql")
SECONDS = 60  # only so that a server that hangs ends the test


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(state: Callable[[], bool], what: str) -> None:
    for _ in range(10 * SECONDS):
        if state():
            return
        time.sleep(0.1)
    pytest.fail(f"{what} never came up")


def postgres_programs() -> Path:
    """The folder of initdb and postgres; skips where there is none."""
    found = sorted(POSTGRES.glob("*/bin/initdb"))
    if not found:
        pytest.skip("needs Debian's postgresql, which is not installed")
    if os.geteuid() == 0 and shutil.which("runuser") is None:
        pytest.skip("Postgres does not run as root, and there is no runuser")
    return found[-1].parent


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A server with an empty database; its address for `DNCBM_DATABASE_URL`.

    Postgres refuses to run as root, so root hands the folder to the user `postgres`.
    """
    programs, port = postgres_programs(), free_port()
    folder.mkdir(mode=0o700)
    user: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
        user = ["runuser", "-u", "postgres", "--"]
    data = folder / "data"
    subprocess.run(
        [*user, programs / "initdb", "-D", data, "-U", "dncbm", "-A", "trust", "--no-sync"],
        check=True, capture_output=True, cwd="/",
    )  # fmt: skip
    server = subprocess.Popen(
        [*user, programs / "postgres", "-D", data, "-p", str(port), "-k", folder,
         "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
    )  # fmt: skip
    ready = [programs / "pg_isready", "-h", "127.0.0.1", "-p", str(port), "-d", "postgres"]
    try:
        until(lambda: subprocess.run(ready, capture_output=True).returncode == 0, "Postgres")
        yield f"postgresql://dncbm@127.0.0.1:{port}/postgres"
    finally:
        stop = [*user, programs / "pg_ctl", "-D", data, "-m", "immediate", "stop"]
        subprocess.run(stop, capture_output=True, cwd="/")
        server.wait(SECONDS)
        shutil.rmtree(folder, ignore_errors=True)


def restart_postgres(folder: Path, mode: str) -> None:
    """Stop the server in `folder` and start it again.

    Args:
        folder: as given to `postgres`.
        mode: `fast` ends its sessions, `immediate` leaves it as a crash does.
    """
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    program = postgres_programs() / "pg_ctl"
    subprocess.run(
        [*user, program, "-D", folder / "data", "-m", mode, "-w", "-l", folder / "log", "restart"],
        check=True, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip


@contextmanager
def object_store() -> Iterator[dict[str, str]]:
    """An S3 store; the variables by which fsspec finds it, as in `deploy/docker-compose.yml`."""
    pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-c", "from moto.server import main; main()", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        until(lambda: answers(address) == 200, "the object store")
        yield {
            "FSSPEC_S3_ENDPOINT_URL": address,
            "FSSPEC_S3_KEY": "dncbm",
            "FSSPEC_S3_SECRET": "dncbm",
        }
    finally:
        server.kill()
        server.wait(SECONDS)


def answers(url: str, headers: dict[str, str] | None = None) -> int | None:
    """The status of a GET, None where nobody answers."""
    try:
        request = urllib.request.Request(url, headers=headers or {})
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None
