"""Accuracy on real series: trained on the first 70 % of the rows, scored on every window of the last 30 %.

Every model goes the way of ``presurge backtest``; the reference of a series is least squares after a square root, measured
once on the same rows. ETTh1 follows its own standard protocol. Run with one thread:

    OMP_NUM_THREADS=1 python benchmarks/accuracy.py [--series NAME] [--deep] [--json]

``--deep`` adds the networks (some fifteen minutes): every one with its own defaults and the calendar, but the recurrent ones and the
Transformer with at most 3,000 different windows, and with epochs for 24,000 windows in all.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from exact import etth1_standard_protocol

from presurge.evaluation.backtest import without_room
from presurge.evaluation.fit import Fitted, fit_model
from presurge.models.registry import BASELINES, model_class
from presurge.series.dataset import Dataset
from presurge.training.config import TrainingConfig
from presurge.workflows.dataset import TableConfig, load_dataset
from presurge.workflows.evaluate import score_fitted

DATA = Path(os.environ.get("PRESURGE_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
MODELS = ("auto", "linear", "dlinear", *BASELINES)
DEEP = ("mlp", "lstm", "gru", "transformer")
COSTLY = ("lstm", "gru", "transformer")
MOST_WINDOWS, ALL_WINDOWS = 3_000, 24_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A real series, what is forecast of it, and the error to beat."""

    name: str
    file: str
    time: str
    channels: tuple[str, ...]
    scored: str
    context: int
    horizon: int
    reference: float
    best_naive: float
    only: tuple[str, str] | None = None
    """Column and value of the rows to take from a file of many series."""
    renumbered: bool = False
    """Whether the rows are taken one minute after another, as if the days that the log misses had not been."""


_HOURLY = {"file": "llm/burstgpt_hourly.csv.gz", "time": "t_s", "channels": ("conversation", "api")}
_NASA = {"file": "workload/nasa_http_1min.csv.gz", "time": "timestamp", "channels": ("requests",)}
SERIES = (
    Series(
        name="nasa", **_NASA, scored="requests", context=120, horizon=3,
        reference=0.286, best_naive=0.301, renumbered=True,
    ),
    Series(
        name="nasa-with-missing-days", **_NASA, scored="requests", context=120, horizon=3,
        reference=0.286, best_naive=0.301,
    ),
    Series(
        name="burstgpt-minute", file="llm/burstgpt_week1_minute_tokens.csv.gz", time="t_s",
        channels=("total_tokens_est",), scored="total_tokens_est", context=120, horizon=3,
        reference=0.646, best_naive=0.684,
    ),
    Series(
        name="conversation-3", **_HOURLY, scored="conversation", context=168, horizon=3,
        reference=0.232, best_naive=0.272,
    ),
    Series(
        name="conversation-24", **_HOURLY, scored="conversation", context=168, horizon=24,
        reference=0.237, best_naive=0.268,
    ),
    Series(
        name="api", **_HOURLY, scored="api", context=48, horizon=3, reference=0.893, best_naive=1.03
    ),
    Series(
        name="azure-vms", file="workload/azure_vm_arrivals_5min.csv.gz", time="t_s",
        channels=("vms", "batches", "vcpus", "mem_gb"), scored="vms", context=288, horizon=3,
        reference=0.403, best_naive=0.480,
    ),
    Series(
        name="azure-cpu", file="workload/azure_v2_cpu_300s.csv.gz", time="t_s",
        channels=("cpu_usage", "assigned_mem"), scored="cpu_usage", context=288, horizon=12,
        reference=0.0149, best_naive=0.0196,
    ),
    Series(
        name="nyc-taxi", file="workload/nab_real.parquet", time="timestamp", channels=("value",),
        scored="value", context=336, horizon=3, reference=0.060, best_naive=0.153,
        only=("series", "realKnownCause/nyc_taxi"),
    ),
)  # fmt: skip


def measure(series: Series, *, deep: bool = False) -> list[dict[str, Any]]:
    """One row a model: its errors on the scored channel, its cost, and its error over the reference."""
    with table_of(series) as path:
        dataset = load_dataset(path, TableConfig(time=series.time, values=series.channels), test_fraction=0.3)
    shape = {"context": series.context, "horizon": series.horizon}
    left_out = without_room(dataset, **shape)
    fitted = {name: fit_model(name, dataset, **shape) for name in MODELS if name not in left_out}
    if deep:
        fitted |= {name: fit_network(name, dataset, shape) for name in DEEP}
    evaluation = score_fitted(list(fitted.values()), dataset)
    metrics = evaluation.metrics()
    rows = []
    for name, one in fitted.items():
        values = metrics[name][series.scored]
        rows.append(
            {
                "series": series.name,
                "shape": f"{series.context}->{series.horizon}",
                "model": name,
                **{key: values[key] for key in ("wape", "mae", "mase", "coverage_80")},
                "cpu_seconds": one.cpu_seconds + evaluation.costs[name].predict_seconds,
                "parameters": one.model.n_parameters,
                "chosen": one.report.chosen.get(series.scored, one.report.chosen),
                "windows": evaluation.n_windows,
                "reference": series.reference,
                "best_naive": series.best_naive,
                "ratio": values["wape"] / series.reference,
            }
        )
    return rows


