import sys
from pathlib import Path
from typing import Any

import pytest

from api.main import create_app
from api.registry import Registry, serve_model
from api.settings import ServiceOptions
from api.tracing import Tracer, open_tracer
from dncbm.errors import Unavailable
from dncbm.stages import stage
from tests.api.conftest import OPTIONS, client_for
from tests.api.fakes import FakePredictor, photo

pytest.importorskip("opentelemetry.sdk")


class Staged(FakePredictor):
    """Steps as `dncbm.predictor.Predictor` takes them."""

    def predict(self, images: Any, **options: Any) -> Any:
        with stage("encode", len(images)):
            pass
        with stage("codes", len(images)):
            return super().predict(images, **options)


@pytest.fixture
def traced(model_dir: Path) -> Any:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    registry = Registry([serve_model("clothing", model_dir, Staged())])
    app = create_app(registry, OPTIONS, tracer=open_tracer(True, provider))
    return client_for(app), exporter


def test_a_request_and_its_steps_are_one_trace(traced: Any) -> None:
    client, exporter = traced
    trace = "0af7651916cd43dd8448eb211c80319c"
    client.post(
        "/v1/models/clothing/predict",
        files=[("image", photo(1)), ("image", photo(2))],
        headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"},
    )
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert list(spans) == ["decode", "encode", "codes", "POST /v1/models/{model}/predict"]
    request = spans["POST /v1/models/{model}/predict"]
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["http.route"] == "/v1/models/{model}/predict"
    assert format(request.context.trace_id, "032x") == trace
    for name in ("decode", "encode", "codes"):
        assert spans[name].parent.span_id == request.context.span_id
        assert spans[name].attributes["dncbm.images"] == 2


def test_nothing_is_traced_unless_wished() -> None:
    tracer = open_tracer(False)
    with tracer.span("x") as span, tracer.request("GET", {}) as request:
        assert span is None
        assert request is None


def test_a_wish_without_the_package_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Unavailable, match=r"dncbm\[otel\]"):
        create_app(Registry([]), ServiceOptions(otel=True))


def test_an_exporter_that_is_missing_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    from api.tracing import export_spans

    monkeypatch.setitem(sys.modules, "opentelemetry.exporter", None)
    with pytest.raises(Unavailable, match=r"dncbm\[otel\]"):
        export_spans()


def test_without_a_tracer_the_service_runs(model_dir: Path) -> None:
    registry = Registry([serve_model("clothing", model_dir, Staged())])
    client = client_for(create_app(registry, OPTIONS, tracer=Tracer()))
    answer = client.post("/v1/models/clothing/predict", files={"image": photo(1)})
    assert answer.status_code == 200
