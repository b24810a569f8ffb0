"""What ``/metrics`` says, for Prometheus: requests, forecasts, live error and what does not work.

Names and units follow https://prometheus.io/docs/practices/naming/. A number that nothing was measured for has no sample.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import product

import numpy as np
from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from presurge import __version__
from presurge.series.frequency import SECOND
from presurge.series.panel import FloatArray
from presurge.serving.service import Served, Service

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
LEADS = 12
"""Most steps of the horizon that forecasts are told of: the first, the last and others at growing distances."""
LEVELS = (0.1, 0.9, 0.95, 0.99)
"""Quantiles that are told beside the median, where the model has them."""
SCORES = (
    ("rows", "rows"),
    ("wape_ratio", "wape"),
    ("bias_ratio", "relative_bias"),
    ("coverage_ratio", "coverage_80"),
)
"""Metrics behind ``live_``, and what they are called in the scores of an item."""
_CHANNEL = ("model", "item", "channel")
GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "build_info": ("The version that serves", ("version",)),
    "ready": ("1 if forecasts can be asked for", ()),
    "storage_ok": ("1 if observations reach the disk, or are not meant to", ()),
    "source_ok": ("1 if a source gave all values when it was last asked", ("source",)),
    "items": ("Items that a model follows", ("model",)),
    "items_exported": ("Items of those that have samples here, the first ones", ("model",)),
    "last_row_timestamp_seconds": ("Beginning of the newest closed bucket", ("model", "item")),
    "forecast_mean": ("Mean forecast in the unit of the channel", (*_CHANNEL, "lead_seconds")),
    "forecast_quantile": ("Quantile of the forecast", (*_CHANNEL, "lead_seconds", "level")),
    "forecast_peak_mean": ("Mean of the largest value over the horizon", _CHANNEL),
    "forecast_peak_quantile": ("Quantile of the largest value over the horizon", (*_CHANNEL, "level")),
    "live_rows": ("Rows that the live scores rest on", _CHANNEL),
    "live_wape_ratio": ("Sum of absolute errors of the median over the sum of actual values", _CHANNEL),
    "live_bias_ratio": ("Sum of mean forecast minus actual value over the sum of actual values", _CHANNEL),
    "live_coverage_ratio": ("Share of actual values inside the 80 % interval", _CHANNEL),
    "live_baseline_wape_ratio": ("The same as the WAPE, of a baseline", (*_CHANNEL, "baseline")),
    "drift_alarm": ("1 if forecasts are not what was measured in training", _CHANNEL),
}
"""Name without its prefix -> what it says, and its labels."""

Tell = Callable[..., None]


class Metrics:
    """The metrics of a service.

    Args:
        service: Forecasts and scores are read from it when they are asked for.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, service: Service) -> None:
        self._service, self._registry = service, CollectorRegistry()
        self._seconds = Histogram(
            "presurge_http_request_duration_seconds",
            "Time from the head of a request to its answer",
            ("route", "code"),
            buckets=BUCKETS,
            registry=self._registry,
        )
        ProcessCollector(registry=self._registry)
        self._registry.register(self)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._seconds.labels(route, str(status)).observe(seconds)

    def text(self) -> bytes:
        """The metrics in the text format."""
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """None: what there is depends on the items."""
        return []

    def collect(self) -> Iterator[Metric]:
        """What the service is, forecasts and knows of its errors now."""
        families = {
            name: GaugeMetricFamily(f"presurge_{name}", text, labels=labels)
            for name, (text, labels) in GAUGES.items()
        }

        def tell(name: str, value: float, *labels: str) -> None:
            if not math.isnan(value):
                families[name].add_metric(labels, float(value))

        service = self._service
        tell("build_info", 1, __version__)
        tell("ready", service.state()["status"] in ("ready", "degraded"))
        tell("storage_ok", not service.storage)
        for name, text in [*service.sources.items()]:
            tell("source_ok", not text, name)
        for served in [*service.served.values()]:
            names = [*served.stream.items][: service.config.exported]
            tell("items", len(served.stream.items), served.name)
            tell("items_exported", len(names), served.name)
            _tell_forecasts(served, names, tell)
            _tell_scores(served, names, tell)
        yield from families.values()


def _tell_forecasts(served: Served, names: list[str], tell: Tell) -> None:
    """The newest forecasts of some items: at some leads, and of the peak."""
    names = [name for name in names if served.stream.items[name].latest.made is not None]
    if not names:
        return
    made = served.stream.forecast(names)
    step, steps = made.step // SECOND, made.mean.shape[1]
    leads = np.unique(np.geomspace(1, steps, LEADS).round().astype(int)).tolist()
    told = [(f"{level:g}", made.levels.index(level)) for level in LEVELS if level in made.levels]

    def say(name: str, parts: Iterable[FloatArray], *labels: str) -> None:
        mean, median, quantile_Q = parts
        tell(f"{name}_mean", mean, *labels)
        if made.levels:
            tell(f"{name}_quantile", median, *labels, "0.5")
        for level, q in told:
            tell(f"{name}_quantile", quantile_Q[q], *labels, level)

    for (i, item), (c, channel) in product(enumerate(made.items), enumerate(made.channels)):
        own = (served.name, item, channel.name)
        for lead in leads:
            parts = (part[i, lead - 1, ..., c] for part in (made.mean, made.median, made.quantiles))
            say("forecast", parts, *own, str(lead * step))
        if made.peak is not None:
            say("forecast_peak", (part[i, ..., c] for part in made.peak), *own)


def _tell_scores(served: Served, names: list[str], tell: Tell) -> None:
    """How old the rows of some items are, and how wrong their forecasts were."""
    for name in names:
        item = served.stream.items[name]
        tell("last_row_timestamp_seconds", item.rows.start(item.rows.last) / SECOND, served.name, name)
        channels = served.model.fitted_spec().targets
        for channel, scores in zip(channels, item.live.scores(), strict=True):
            own = (served.name, name, channel.name)
            for metric, score in SCORES:
                tell(f"live_{metric}", scores[score], *own)
            for baseline, wape in scores["baselines"].items():
                tell("live_baseline_wape_ratio", wape, *own, baseline)
            tell("drift_alarm", bool(scores["alarm"]), *own)
