"""Prometheus metrics of one application, and the middleware that observes its requests.

Labels are route patterns, served models, statuses and fixed words: they cannot grow with what
visitors type.
"""

import math
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.lifecycle import Lifecycle
from api.limits import InferenceLimiter, UploadLimiter
from api.logs import route_of
from api.tracing import Tracer
from dncbm.artifacts import package_version
from dncbm.drift.monitor import DriftMonitor
from dncbm.stages import listening

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_STAGE_BUCKETS = (0.001, 0.0025, *_BUCKETS)
_PASS_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one application; each has its own, so several may live in a process."""

    def __init__(
        self,
        limiter: InferenceLimiter,
        uploads: UploadLimiter | None = None,
        lifecycle: Lifecycle | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._registry = CollectorRegistry()
        self._tracer = tracer or Tracer()
        self._requests = Counter(
            "dncbm_requests_total",
            "Requests answered.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "dncbm_request_seconds",
            "Time to answer.",
            ["method", "route"],
            registry=self._registry,
            buckets=_BUCKETS,
        )
        self._images = Counter(
            "dncbm_images_total", "Images predicted.", ["model"], registry=self._registry
        )
        self._errors = Counter(
            "dncbm_errors_total", "Problem documents by kind.", ["kind"], registry=self._registry
        )
        self._stages = Histogram(
            "dncbm_stage_seconds",
            "Time of a step: decode, encode, codes, explain.",
            ["stage"],
            registry=self._registry,
            buckets=_STAGE_BUCKETS,
        )
        self._passes = Histogram(
            "dncbm_encoder_pass_images",
            "Images of one pass of an encoder.",
            registry=self._registry,
            buckets=_PASS_BUCKETS,
        )
        self._shifted = Gauge(
            "dncbm_drift_share_shifted",
            "Share of the tested concepts that became clearly more or less frequent.",
            ["model"],
            registry=self._registry,
        )
        self._watch(limiter, uploads, lifecycle)
        self._describe()

    def _watch(
        self,
        limiter: InferenceLimiter,
        uploads: UploadLimiter | None,
        lifecycle: Lifecycle | None,
    ) -> None:
        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, registry=self._registry)

        admitted = gauge("dncbm_inference_admitted", "Running or waiting.")
        admitted.set_function(lambda: limiter.admitted)
        running = gauge("dncbm_inference_running", "Inference calls that run.")
        running.set_function(lambda: limiter.running)
        waiting = gauge("dncbm_inference_waiting", "Inference calls that wait for a turn.")
        waiting.set_function(lambda: max(0, limiter.admitted - limiter.running))
        if uploads is not None:
            reading = gauge("dncbm_uploads_reading", "Uploads that are being read.")
            reading.set_function(lambda: uploads.reading)
        if lifecycle is not None:
            flying = gauge("dncbm_requests_in_flight", "Requests that are being answered.")
            flying.set_function(lambda: lifecycle.in_flight)

    def _describe(self) -> None:
        build = Gauge(
            "dncbm_build_info",
            "What runs; always 1.",
            ["version", "python"],
            registry=self._registry,
        )
        build.labels(package_version(), platform.python_version()).set(1)
        ProcessCollector(registry=self._registry)  # memory, processor time, open files

    def observe(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def count_images(self, model: str, number: int) -> None:
        """Count predicted images."""
        self._images.labels(model).inc(number)

    def count_error(self, kind: str) -> None:
        """Count a problem document; `kind` is one of the fixed words of `api.errors`."""
        self._errors.labels(kind).inc()

    def count_pass(self, images: int) -> None:
        """Note how many images an encoder took together."""
        self._passes.observe(images)

    @contextmanager
    def stage(self, name: str, images: int) -> Iterator[None]:
        """Time and trace a step of the forward path; a listener of `dncbm.stages`."""
        started = time.perf_counter()
        try:
            with self._tracer.span(name, **{"dncbm.images": images}):
                yield
        finally:
            self._stages.labels(name).observe(time.perf_counter() - started)

    def watch_drift(self, model: str, monitor: DriftMonitor) -> None:
        """Show the share of shifted concepts of a model, NaN while none can be tested."""
        gauge = self._shifted.labels(model)
        gauge.set_function(lambda: math.nan if (s := monitor.share_shifted) is None else s)

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self._registry)


_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class ObserveRequests:
    """ASGI middleware: counts, times and traces requests, and listens to their steps."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracer: Tracer | None = None) -> None:
        self.app = app
        self.metrics = metrics
        self.tracer = tracer or Tracer()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and note what came of it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        method = scope["method"] if scope["method"] in _METHODS else "other"
        status = 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        headers = {key.decode("latin-1"): text.decode("latin-1") for key, text in scope["headers"]}
        with self.tracer.request(method, headers) as span, listening(self.metrics.stage):
            try:
                await self.app(scope, receive, noted)
            finally:
                seconds, route = time.perf_counter() - started, route_of(scope)
                self.metrics.observe(method=method, route=route, status=status, seconds=seconds)
                if span is not None:
                    span.update_name(f"{method} {route}")
                    span.set_attribute("http.request.method", method)
                    span.set_attribute("http.route", route)
                    span.set_attribute("http.response.status_code", status)
