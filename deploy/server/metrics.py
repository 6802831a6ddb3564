"""What Prometheus reads of the server."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """The counters of one process. ``version`` is the one that answered, or empty if none did."""

    def __init__(self, model: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._labels = {"model": model}
        self._requests: dict[tuple[str, int], Counter] = {}
        self._answered: dict[str, tuple[Histogram, Histogram]] = {}
        labels = ("model", "version")
        self._all = Counter(
            "assay_requests", "Requests for predictions, by status.", (*labels, "code"), registry=self._registry
        )
        self._seconds = Histogram(
            "assay_request_seconds", "From the first byte to the answer.", labels, buckets=_SECONDS,
            registry=self._registry,
        )  # fmt: skip
        self._rows = Histogram(
            "assay_batch_rows", "Rows of an answered request.", labels, buckets=_ROWS, registry=self._registry
        )
        self._serving = Gauge(
            "assay_version", "1 for the version that serves, 0 for the one before it.", (*labels, "provider"),
            registry=self._registry,
        )  # fmt: skip
        self._reloads = Counter(
            "assay_reloads", "Changes of version, by outcome.", ("model", "outcome"), registry=self._registry
        )
        self._predictions = Counter(
            "assay_predictions", "Sampled rows for the prediction log, by outcome.", ("model", "outcome"),
            registry=self._registry,
        )  # fmt: skip
        self._values = Counter(
            "assay_values", "Values of inputs and outputs, in the bins of the bundle's drift reference.",
            (*labels, "tensor", "bin"), registry=self._registry,
        )  # fmt: skip
        in_flight = Gauge("assay_in_flight", "Requests under way.", ("model",), registry=self._registry)
        self.in_flight = in_flight.labels(**self._labels)
        for outcome in ("done", "failed"):
            self._reloads.labels(**self._labels, outcome=outcome)

    def request(self, version: str, code: int) -> None:
        """Count a response."""
        key = version, code
        if key not in self._requests:
            self._requests[key] = self._all.labels(**self._labels, version=version, code=str(code))
        self._requests[key].inc()

    def answered(self, version: str, seconds: float, rows: int) -> None:
        """Measure an answer."""
        if version not in self._answered:
            labels = self._labels | {"version": version}
            self._answered[version] = self._seconds.labels(**labels), self._rows.labels(**labels)
        latency, size = self._answered[version]
        latency.observe(seconds)
        size.observe(rows)

    def reloaded(self, done: bool) -> None:
        """Count a change of version, or one that failed."""
        self._reloads.labels(**self._labels, outcome="done" if done else "failed").inc()

    def values(self, version: str, tensor: str, bin_name: str, count: int) -> None:
        """Count values of a tensor that lie in a bin."""
        self._values.labels(**self._labels, version=version, tensor=tensor, bin=bin_name).inc(count)

    def predictions(self, rows: int, outcome: str) -> None:
        """Count sampled rows that were logged or dropped."""
        self._predictions.labels(**self._labels, outcome=outcome).inc(rows)

    def serving(self, loaded: dict[str, tuple[str, bool]]) -> None:
        """Say which versions are loaded, name -> (provider, whether it is the current one), and forget all others."""
        self._serving.clear()
        for name, (provider, current) in loaded.items():
            self._serving.labels(**self._labels, version=name, provider=provider).set(current)
        gone = {version for version, _ in self._requests} - {"", *loaded}
        for key in [key for key in self._requests if key[0] in gone]:
            del self._requests[key]
        for version in gone:
            self._answered.pop(version, None)
            for metric in (self._all, self._seconds, self._rows, self._values):
                metric.remove_by_labels({"version": version})

    def page(self) -> bytes:
        """The text format of Prometheus."""
        return generate_latest(self._registry)
