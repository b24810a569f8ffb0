"""What ``/metrics`` says, for Prometheus: requests, forecasts, live error and what does not work."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from presurge.serving.service import Served, Service

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SCORES = {
    "wape": "Sum of absolute errors of the median over the sum of actual values",
    "relative_bias": "Sum of mean forecast minus actual value over the sum of actual values",
    "coverage_80": "Share of actual values inside the 80 % interval",
    "rows": "Rows that the live scores rest on",
}


class Metrics:
    """The metrics of a service.

    Args:
        service: Forecasts and scores are read from it when they are asked for.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, service: Service) -> None:
        self._service, self._registry = service, CollectorRegistry()
        self._seconds = Histogram(
            "presurge_request_seconds",
            "Time from the head of a request to its answer",
            ["route", "status"],
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._children: dict[tuple[str, int], Histogram] = {}
        self._registry.register(self)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        child = self._children.get((route, status))
        if child is None:
            child = self._children[route, status] = self._seconds.labels(route, str(status))
        child.observe(seconds)

    def text(self) -> bytes:
        """The metrics in the text format."""
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """None: what there is depends on the items."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Forecasts and live scores of now."""
        state = self._service.state()
        for name, good, text in (
            ("ready", state["status"] in ("ready", "degraded"), "1 if forecasts can be asked for"),
            (
                "storage_ok",
                not self._service.storage,
                "1 if observations reach the disk, or are not meant to",
            ),
        ):
            yield GaugeMetricFamily(f"presurge_{name}", text, value=float(good))
        sources = GaugeMetricFamily("presurge_source_ok", "1 if a source answers", labels=["source"])
        for name, text in self._service.sources.items():
            sources.add_metric([name], float(not text))
        yield sources
        yield from self._of_items()

    def _of_items(self) -> Iterator[Metric]:
        labels = ["model", "item", "channel"]
        value = GaugeMetricFamily(
            "presurge_forecast",
            "Forecast in the units of the channel",
            labels=[*labels, "lead_seconds", "statistic"],
        )
        peak = GaugeMetricFamily(
            "presurge_forecast_peak", "Largest value over the horizon", labels=[*labels, "statistic"]
        )
        scores = {
            name: GaugeMetricFamily(f"presurge_live_{name}", text, labels=labels)
            for name, text in SCORES.items()
        }
        naive = GaugeMetricFamily(
            "presurge_live_baseline_wape", "WAPE of a baseline on the same rows", labels=[*labels, "baseline"]
        )
        alarm = GaugeMetricFamily(
            "presurge_drift_alarm", "1 if forecasts are not what was measured in training", labels=labels
        )
        items = GaugeMetricFamily("presurge_items", "Items that a model follows", labels=["model"])
        stale = GaugeMetricFamily(
            "presurge_last_row_timestamp_seconds",
            "Beginning of the newest closed bucket",
            labels=["model", "item"],
        )
        for served in [*self._service.served.values()]:
            items.add_metric([served.name], len(served.stream.items))
            for name, item in [*served.stream.items.items()][: self._service.config.exported]:
                stale.add_metric([served.name, name], item.rows.start(item.rows.last) / 1e6)
                _add_forecast(served, name, value, peak)
                channels = served.model.fitted_spec().targets
                for channel, found in zip(channels, item.live.scores(), strict=True):
                    own = [served.name, name, channel.name]
                    for score, family in scores.items():
                        family.add_metric(own, found[score])
                    for baseline, wape in found["baselines"].items():
                        naive.add_metric([*own, baseline], wape)
                    alarm.add_metric(own, float(bool(found["alarm"])))
        yield from (value, peak, *scores.values(), naive, alarm, items, stale)


def _add_forecast(served: Served, name: str, value: GaugeMetricFamily, peak: GaugeMetricFamily) -> None:
    """The newest forecast of an item: of every step, and of the peak."""
    if served.stream.items[name].latest.made is None:
        return
    told = served.stream.forecast([name]).to_dict()
    step, channels = told["step_seconds"], len(served.model.fitted_spec().targets)
    for place, row in enumerate(told["forecast"]):
        own = [served.name, name, row["channel"], str(step * (1 + place // channels))]
        for statistic, number in _statistics(row):
            value.add_metric([*own, statistic], number)
    for row in told["peak"]:
        for statistic, number in _statistics(row):
            peak.add_metric([served.name, name, row["channel"], statistic], number)


def _statistics(row: dict[str, float | dict[str, float]]) -> Iterator[tuple[str, float]]:
    """Mean, median and the quantiles that autoscalers use."""
    for name in ("mean", "median"):
        yield name, row[name]  # type: ignore[misc]
    quantiles = row["quantiles"]
    assert isinstance(quantiles, dict)
    yield from (
        (f"q{level}", quantiles[level]) for level in ("0.1", "0.9", "0.95", "0.99") if level in quantiles
    )
