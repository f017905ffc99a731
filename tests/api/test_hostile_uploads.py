"""Mutated uploads: each is a picture or the sender's fault, never ours, and nothing stays behind.

`DNCBM_FUZZ_UPLOADS=10000` sends that many.
"""

import ctypes
import gc
import io
import itertools
import logging
import os
import re
import struct
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from tests.api.conftest import build, client_for
from tests.api.fakes import FakePredictor
from tests.api.hostile import FORM, Hostile, as_form, hostile_uploads, valid_pictures

# Starlette leaves the file of a part that never ends to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:Unclosed file:ResourceWarning")

UPLOADS = int(os.environ.get("DNCBM_FUZZ_UPLOADS", "400"))
URL = "/v1/models/clothing/predict"
_WARM_UP = 150
_STALL_SECONDS = 20
_MOST_GROWTH_MIB = 48


def resident_mib() -> float:
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        return int(re.findall(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[0]) / 1024
    except OSError:  # not Linux
        return 0.0


@pytest.fixture
def send(model_dir, caplog):
    caplog.set_level(logging.CRITICAL)  # thousands of warnings would be the memory that grows
    app = build(model_dir, FakePredictor())
    with client_for(app) as client, ThreadPoolExecutor(1) as watched:

        def send(upload: Hostile):
            headers = {"content-type": upload.kind}
            # a stall ends the test here rather than never
            made = watched.submit(client.post, URL, content=upload.body, headers=headers)
            return made.result(_STALL_SECONDS)

        yield send
    assert app.state.service.limiter.admitted == 0
    assert app.state.service.uploads.reading == 0


def check(upload: Hostile, response) -> None:
    assert response.status_code == 200 or 400 <= response.status_code < 500, (
        f"{upload.what}: {response.status_code} {response.text[:300]}"
    )
    body = response.json()
    if response.status_code == 200:
        assert body["predictions"], upload.what
        return
    assert response.headers["content-type"] == "application/problem+json", upload.what
    assert body["status"] == response.status_code, upload.what
    assert body["detail"], upload.what
    assert "Traceback" not in body["detail"], upload.what
    assert len(response.content) < 5000, upload.what


def test_every_answer_is_a_prediction_or_a_problem(send) -> None:
    statuses: Counter[int] = Counter()
    before = 0.0
    for number, upload in enumerate(itertools.islice(hostile_uploads(1), UPLOADS)):
        if number == _WARM_UP:
            before = resident_mib()
        response = send(upload)
        check(upload, response)
        statuses[response.status_code] += 1
    after = resident_mib()
    logging.getLogger(__name__).critical(  # shown by --log-cli-level=CRITICAL
        "%d uploads: %s; %.0f MiB, then %.0f MiB", UPLOADS, dict(statuses), before, after
    )
    assert statuses[200] > UPLOADS / 20
    assert statuses[422] > UPLOADS / 5
    assert UPLOADS <= _WARM_UP or after - before < _MOST_GROWTH_MIB


@pytest.mark.parametrize("name", sorted(valid_pictures()))
def test_each_format_cut_at_every_kind_of_place(send, name: str) -> None:
    data = valid_pictures()[name]
    ends = sorted({*range(0, 40, 3), *range(40, len(data), max(1, len(data) // 12)), len(data) - 1})
    for end in ends:
        upload = Hostile(f"{name} cut at {end}", FORM, as_form(name, data[:end], None).body)
        check(upload, send(upload))
    whole = send(as_form(name, data, None))
    assert whole.status_code == (422 if name == "avif" else 200)


def test_a_float_picture_of_signalling_nan(send) -> None:
    tiff = valid_pictures()["float tiff"]
    pixels = Image.open(io.BytesIO(tiff)).tobytes()
    nan = struct.pack("<I", 0x7FA00000) * (len(pixels) // 4)
    assert pixels in tiff
    assert send(as_form("NaN", tiff.replace(pixels, nan), None)).status_code == 200


def test_the_same_seed_gives_the_same_uploads() -> None:
    once, again = (list(itertools.islice(hostile_uploads(3), 20)) for _ in range(2))
    assert once == again
