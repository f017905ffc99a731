import re
import threading
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.limits import InferenceLimiter, UploadLimiter
from api.metrics import Metrics
from dncbm.stages import listening, stage
from tests.api.fakes import photo


def value(text: str, name: str) -> float:
    (found,) = re.findall(rf"^{re.escape(name)} (\S+)$", text, re.M)
    return float(found)


def test_steps_batches_and_errors_are_counted(client: TestClient) -> None:
    images = [("image", photo(1)), ("image", photo(2))]
    client.post("/v1/models/clothing/predict", files=images)
    client.get("/v1/models/unknown")
    client.get("/nothing")
    client.get("/nothing/else")
    text = client.get("/metrics").text
    assert value(text, 'dncbm_stage_seconds_count{stage="decode"}') == 1
    assert value(text, 'dncbm_errors_total{kind="unknown-name"}') == 1
    assert value(text, 'dncbm_errors_total{kind="not-found"}') == 2
    assert value(text, "dncbm_requests_in_flight") == 1  # the one that asks
    assert re.search(r'dncbm_build_info\{python="3[^"]+",version="[^"]+"\} 1.0', text)
    assert value(text, "process_resident_memory_bytes") > 1e6


def test_passes_and_steps_are_counted() -> None:
    metrics = Metrics(InferenceLimiter(1, 0, 0))
    for images in (1, 3, 40):
        metrics.count_pass(images)
    with listening(metrics.stage), pytest.raises(KeyError), stage("codes", 44):
        raise KeyError
    with stage("encode", 9):  # nobody listens
        pass
    text = metrics.render().decode()
    assert value(text, "dncbm_encoder_pass_images_count") == 3
    assert value(text, "dncbm_encoder_pass_images_sum") == 44
    assert value(text, 'dncbm_encoder_pass_images_bucket{le="4.0"}') == 2
    assert value(text, 'dncbm_stage_seconds_count{stage="codes"}') == 1


def test_a_listener_belongs_to_its_context() -> None:
    heard: list[str] = []
    metrics = Metrics(InferenceLimiter(1, 0, 0))

    def listen(name: str, images: int) -> Any:
        heard.append(name)
        return metrics.stage(name, images)

    def elsewhere() -> None:
        with stage("encode", 1):
            pass

    with listening(listen):
        other = threading.Thread(target=elsewhere)
        other.start()
        other.join()
        assert heard == []
        elsewhere()
    assert heard == ["encode"]


def test_the_queue_is_seen() -> None:
    limiter, uploads = InferenceLimiter(1, 2, 20), UploadLimiter(3, 1)
    metrics = Metrics(limiter, uploads)

    def numbers() -> list[float]:
        text = metrics.render().decode()
        return [value(text, f"dncbm_inference_{name}") for name in ("running", "waiting")]

    def wait_for_a_turn() -> None:
        with limiter.slot():
            pass

    assert numbers() == [0, 0]
    with limiter.slot():
        waiter = threading.Thread(target=wait_for_a_turn)
        waiter.start()
        pause = threading.Event()
        assert any(limiter.admitted == 2 or pause.wait(0.005) for _ in range(4000))
        assert numbers() == [1, 1]
    waiter.join()
    assert numbers() == [0, 0]
    assert value(metrics.render().decode(), "dncbm_uploads_reading") == 0


def test_labels_do_not_grow_with_what_visitors_type(client: TestClient) -> None:
    for number in range(5):
        client.get(f"/v1/models/x{number}")
        client.get(f"/x{number}")
        client.request(f"X{number}", "/healthz")
    before = client.get("/metrics").text.count("\ndncbm_")
    for number in range(5, 20):
        client.get(f"/v1/models/x{number}")
        client.get(f"/x{number}")
        client.request(f"X{number}", "/healthz")
    after = client.get("/metrics").text
    assert after.count("\ndncbm_") <= before + 20  # the first look at /metrics counts itself
    assert "x19" not in after


def test_the_true_predictor_tells_its_steps(tmp_path: Path) -> None:
    import torch

    from dncbm.predictor import Predictor

    heard: list[tuple[str, int]] = []
    metrics = Metrics(InferenceLimiter(1, 0, 0))

    def listen(name: str, images: int) -> Any:
        heard.append((name, images))
        return metrics.stage(name, images)

    class Part:
        def encode(self, embeddings: torch.Tensor) -> torch.Tensor:
            return embeddings

        def embed_pil(self, images: list[Any], backend: Any) -> torch.Tensor:
            return torch.zeros(len(images), 4)

    from PIL import Image

    predictor = object.__new__(Predictor)
    predictor.encoder = predictor.sae = Part()  # type: ignore[assignment]
    predictor.image_backend = None
    with listening(listen):
        predictor.encode(predictor.embed([Image.new("RGB", (2, 2))] * 3))
    assert heard == [("encode", 3), ("codes", 3)]
