"""The service is killed (-9) while an upload comes in: nothing is left, and the next one serves."""

import os
import signal
import socket
import sqlite3
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.api.fakes import photo
from tests.api.test_real_model import write_model
from tests.end_to_end.conftest import command, environment
from tests.end_to_end.test_serve import free_port, post_photo, wait_until_ready
from tests.end_to_end.test_shutdown import in_flight, until

SECONDS = 60
_LARGE = 4 << 20
"""More than a form keeps in memory: the rest is spooled to a file."""


class Served:
    """`dncbm serve` with a folder of its own for temporary files."""

    def __init__(self, root: Path) -> None:
        self.models, self.temporary = root / "models", root / "tmp"
        self.temporary.mkdir()
        self.port = 0

    def start(self) -> "subprocess.Popen[bytes]":
        self.port = free_port()
        process = subprocess.Popen(
            command("serve", self.models, "--port", self.port, "--no-worker", "--device", "cpu"),
            env=environment() | {"TMPDIR": str(self.temporary)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until_ready(process, self.address)
        return process

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def files(self) -> set[str]:
        """All there is, but for what SQLite keeps beside its files while they are open."""
        found = (path for path in self.models.parent.rglob("*") if path.is_file())
        return {str(path) for path in found if not path.name.endswith(("-wal", "-shm"))}


@pytest.fixture
def served(tmp_path: Path) -> Served:
    (tmp_path / "models").mkdir()
    write_model(tmp_path / "models" / "tiny")
    return Served(tmp_path)


def half_an_upload(port: int, body: bytes) -> socket.socket:
    """A connection on which half of a form was sent, and read by the service."""
    head = (
        b'--m\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n'
        b"Content-Type: image/png\r\n\r\n"
    )
    link = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
    link.sendall(
        b"POST /v1/models/tiny/predict HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: multipart/form-data; boundary=m\r\n"
        + f"Content-Length: {2 * len(body)}\r\n\r\n".encode()
        + head
        + body
    )
    until(lambda: in_flight(port) == 2)
    return link


def spooled(process: "subprocess.Popen[bytes]", folder: Path) -> bool:
    """Whether the process writes a temporary file there, which has no name."""
    handles = Path(f"/proc/{process.pid}/fd")
    names = (os.readlink(handle) for handle in list(handles.iterdir()) if handle.is_symlink())
    return any(name.startswith(f"{folder}/") for name in names)


def integrity(database: Path) -> str:
    connection = sqlite3.connect(database)
    try:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        connection.close()


def test_killed_during_an_upload(served: Served, tmp_path: Path) -> None:
    before = served.start()
    known = served.files
    link = half_an_upload(served.port, os.urandom(_LARGE))
    if Path("/proc/self/fd").is_dir():
        until(lambda: spooled(before, served.temporary))
    before.send_signal(signal.SIGKILL)
    assert before.wait(SECONDS) == -signal.SIGKILL
    with suppress(ConnectionResetError):
        assert link.recv(1) == b""
    link.close()
    assert served.files == known
    assert list(served.temporary.iterdir()) == []
    for name in ("dncbm.sqlite", "jobs.sqlite"):
        assert integrity(served.models / ".dncbm" / name) == "ok"

    after = served.start()
    try:
        assert served.files == known
        picture = tmp_path / "photo.png"
        picture.write_bytes(photo(1))
        address = f"{served.address}/v1/models/tiny/predict"
        assert len(post_photo(address, picture)["predictions"]) == 1
    finally:
        after.kill()
        after.wait(SECONDS)
