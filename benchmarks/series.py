"""The real series of the accuracy benchmark: where each comes from, what is forecast of it, and how it is loaded."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from presurge.series.dataset import Dataset
from presurge.series.panel import ChannelKind
from presurge.workflows.dataset import TableConfig, load_dataset

DATA = Path(os.environ.get("PRESURGE_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
WEEK = 604_800


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A real series, what is forecast of it, and the error to beat.

    Attributes:
        name: How ``--series`` names it.
        file: Below the folder of the data.
        time: Column with the timestamps.
        channels: Columns that the models read.
        scored: Those of them whose scores count.
        context: Rows of history.
        horizon: Rows to forecast.
        reference: WAPE of least squares after a square root, measured once on the same rows.
        best_naive: WAPE of the best naive model, measured once.
        rows: What to make of the rows of the file first.
        item: Column with the names of the items.
        kinds: Kinds of the channels, where their values and names leave them open.
    """

    name: str
    file: str
    time: str
    channels: tuple[str, ...]
    scored: tuple[str, ...]
    context: int
    horizon: int
    reference: float | None = None
    best_naive: float | None = None
    rows: Callable[[pl.DataFrame], pl.DataFrame] | None = None
    item: str | None = None
    kinds: tuple[tuple[str, ChannelKind], ...] = ()


def frame(file: str) -> pl.DataFrame:
    """All rows of a file of the data."""
    path = DATA / file
    return pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path)


def load(series: Series, *, test_fraction: float = 0.3) -> Dataset:
    """Load a series as ``presurge backtest`` loads a table, with the last rows as test rows."""
    table = TableConfig(time=series.time, values=series.channels, item=series.item, kinds=dict(series.kinds))
    if series.rows is None:
        return load_dataset(DATA / series.file, table, test_fraction=test_fraction)
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "series.parquet"
        series.rows(frame(series.file)).write_parquet(own)
        return load_dataset(own, table, test_fraction=test_fraction)


def _renumbered(table: pl.DataFrame) -> pl.DataFrame:
    """The minutes one after another, as if the days that the log misses had not been."""
    return table.with_columns((60 * pl.int_range(pl.len())).alias("timestamp"))


def _taxi(table: pl.DataFrame) -> pl.DataFrame:
    return table.filter(pl.col("series") == "realKnownCause/nyc_taxi")


def _half_hours(table: pl.DataFrame) -> pl.DataFrame:
    """Half-hours from a Monday on, as Taylor (2003) describes them."""
    return table.with_columns((1800 * pl.int_range(pl.len())).alias("t_s"))


def _pjm_east(table: pl.DataFrame) -> pl.DataFrame:
    """The last three years of one zone; of an hour that the change of the clock repeats, the mean."""
    zone = table.filter((pl.col("zone") == "PJME") & (pl.col("timestamp") >= pl.datetime(2015, 8, 3)))
    return zone.group_by("timestamp").agg(pl.col("mw").mean()).sort("timestamp")


