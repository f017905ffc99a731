"""`dncbm serve` as a process of its own, asked over HTTP."""

import json
import signal
import socket
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from dncbm.naming.dictionary import load_dictionary
from tests.end_to_end.conftest import command, environment

SECONDS = 120  # only so that a service that hangs ends the test


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def address(finished) -> Iterator[str]:
    out, _ = finished
    port = free_port()
    process = subprocess.Popen(
        command("serve", out, "--port", port), env=environment(), stdout=subprocess.DEVNULL
    )
    base = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(process, base)
        yield base
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(SECONDS)
        finally:
            process.kill()


def wait_until_ready(process: subprocess.Popen, base: str) -> None:
    for _ in range(10 * SECONDS):
        assert process.poll() is None, "the service ended before it was ready"
        try:
            urllib.request.urlopen(f"{base}/readyz", timeout=SECONDS).close()
            return
        except OSError:
            time.sleep(0.1)
    pytest.fail("the service never became ready")


def post_photo(url: str, photo: Path) -> dict:
    """What `curl -F image=@photo URL` sends."""
    mark = uuid.uuid4().hex
    head = f'Content-Disposition: form-data; name="image"; filename="{photo.name}"'
    body = b"\r\n".join(
        [f"--{mark}".encode(), head.encode(), b"", photo.read_bytes(), f"--{mark}--".encode(), b""]
    )
    request = urllib.request.Request(
        url, body, {"Content-Type": f"multipart/form-data; boundary={mark}"}
    )
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        return json.load(answer)


def test_a_posted_photo_is_answered_with_a_sum_of_named_concepts(
    address: str, finished, photos: Path, dncbm
) -> None:
    out, _ = finished
    photo = next(photos.glob("test/*/*"))
    (prediction,) = post_photo(f"{address}/v1/models/world/predict", photo)["predictions"]
    parts = prediction["contributions"]
    total = prediction["bias"] + sum(part["contribution"] for part in parts)
    assert total + prediction["remainder"] == prediction["logit"]
    assert {"concept", "name", "code", "weight", "contribution"} <= set(parts[0])
    (same,) = dncbm("predict", out, photo, "--json").json["predictions"]
    assert same["class"] == prediction["class"]
    assert same["logit"] == pytest.approx(prediction["logit"], abs=1e-6)


def test_a_text_finds_the_concepts_that_bear_it(address: str, finished) -> None:
    out, _ = finished
    named = [name for name in load_dictionary(out / "dictionary").names if name.status == "named"]
    for name in named[:3]:
        word = name.name.partition(" (")[0]  # what stands in brackets tells name-mates apart
        url = f"{address}/v1/dictionaries/world/search?" + urlencode({"text": word})
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:
            matches = json.load(answer)["matches"]
        scores = {match["concept"]: match["score"] for match in matches}
        assert scores[name.concept] == pytest.approx(name.score, abs=1e-4)


def test_the_report_is_served(address: str) -> None:
    with urllib.request.urlopen(f"{address}/report/world", timeout=SECONDS) as answer:
        assert b"Concept bottleneck for world" in answer.read()
