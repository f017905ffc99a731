"""One encoder for several models, and what a backend must keep to."""

import gc
import shutil
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
import torch

from api.allocator import give_back, limit_arenas
from api.asgi import application
from api.encoders import SharedEncoders, batcher_of, serving_details
from dncbm.encoders import calibrate
from dncbm.encoders.backends import base, pytorch
from dncbm.errors import InvalidInput, Unavailable, UnknownName
from dncbm.predictor import Predictor
from tests.api.conftest import client_for
from tests.api.fakes import FakePredictor, photo
from tests.api.test_real_model import write_model


@pytest.fixture
def two_models(tmp_path: Path) -> Path:
    """Made with one encoder that has two names."""
    for name in ("a", "b"):
        write_model(tmp_path / name)
    return tmp_path


def test_models_share_an_encoder_of_the_same_weights(two_models: Path) -> None:
    encoders = SharedEncoders("cpu")
    a, b = encoders.load(two_models / "a"), encoders.load(two_models / "b")
    assert a.encoder is b.encoder
    assert batcher_of(a) is batcher_of(b) is not None
    details = serving_details(a)
    tensors = [*a.sae.state_dict().values(), a.cbm.probe.weights]
    assert details["model_bytes"] > sum(tensor.nbytes for tensor in tensors)
    assert details["encoder_bytes"] > sum(p.nbytes for p in a.encoder.image_tower().parameters())
    assert serving_details(FakePredictor()) == {}


