"""One OpenTelemetry span for each request, sent over OTLP/HTTP; a caller's W3C `traceparent` is its parent.

The packages come with the extra `tracing`; nothing of them is imported where no endpoint is given. Attributes
are those of OpenTelemetry's conventions for generative AI; like the log, they hold no word of a prompt.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from slipway_engine.errors import InvalidArgument

_PATH = "/v1/traces"
_FLUSH_MILLISECONDS = 3000
_NO_STATUS_ABOVE = 500


@dataclass(frozen=True, slots=True)
class RequestSpan:
    """What is told of one request. `seconds`: how long it took, until now."""

    name: str
    headers: Mapping[str, str]
    seconds: float
    status: int
    error: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)


class Tracer(Protocol):
    """Where spans go."""

    def record(self, span: RequestSpan) -> str | None:
        """Take a span whose request has just ended; return its trace's id, where there is one."""

    def close(self) -> None:
        """Send what is left."""


class NoTracer:
    """Takes spans nowhere."""

    def record(self, span: RequestSpan) -> str | None:
        """Do nothing."""
        return None

    def close(self) -> None:
        """Do nothing."""


def open_tracer(endpoint: str | None, service: str) -> Tracer:
    """Return what sends spans to the endpoint; nowhere without one. Raises InvalidArgument."""
    if endpoint is None:
        return NoTracer()
    url = urlsplit(endpoint)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise InvalidArgument(
            f"--otlp-traces-endpoint is {endpoint!r}; give a URL, as http://collector:4318/v1/traces."
        )
    if url.path in ("", "/"):
        url = url._replace(path=_PATH)
    try:
        return _OtlpTracer(url.geturl(), service)
    except ImportError as error:
        raise InvalidArgument(
            f"--otlp-traces-endpoint needs the packages of the extra 'tracing' ({error.name} is missing): "
            "pip install 'slipway[tracing]'."
        ) from error


class _OtlpTracer:
    """Collects spans and sends them in the background."""

    def __init__(self, endpoint: str, service: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = TracerProvider(resource=Resource.create({SERVICE_NAME: service}))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        self._tracer = self._provider.get_tracer("slipway_engine")
        self._propagator = TraceContextTextMapPropagator()

    def record(self, span: RequestSpan) -> str | None:
        """Take a span; return its trace's id."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, format_trace_id

        end = time.time_ns()
        taken = self._tracer.start_span(
            span.name,
            context=self._propagator.extract(dict(span.headers)),
            kind=SpanKind.SERVER,
            attributes={**span.attributes, "http.response.status_code": span.status},
            start_time=end - round(span.seconds * 1e9),
        )
        if span.error is not None:
            taken.set_attribute("error.type", span.error)
        # By the conventions a client's mistake is no error of the server's span.
        if span.status >= _NO_STATUS_ABOVE:
            taken.set_status(Status(StatusCode.ERROR, span.error))
        taken.end(end)
        return str(format_trace_id(taken.get_span_context().trace_id))

    def close(self) -> None:
        """Send what is left, within a few seconds."""
        self._provider.force_flush(_FLUSH_MILLISECONDS)
        self._provider.shutdown()
