"""OpenTelemetry spans of requests and their steps, where it is wished for and installed.

Where the spans go is OpenTelemetry's own affair: `OTEL_EXPORTER_OTLP_ENDPOINT` and the other
variables of its specification.
"""

import importlib.util
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from dncbm.artifacts import package_version
from dncbm.errors import Unavailable

logger = logging.getLogger(__name__)


class Tracer:
    """Makes spans with `tracer` of OpenTelemetry; nothing at all without one."""

    def __init__(self, tracer: Any = None) -> None:
        self._tracer = tracer

    def span(self, name: str, **attributes: Any) -> AbstractContextManager[Any]:
        """To be entered around what the span stands for; gives the span, or None."""
        if self._tracer is None:
            return nullcontext()
        return self._tracer.start_as_current_span(name, attributes=attributes)

    def request(self, method: str, headers: Mapping[str, str]) -> AbstractContextManager[Any]:
        """Like `span`, for a request: a child of the caller's span, if it sent `traceparent`."""
        if self._tracer is None:
            return nullcontext()
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind

        return self._tracer.start_as_current_span(
            method, context=extract(headers), kind=SpanKind.SERVER
        )


def open_tracer(wanted: bool, provider: Any = None) -> Tracer:
    """A tracer, or one that does nothing where it is not wanted.

    Args:
        wanted: the setting `otel`.
        provider: of OpenTelemetry's SDK; by default the one of the process.

    Raises:
        Unavailable: it is wanted, and OpenTelemetry is not installed.
    """
    if not wanted:
        return Tracer()
    if importlib.util.find_spec("opentelemetry") is None:
        raise Unavailable(
            "DNCBM_OTEL is set, but OpenTelemetry is not installed. Install it with: "
            "pip install 'dncbm[otel]', or unset DNCBM_OTEL."
        )
    from opentelemetry import trace

    return Tracer(trace.get_tracer("dncbm", package_version(), tracer_provider=provider))


def export_spans() -> None:
    """Send the spans of this process over OTLP, as the `OTEL_*` variables say.

    Raises:
        Unavailable: the SDK or its exporter is not installed.
    """
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise Unavailable(
            f"DNCBM_OTEL is set, but {error.name} is not installed. Install it with: "
            "pip install 'dncbm[otel]', or unset DNCBM_OTEL."
        ) from error
    provider = TracerProvider(
        resource=Resource.create({"service.name": "dncbm", "service.version": package_version()})
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
