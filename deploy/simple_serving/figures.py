"""The figures for Prometheus at /metrics: names and units as they are usual there, seconds and bytes."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector

STAGES = ("queue", "tokenise", "model")
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Figures:
    """One registry, and the figures in it."""

    def __init__(self):
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory, CPU seconds and open files of this process
        PlatformCollector(registry=registry)
        self.requests = Counter("http_requests", "Requests by path and status", ["path", "status"], registry=registry)
        self.seconds = Histogram(
            "http_request_duration_seconds", "From request to answer", ["path"], registry=registry, buckets=SECONDS
        )
        self.rejected = Counter("requests_rejected", "Requests without an answer", ["reason"], registry=registry)
        self.texts = Counter("texts", "Texts answered", ["model"], registry=registry)
        self.tokens = Counter("tokens", "Tokens of these texts", ["model"], registry=registry)
        stages = Histogram(
            "stage_duration_seconds", "Seconds of each text", ["stage"], registry=registry, buckets=SECONDS
        )
        self.stages = [stages.labels(stage) for stage in STAGES]
        self.batches = Histogram(
            "batch_size", "Texts per model call", registry=registry, buckets=[2**i for i in range(11)]
        )
        self.reloads = Counter("model_reloads", "Reloads by outcome", ["outcome"], registry=registry)
        self.shadows = Counter("shadow_texts", "Texts given to the second model", ["outcome"], registry=registry)
        self.models = Gauge(
            "model_info", "1 for each model in use", ["model", "version", "file", "labels"], registry=registry
        )

    def gauge(self, name, told, function):
        """A figure that is asked for whenever somebody looks."""
        Gauge(name, told, registry=self.registry).set_function(function)

    def note_models(self, models):
        self.models.clear()
        for model in models:
            self.models.labels(model.name, model.version, model.path.name, len(model.tree)).set(1)
