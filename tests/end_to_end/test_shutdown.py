"""SIGTERM to a real process: what runs is finished, what is new is turned away."""

import http.client
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.api.fakes import make_model_directory, photo
from tests.end_to_end.conftest import environment
from tests.end_to_end.test_serve import free_port

SECONDS = 60  # only so that a service that hangs ends the test

SERVICE = """
import sys, threading
from pathlib import Path
from api.run import make_server
from api.main import create_app
from api.registry import Registry, serve_model
from tests.api.fakes import FakePredictor
path, port, seconds, stuck = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
predictor = FakePredictor()
if stuck == "stuck":
    predictor.predict = lambda *_, **__: threading.Event().wait(600)
app = create_app(Registry([serve_model("clothing", path, predictor)]))
make_server(app, "127.0.0.1", port, seconds).run()
"""

Start = Callable[..., tuple[subprocess.Popen[bytes], int]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def make(seconds: float, stuck: str = "no") -> tuple[subprocess.Popen[bytes], int]:
        path, port = make_model_directory(tmp_path / "clothing"), free_port()
        arguments = [str(path), str(port), str(seconds), stuck]
        process = subprocess.Popen(
            [sys.executable, "-c", SERVICE, *arguments],
            env=environment(),
            stderr=subprocess.DEVNULL,
        )
        started.append(process)
        until(lambda: ask(port, "/healthz") == 200)
        return process, port

    yield make
    for process in started:
        process.kill()
        process.wait()


def ask(port: int, path: str) -> int | None:
    """The status of a GET, None where nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()


def until(state: Callable[[], bool]) -> None:
    for _ in range(20 * SECONDS):
        if state():
            return
        time.sleep(0.05)
    pytest.fail("the service never came to the state that was waited for")


def send_half(port: int) -> tuple[socket.socket, bytes]:
    """A request of which half the body is sent; the other half is returned."""
    head = (
        b'--m\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n'
        b"Content-Type: image/png\r\n\r\n"
    )
    body = head + photo(1) + b"\r\n--m--\r\n"
    link = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
    link.sendall(
        b"POST /v1/models/clothing/predict HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: multipart/form-data; boundary=m\r\n"
        + f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body[:200]
    )
    until(lambda: in_flight(port) == 2)
    return link, body[200:]


def in_flight(port: int) -> int:
    """Requests that run, with the one that asks."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    (line,) = [item for item in text.splitlines() if item.startswith("dncbm_requests_in_flight ")]
    return int(float(line.split()[1]))


def test_running_requests_are_finished_and_new_ones_turned_away(start: Start) -> None:
    process, port = start(SECONDS)
    link, rest = send_half(port)
    process.send_signal(signal.SIGTERM)
    until(lambda: ask(port, "/v1/models") == 503)
    assert ask(port, "/readyz") == 503
    assert ask(port, "/healthz") == 200
    assert process.poll() is None
    link.sendall(rest)
    answer = link.recv(1 << 20)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"predictions"' in answer or b'"predictions"' in link.recv(1 << 20)
    link.close()
    assert process.wait(SECONDS) in (0, -signal.SIGTERM)
    assert ask(port, "/healthz") is None


def test_an_idle_service_ends_at_once(start: Start) -> None:
    process, _ = start(10 * SECONDS)
    process.send_signal(signal.SIGTERM)
    assert process.wait(SECONDS) in (0, -signal.SIGTERM)


def test_an_upload_that_never_ends_does_not_hold_it(start: Start) -> None:
    process, port = start(0.2)
    link, _ = send_half(port)
    process.send_signal(signal.SIGTERM)
    process.wait(SECONDS)
    link.close()


def test_a_thread_that_never_ends_does_not_hold_it(start: Start) -> None:
    process, port = start(0.2, "stuck")
    link, rest = send_half(port)
    link.sendall(rest)
    process.send_signal(signal.SIGTERM)
    assert process.wait(SECONDS) != 0
    link.close()