def test_an_encoder_that_no_model_uses_is_let_go(
    two_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoders = SharedEncoders("cpu")
    a, b = encoders.load(two_models / "a"), encoders.load(two_models / "b")
    image = torch.zeros(1, 3, *a.encoder.image_size)
    encoders.retain([b])
    assert encoders.load(two_models / "a").encoder is a.encoder
    encoders.retain([])
    assert len(batcher_of(a)(image)) == 1  # requests under way are still answered
    assert encoders.load(two_models / "a").encoder is not a.encoder
    monkeypatch.setattr("api.encoders._LAST_REQUESTS", 0.0)
    last = encoders.load(two_models / "a")
    encoders._wait_seconds = 0.0
    encoders.retain([])
    for timer in [t for t in threading.enumerate() if isinstance(t, threading.Timer)]:
        if timer.interval == 0:
            timer.join(10)
    with pytest.raises(Unavailable, match="shutting down"):
        batcher_of(last)(image)
    left = weakref.ref(last.encoder)
    del last
    assert is_collected(left)


def is_collected(left: weakref.ref) -> bool:
    """Whether nothing holds it any more, once the threads of its batcher have ended."""
    for _ in range(200):
        gc.collect()
        if left() is None:
            return True
        time.sleep(0.05)
    return False


def test_a_model_that_has_gone_leaves_nothing(
    two_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DNCBM_MODEL_DIR", str(two_models))
    monkeypatch.setenv("DNCBM_DEVICE", "cpu")
    app = application()
    with client_for(app) as client:
        assert client.post("/v1/models/a/predict", files={"image": photo(1)}).status_code == 200
        assert client.get("/v1/dictionaries/a/map").status_code == 200
        registry = app.state.service.registry
        left = weakref.ref(registry.model("a").predictor)
        shutil.rmtree(two_models / "a")
        registry.store.scan()
        registry.refresh()
        assert is_collected(left)
        assert client.post("/v1/models/b/predict", files={"image": photo(1)}).status_code == 200


def test_served_from_the_environment(two_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MODEL_DIR": two_models, "DEVICE": "cpu", "MAX_BATCH": 4}.items():
        monkeypatch.setenv(f"DNCBM_{name}", str(value))
    with client_for(application()) as client:
        for model in ("a", "b"):
            files = {"image": photo(1)}
            assert client.post(f"/v1/models/{model}/predict", files=files).status_code == 200
        served = client.get("/v1/models/b").json()["details"]["serving"]
        metrics = client.get("/metrics").text
    assert served["max_batch"] == 4
    assert 'dncbm_encoder_pass_images_bucket{le="1.0"} 2.0' in metrics


def test_a_backend_that_nobody_has(two_models: Path) -> None:
    with pytest.raises(UnknownName, match="tensorflow"):
        SharedEncoders("cpu", backend="tensorflow").load(two_models / "a")


@pytest.mark.parametrize(("error", "is_served"), [(0.0, True), (0.1, False)])
def test_a_backend_must_keep_to_pytorch(
    two_models: Path, monkeypatch: pytest.MonkeyPatch, error: float, is_served: bool
) -> None:
    def open_other(encoder, name, streams):
        draw = torch.Generator().manual_seed(0)
        off = error * torch.randn(encoder.embed_dim, generator=draw) * (name != "torch")
        return lambda pixels: encoder.encode_images(pixels) + off

    for module in (base, calibrate):
        monkeypatch.setattr(module, "open_backend", open_other)
    monkeypatch.setattr(calibrate, "versions_of", lambda name: {})  # it need not be installed
    encoders = SharedEncoders("cpu", backend="onnx")
    if is_served:
        shared = encoders._shared(encoders.load(two_models / "a").cbm.manifest, two_models / "a")
        assert shared.describe()["backend"] == "onnxruntime"
        assert shared.describe()["min_cosine"] == pytest.approx(1)
        return
    with pytest.raises(InvalidInput, match=r"'onnxruntime' has a cosine of 0\.\d+ .*auto or torch"):
        encoders.load(two_models / "a")


def test_passes_are_a_graph_where_the_tower_is_one(
    two_models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def backend() -> str:
        encoders = SharedEncoders("cpu")
        predictor = encoders.load(two_models / "a")
        rows = batcher_of(predictor)(torch.ones(2, 3, *predictor.encoder.image_size))
        expected = predictor.encoder.encode_images(torch.ones(2, 3, *predictor.encoder.image_size))
        assert torch.allclose(rows, expected, atol=1e-4)
        return encoders._shared(predictor.cbm.manifest, two_models / "a").describe()["backend"]

    assert backend() == "torch-graph"

    def no_graph(tower: torch.nn.Module, example: torch.Tensor) -> None:
        raise RuntimeError("Tracer cannot infer type")

    monkeypatch.setattr(pytorch, "_traced", no_graph)
    assert backend() == "torch"
    assert "Passes take longer beside other requests" in caplog.text


def test_long_lists_are_made_by_the_thread_that_asks(
    two_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    listed = Predictor.predict_codes

    def noted(self, codes, **query):
        threads.append(threading.current_thread().name)
        return listed(self, codes, **query)

    monkeypatch.setattr(Predictor, "predict_codes", noted)
    monkeypatch.setenv("DNCBM_MODEL_DIR", str(two_models))
    monkeypatch.setenv("DNCBM_DEVICE", "cpu")
    answers = []
    with client_for(application()) as client:
        for most in (5, 101):
            url = f"/v1/models/a/predict?top_contributions={most}"
            answers.append(client.post(url, files={"image": photo(1)}).json())
    logits = [answer["predictions"][0]["logit"] for answer in answers]
    assert logits[0] == pytest.approx(logits[1], abs=1e-5)
    assert threads[-2].startswith("encode-")
    assert not threads[-1].startswith("encode-")


def test_loading_leaves_no_team_of_threads(two_models: Path) -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    encoders = SharedEncoders("cpu")
    shared = encoders._shared
    encoders._shared = lambda *which: (seen.append(torch.get_num_threads()), shared(*which))[1]  # type: ignore[method-assign, func-returns-value]
    streams = batcher_of(encoders.load(two_models / "a")).streams
    assert seen == [1]
    assert (torch.get_num_threads(), streams.cores) == (before, before)


def test_the_heap_has_few_arenas() -> None:
    assert limit_arenas() == sys.platform.startswith("linux")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks glibc")
def test_freed_memory_is_given_back() -> None:
    blocks = [bytearray(100_000) for _ in range(100)]
    kept = blocks[::10]  # between the others, so that these are not at the end of the heap
    del blocks
    assert give_back()
    assert len(kept) == 10