def buckets(events: pl.DataFrame, step: int) -> pl.DataFrame:
    """Requests and tokens in steps of some seconds, without the first and the last step if they are covered in part.

    Args:
        events: One row a request: ``seconds``, ``input_tokens``, ``output_tokens``.
        step: Seconds.
    """
    first, last = -(-events["seconds"].min() // step), events["seconds"].max() // step
    t_s = (pl.col("seconds") // step).cast(pl.Int64)
    found = events.group_by(t_s.alias("t_s")).agg(
        pl.len().alias("requests"), pl.col("input_tokens", "output_tokens").sum()
    )
    grid = pl.DataFrame({"t_s": range(int(first), int(last))})
    filled = grid.join(found, on="t_s", how="left", maintain_order="left").fill_null(0)
    return filled.with_columns((pl.col("t_s") - int(first)) * step)


def azure_events(table: pl.DataFrame) -> pl.DataFrame:
    """The hour of Azure's conversations, in seconds after the whole minute before it."""
    stamp = pl.col("TIMESTAMP").str.slice(0, 26).str.to_datetime("%Y-%m-%d %H:%M:%S%.6f")
    seconds = stamp.dt.epoch("us") / 1e6
    seconds -= (seconds.min() / 60).floor() * 60
    return table.select(seconds=seconds, input_tokens="ContextTokens", output_tokens="GeneratedTokens")


def mooncake_events(table: pl.DataFrame) -> pl.DataFrame:
    """The hour of Mooncake's conversations."""
    return table.select(pl.col("timestamp_ms").alias("seconds") / 1e3, "input_tokens", "output_tokens")


def burstgpt_events(table: pl.DataFrame) -> pl.DataFrame:
    """The first week of the requests that were rebuilt from BurstGPT's counts."""
    week = table.filter(pl.col("Timestamp") < WEEK)
    return week.select(seconds="Timestamp", input_tokens="Request tokens", output_tokens="Response tokens")


def fleet_rows(table: pl.DataFrame) -> pl.DataFrame:
    """Means of five minutes of every cluster."""
    stamp = pl.col("timestamp").dt.truncate("5m")
    means = table.group_by(pl.col("cluster").cast(pl.String), stamp).agg(pl.col("cpu", "mem").mean())
    return means.sort("cluster", "timestamp")


_HOURLY = {"file": "llm/burstgpt_hourly.csv.gz", "time": "t_s", "channels": ("conversation", "api")}
_NASA = {
    "file": "workload/nasa_http_1min.csv.gz", "time": "timestamp", "channels": ("requests",),
    "scored": ("requests",), "context": 120, "horizon": 3, "reference": 0.286, "best_naive": 0.301,
}  # fmt: skip
_TAYLOR = {
    "file": "benchmark/taylor.csv.gz", "time": "t_s", "channels": ("Y",), "scored": ("Y",), "context": 336,
    "rows": _half_hours, "kinds": (("Y", "gauge"),),
}  # fmt: skip
_PJM = {
    "file": "benchmark/pjm_hourly.parquet", "time": "timestamp", "channels": ("mw",), "scored": ("mw",),
    "context": 168, "rows": _pjm_east,
}  # fmt: skip
_LOAD = {"time": "t_s", "channels": ("requests", "input_tokens", "output_tokens")}
_VMS = ("vms", "batches", "vcpus", "mem_gb")
SERIES = (
    Series(name="nasa", **_NASA, rows=_renumbered),
    Series(name="nasa-with-missing-days", **_NASA),
    Series(
        name="burstgpt-minute", file="llm/burstgpt_week1_minute_tokens.csv.gz", time="t_s",
        channels=("total_tokens_est",), scored=("total_tokens_est",), context=120, horizon=3,
        reference=0.646, best_naive=0.684,
    ),
    Series(
        name="conversation-3", **_HOURLY, scored=("conversation",), context=168, horizon=3,
        reference=0.232, best_naive=0.272,
    ),
    Series(
        name="conversation-24", **_HOURLY, scored=("conversation",), context=168, horizon=24,
        reference=0.237, best_naive=0.268,
    ),
    Series(
        name="api", **_HOURLY, scored=("api",), context=48, horizon=3, reference=0.893, best_naive=1.03
    ),
    Series(
        name="azure-vms", file="workload/azure_vm_arrivals_5min.csv.gz", time="t_s", channels=_VMS, scored=_VMS,
        context=288, horizon=3, reference=0.403, best_naive=0.480,
    ),
    Series(
        name="azure-cpu", file="workload/azure_v2_cpu_300s.csv.gz", time="t_s",
        channels=("cpu_usage", "assigned_mem"), scored=("cpu_usage",), context=288, horizon=12,
        reference=0.0149, best_naive=0.0196,
    ),
    Series(
        name="nyc-taxi", file="workload/nab_real.parquet", time="timestamp", channels=("value",),
        scored=("value",), context=336, horizon=3, reference=0.060, best_naive=0.153, rows=_taxi,
    ),
    Series(name="taylor-3", **_TAYLOR, horizon=3),
    Series(name="taylor-24", **_TAYLOR, horizon=24),
    Series(name="pjm-3", **_PJM, horizon=3),
    Series(name="pjm-24", **_PJM, horizon=24),
    Series(
        name="burstgpt-requests", file="llm/burstgpt_rebuilt_events.parquet", **_LOAD, scored=_LOAD["channels"],
        context=120, horizon=3, rows=lambda table: buckets(burstgpt_events(table), 60),
    ),
    Series(
        name="azure-requests", file="llm/AzureLLMInferenceTrace_conv.csv.gz", **_LOAD, scored=_LOAD["channels"],
        context=30, horizon=3, rows=lambda table: buckets(azure_events(table), 10),
    ),
)  # fmt: skip
"""The references of ``azure-vms`` are those of its first channel."""
FLEET = Series(
    name="fleet", file="workload/cluster_capacity_1min.parquet", time="timestamp", channels=("cpu", "mem"),
    scored=("cpu", "mem"), context=288, horizon=3, item="cluster", rows=fleet_rows,
)  # fmt: skip
TRACES = (
    ("azure", "llm/AzureLLMInferenceTrace_conv.csv.gz", azure_events),
    ("mooncake", "llm/mooncake_conversation.csv.gz", mooncake_events),
)
"""Real request traces of an hour: name, file and how to read its requests."""
