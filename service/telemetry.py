"""Structured logs and optional traces. Neither contains bodies or user ids."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import structlog

from service.log_handler import LogHandler
from service.settings import Settings

logger = logging.getLogger("service")


class TelemetryError(ValueError):
    """Telemetry cannot be set up as configured."""


def configure(settings: Settings) -> None:
    """Log in one format to standard error, for every logger of the process, uvicorn's included."""
    processors: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # With rich installed the default would print the local variables of every frame: keys, bodies.
    renderer: Any = structlog.dev.ConsoleRenderer(
        colors=False, exception_formatter=structlog.dev.plain_traceback
    )
    if settings.log_format == "json":
        renderer = structlog.processors.JSONRenderer()
        processors.append(structlog.processors.format_exc_info)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *processors],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
    handler = LogHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    # Python would write these to standard error itself, where a full pipe blocks the writer.
    logging.captureWarnings(True)
    threading.excepthook = log_thread_error
    sys.unraisablehook = log_unraisable
    structlog.configure(
        processors=[*processors, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def log_thread_error(error: threading.ExceptHookArgs) -> None:
    """Log an error that ended a thread."""
    name = "" if error.thread is None else error.thread.name
    logger.error("unhandled error in thread %s", name, exc_info=error.exc_value)


def log_unraisable(error: sys.UnraisableHookArgs) -> None:
    """Log an error that nobody can catch, such as one of a finalizer."""
    logger.error("unhandled error in %r", error.object, exc_info=error.exc_value)


class Tracer:
    """Exports one span per ranking call, and a child per stage, built from its stage times.

    Spans are built after the call, so that tracing does not touch ranking; with tracing off there
    is no tracer.
    """

    def __init__(self, provider: Any) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._trace, self._propagator = trace, TraceContextTextMapPropagator()
        self._tracer = provider.get_tracer("rerank")
        self._provider = provider

    @classmethod
    def of(cls, settings: Settings) -> Tracer | None:
        """Return a tracer, or None if tracing is off.

        Raises TelemetryError if the packages of the group `tracing` are not installed, or an OTEL_*
        variable cannot be used.
        """
        if settings.tracing == "off":
            return None
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor

            provider = TracerProvider(resource=Resource.create({"service.name": "rerank"}))
            provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        except ImportError as error:
            raise TelemetryError(
                f"RERANK_TRACING=otlp: {error}; install the dependency group `tracing`"
            ) from None
        except ValueError as error:
            raise TelemetryError(f"RERANK_TRACING=otlp: an OTEL_* variable: {error}") from None
        return cls(provider)

    def record(
        self,
        traceparent: str | None,
        name: str,
        latency_ms: Mapping[str, float],
        attributes: Mapping[str, Any],
    ) -> str:
        """Export a call that ends now as a child of `traceparent`; return its own traceparent."""
        ended_ns = time.time_ns()
        started_ns = ended_ns - int(1e6 * latency_ms["total"])
        carrier = {} if traceparent is None else {"traceparent": traceparent}
        parent = self._propagator.extract(carrier)
        span = self._tracer.start_span(
            name, context=parent, kind=self._trace.SpanKind.SERVER, start_time=started_ns,
            attributes=dict(attributes),
        )  # fmt: skip
        span_context = self._trace.set_span_in_context(span, parent)
        for stage, stage_ms in latency_ms.items():
            if stage == "total":
                continue
            child = self._tracer.start_span(stage, context=span_context, start_time=started_ns)
            started_ns += int(1e6 * stage_ms)
            child.end(end_time=started_ns)
        span.end(end_time=ended_ns)
        carrier_out: dict[str, str] = {}
        self._propagator.inject(carrier_out, span_context)
        return carrier_out.get("traceparent", "")

    def close(self) -> None:
        """Export the remaining spans."""
        self._provider.shutdown()