def fit_network(name: str, dataset: Dataset, shape: dict[str, int]) -> Fitted:
    """A network as it comes, the costly ones with fewer windows."""
    defaults, settings = model_class(name).training_defaults, {"calendar": True}
    if name in COSTLY:
        settings["stride"] = stride = -(-len(dataset.train) // MOST_WINDOWS)
        epochs = ALL_WINDOWS * stride // len(dataset.train)
        defaults = {**defaults, "epochs": min(epochs, defaults["epochs"])}
    return fit_model(name, dataset, **shape, settings=settings, training=TrainingConfig(**defaults))


@contextmanager
def table_of(series: Series) -> Iterator[Path]:
    """The file of a series, or one made of its rows."""
    path = DATA / series.file
    if series.only is None and not series.renumbered:
        yield path
        return
    table = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path)
    if series.only is not None:
        table = table.filter(pl.col(series.only[0]) == series.only[1])
    if series.renumbered:
        table = table.with_columns((60 * pl.int_range(pl.len())).alias(series.time))
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "series.parquet"
        table.write_parquet(own)
        yield own


def measure_etth1() -> dict[str, Any]:
    """The variant of exact DLinear with the least validation error; the cost is that of all variants together."""
    tried = etth1_standard_protocol(DATA / "benchmark/ETTh1.csv.gz")
    best = tried[0]
    return {
        "series": "etth1",
        "shape": "336->96",
        "model": f"dlinear, {'individual' if best.individual else 'shared'}",
        "mse": best.mse,
        "mae": best.mae,
        "cpu_seconds": sum(one.cpu_seconds for one in tried),
        "windows": best.test_windows,
        "reference": {"mse": 0.376, "mae": 0.396},
        "ratio": best.mse / 0.376,
    }


def print_series(rows: list[dict[str, Any]]) -> None:
    first = rows[0]
    print(
        f"\n{first['series']} {first['shape']}, {first['windows']:,} windows; "
        f"least squares after a square root {first['reference']}, best naive {first['best_naive']}"
    )
    print(
        f"  {'model':<15} {'WAPE':>7} {'ratio':>6} {'MAE':>11} {'MASE':>6} {'cov. 80':>7} {'CPU-s':>6} {'learned':>8}"
    )
    for row in rows:
        print(
            f"  {row['model']:<15} {row['wape']:>7.4f} {row['ratio']:>6.3f} {row['mae']:>11.5g} {row['mase']:>6.3f} "
            f"{row['coverage_80']:>7.3f} {row['cpu_seconds']:>6.2f} {row['parameters']:>8,}"
        )
    print(f"  auto chose {first['chosen']}")


def print_summary(rows: list[dict[str, Any]]) -> None:
    autos = [row for row in rows if row["model"] == "auto"]
    if autos:
        below = sum(row["ratio"] < 1 for row in autos)
        worst = max(autos, key=lambda row: row["ratio"])
        print(
            f"\nauto is below the reference on {below} of {len(autos)}; "
            f"the worst ratio is {worst['ratio']:.3f} ({worst['series']})"
        )


def main() -> int:
    names = [series.name for series in SERIES] + ["etth1"]
    parser = argparse.ArgumentParser(description="Accuracy on real series against fixed references.")
    parser.add_argument("--series", choices=names, action="append", help="only this one; may be repeated")
    parser.add_argument("--deep", action="store_true", help="also the networks: some fifteen minutes")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    options = parser.parse_args()
    wanted = options.series or names
    if not DATA.is_dir():
        print(
            "The real series were not found: put them beside the checkout as shared/data, or set PRESURGE_SHARED."
        )
        return 1
    rows = []
    for series in SERIES:
        if series.name in wanted:
            measured = measure(series, deep=options.deep)
            rows += measured
            if not options.json:
                print_series(measured)
    etth1 = measure_etth1() if "etth1" in wanted else None
    if options.json:
        print(json.dumps({"series": rows, "etth1": etth1}, indent=2))
        return 0
    print_summary(rows)
    if etth1:
        print(
            f"\nETTh1 {etth1['shape']}, standard protocol, {etth1['windows']:,} windows: {etth1['model']} "
            f"MSE {etth1['mse']:.4f} (reference 0.376), MAE {etth1['mae']:.4f} (0.396), {etth1['cpu_seconds']:.2f} CPU-s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
