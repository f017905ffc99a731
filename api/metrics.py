"""Prometheus metrics of one application: request counts and latencies by route."""

import math
import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.limits import InferenceLimiter
from dncbm.drift.monitor import DriftMonitor

_PASS_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters of one application; each has its own, so several may live in a process."""

    def __init__(self, limiter: InferenceLimiter) -> None:
        self._registry = CollectorRegistry()
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
        busy = Gauge("dncbm_inference_admitted", "Running or waiting.", registry=self._registry)
        busy.set_function(lambda: limiter.admitted)

    def observe(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def count_images(self, model: str, number: int) -> None:
        """Count predicted images."""
        self._images.labels(model).inc(number)

    def count_pass(self, images: int) -> None:
        """Note how many images an encoder took together."""
        self._passes.observe(images)

    def watch_drift(self, model: str, monitor: DriftMonitor) -> None:
        """Show the share of shifted concepts of a model, NaN while none can be tested."""
        gauge = self._shifted.labels(model)
        gauge.set_function(lambda: math.nan if (s := monitor.share_shifted) is None else s)

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self._registry)


_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"SAMEORIGIN"),
]


class ObserveRequests:
    """ASGI middleware: counts and times requests and adds the security headers."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and note what came of it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            self.metrics.observe(
                method=scope["method"] if scope["method"] in _METHODS else "other",
                route=_route(scope),
                status=status,
                seconds=time.perf_counter() - started,
            )


def _route(scope: Scope) -> str:
    """The route's pattern: a label must not grow with what visitors type."""
    return str(getattr(scope.get("route"), "path", "unmatched"))
