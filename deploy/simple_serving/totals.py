"""The figures of several processes as those of one server.

Figures of a process are a list of families, as JSON: [name, type, description, [[name of a sample, labels, value]]].
"""

LARGEST = {"model_info", "python_info"}  # 1 in each process, and in all of them
SMALLEST = {"process_start_time_seconds"}
GROWING = ("counter", "histogram")


def families_of(collector):
    """The figures of this process; collector: a registry of prometheus_client."""
    return [
        [family.name, family.type, family.documentation, [[one.name, one.labels, one.value] for one in family.samples]]
        for family in collector.collect()
    ]


def total(parts):
    """The sum of several lists of families, which may have different ones, and different samples in them."""
    found = {}
    for name, kind, told, samples in (family for part in parts for family in part):
        sums = found.setdefault(name, (kind, told, {}))[2]
        for sample, labels, value in samples:
            key = sample, tuple(sorted(labels.items()))
            sums[key] = together(sample)(sums[key], value) if key in sums else value
    return [
        [name, kind, told, [[sample, dict(labels), value] for (sample, labels), value in sums.items()]]
        for name, (kind, told, sums) in found.items()
    ]


def together(sample):
    """The function of two values of a sample that gives that of both."""
    if sample in LARGEST:
        return max
    return min if sample in SMALLEST or sample.endswith("_created") else lambda a, b: a + b


def lasting(families):
    """Those of a process that has ended which count on: sums that must not fall."""
    return [family for family in families if family[1] in GROWING]


class Told:
    """A collector, as prometheus_client knows them, of families that somebody else has collected.

    ask: a function that returns them
    """

    def __init__(self, ask):
        self.ask = ask

    def describe(self):
        return []  # nobody asks before there is an answer

    def collect(self):
        from prometheus_client import Metric

        for name, kind, told, samples in self.ask():
            family = Metric(name, told, kind)
            for sample, labels, value in samples:
                family.add_sample(sample, labels, value)
            yield family
