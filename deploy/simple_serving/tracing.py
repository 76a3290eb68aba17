"""Spans of requests for whoever collects traces: OTLP over HTTP, by the packages of OpenTelemetry."""

import os

from deploy.simple_serving.figures import STAGES
from hierarchical.errors import InputError


class Spans:
    """One span for a request and, below it, one for each stage. A request's own trace goes on, sampled or not.

    endpoint: the collector's address, as http://127.0.0.1:4318. Raises InputError if the packages are not there.
    """

    def __init__(self, endpoint):
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ModuleNotFoundError as error:
            raise InputError(
                f"--otlp_endpoint needs the package {error.name}: pip install -r requirements-trace.txt"
            ) from None
        name = os.environ.get("OTEL_SERVICE_NAME", "hierarchical-text-classification")
        self.provider = TracerProvider(resource=Resource.create({"service.name": name}))
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        self.provider.add_span_processor(BatchSpanProcessor(exporter))
        self.tracer = self.provider.get_tracer("deploy.simple_serving")
        self.extract = TraceContextTextMapPropagator().extract

    def begin(self, record, scope):
        """The span of a request, whose ids the record then has."""
        from opentelemetry.trace import SpanKind, set_span_in_context

        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name[:5] == b"trace"}
        span = self.tracer.start_span(
            scope["method"], self.extract(headers), SpanKind.SERVER, {"http.request.method": scope["method"]}
        )
        own = span.get_span_context()
        record.trace, record.span = f"{own.trace_id:032x}", f"{own.span_id:016x}"
        record.flags = f"{own.trace_flags:02x}"
        return span, set_span_in_context(span), scope["method"]

    def end(self, begun, record, path, status, seconds):
        """The span's end, and the stages that were measured meanwhile: one after the other, from the submission on.

        seconds: from record.began on. All times are by that clock, so that no stage ends after its request.
        """
        span, context, method = begun
        if not span.is_recording():
            return
        if record.model:
            told = {"model": record.model.name, "version": record.model.version, "texts": record.texts}
            at = span.start_time + int(1e9 * (record.submitted - record.began))
            for name, lasted in zip(STAGES, record.stages):
                stage = self.tracer.start_span(name, context, start_time=at)
                at += int(1e9 * lasted)
                stage.end(at)
            span.set_attributes(told | {"tokens": record.tokens})
        span.update_name(f"{method} {path}")
        span.set_attributes({"http.route": path, "http.response.status_code": status, "request.id": record.id})
        span.end(span.start_time + int(1e9 * seconds))

    def close(self):
        """Send what is left."""
        self.provider.shutdown()
