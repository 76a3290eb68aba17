"""deploy/simple_serving: the figures of several processes as those of one server."""

import pytest

pytest.importorskip("prometheus_client")

# ruff: noqa: E402
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from deploy.simple_serving.totals import Told, families_of, lasting, total


def one(requests, seconds, active, started=None):
    """The figures of a process."""
    registry = CollectorRegistry()
    counter = Counter("http_requests", "Requests", ["status"], registry=registry)
    for status, count in requests.items():
        counter.labels(status).inc(count)
    histogram = Histogram("seconds", "Seconds", registry=registry, buckets=[0.1, 1])
    for value in seconds:
        histogram.observe(value)
    Gauge("active", "Now", registry=registry).set(active)
    Gauge("model_info", "1", ["model"], registry=registry).labels("default").set(1)
    if started:
        Gauge("process_start_time_seconds", "Start", registry=registry).set(started)
    return families_of(registry)


def shown(families):
    """name{labels} -> value, as Prometheus reads it."""
    text = generate_latest(Told(lambda: families)).decode()
    rows = [row.rsplit(" ", 1) for row in text.splitlines() if row[0] != "#" and "_created" not in row]
    return {name: float(value) for name, value in rows}


def test_sums():
    both = total([one({"200": 3}, [0.05, 0.5], 1, started=20), one({"200": 4, "429": 1}, [0.05, 5], 2, started=10)])
    assert shown(both) == {
        'http_requests_total{status="200"}': 7, 'http_requests_total{status="429"}': 1,
        'seconds_bucket{le="0.1"}': 2, 'seconds_bucket{le="1.0"}': 3, 'seconds_bucket{le="+Inf"}': 4,
        "seconds_count": 4, "seconds_sum": pytest.approx(5.6), "active": 3, 'model_info{model="default"}': 1,
        "process_start_time_seconds": 10,
    }  # fmt: skip


def test_what_a_process_that_has_ended_leaves():
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    left = lasting(one({"200": 3}, [0.5], 7) + families_of(registry))
    names = [name for name, *_ in left]
    assert names[:2] == ["http_requests", "seconds"] and set(names[2:]) <= {"process_cpu_seconds"}
