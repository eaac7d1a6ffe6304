"""OpenTelemetry: one span per job with its phases as children, sent to an OTLP/HTTP collector.

Optional: needs the extra `rbee-worker[otel]`. Names follow the semantic conventions for generative
AI where these define one. Spans never contain prompt or answer text.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rbee_worker.extras import need
from rbee_worker.observe.subjects import JobRecord
from rbee_worker.observe.trace import phases

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter


class Telemetry:
    """Exports spans in the background. If the collector is unreachable, only spans are lost."""

    def __init__(
        self, endpoint: str, worker_id: str, version: str, exporter: SpanExporter | None = None
    ) -> None:
        """exporter: used in place of OTLP/HTTP to `endpoint`. Raises UsageError without the
        extra."""
        need("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        if exporter is None:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            exporter = OTLPSpanExporter(endpoint=endpoint.rstrip("/") + "/v1/traces")
        resource = Resource.create(
            {
                "service.name": "rbee-worker",
                "service.version": version,
                "service.instance.id": worker_id,
            }
        )
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("rbee_worker")
        self._inside = trace.set_span_in_context

    def job(self, job: JobRecord) -> None:
        """Export the span of a job that has ended."""
        if job.end is None:
            return
        usage, stop = job.end.usage, job.end.stop
        begin = int(job.created * 1e9)
        span = self._tracer.start_span(
            "inference",
            start_time=begin,
            attributes={
                "gen_ai.operation.name": "text_completion",
                "gen_ai.request.model": job.started.model if job.started is not None else "",
                "gen_ai.usage.input_tokens": usage.prompt_tokens,
                "gen_ai.usage.output_tokens": usage.output_tokens,
                "gen_ai.response.finish_reasons": (stop.rule,),
                "rbee.job_id": job.id,
                "rbee.correlation_id": job.correlation_id,
                "rbee.cached_tokens": usage.cached_tokens,
                "rbee.preemptions": usage.preemptions,
                "rbee.drafted_tokens": usage.drafted_tokens,
                "rbee.accepted_tokens": usage.accepted_tokens,
            },
        )
        context = self._inside(span)
        for row in phases(job):
            if "start_ms" in row:
                start = begin + int(row["start_ms"] * 1e6)
                part = self._tracer.start_span(row["phase"], context=context, start_time=start)
                part.end(start + int(row["ms"] * 1e6))
        span.end(time.time_ns())

    def close(self) -> None:
        """Send the remaining spans."""
        self._provider.shutdown()
