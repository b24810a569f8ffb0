"""The exact solver against least squares on windows written out, and on the standard protocol of ETTh1.

Run with one thread: OMP_NUM_THREADS=1 python benchmarks/exact.py
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.lib.stride_tricks import sliding_window_view
from prepare import peak_mib

from presurge.models.linear.dlinear import DLinear, DLinearConfig
from presurge.models.linear.solve import RIDGES
from presurge.series.frequency import HOUR, SECOND
from presurge.series.panel import Channel, Panel
from presurge.series.spans import Span
from presurge.series.windows import batch_of, chunks, targets_of, window_origins

SHARED = Path(os.environ.get("PRESURGE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
CONTEXT, HORIZON, WINDOWS, JUDGED = 120, 3, 840_000, 140_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ETTScore:
    """One variant of DLinear on ETTh1; errors on standardised values over all test windows."""

    individual: bool
    normalisation: str
    ridge: float
    validation_error: float
    mse: float
    mae: float
    test_windows: int
    cpu_seconds: float


def etth1(file: Path) -> tuple[Panel, tuple[Span, Span, Span]]:
    """ETTh1 by the standard protocol, scaled by its training rows: the series, and rows 8640/2880/2880."""
    table = pl.read_csv(file).head(14_400)
    values = table.drop(table.columns[0]).to_numpy()
    learned = values[:8640]
    panel = Panel(
        values=((values - learned.mean(axis=0)) / learned.std(axis=0)).astype(np.float32),
        channels=tuple(map(Channel, table.columns[1:])),
        step=HOUR,
        start=np.zeros(1, np.int64),
    )
    bounds = np.array([[0], [8640], [11_520], [14_400]])
    train, validation, test = (Span(a, b) for a, b in pairwise(bounds))
    return panel, (train, validation, test)


def etth1_standard_protocol(file: Path) -> list[ETTScore]:
    """Exact DLinear on ETTh1, 336 -> 96, 7 channels; the variant of least validation error comes first."""
    panel, (train, validation, test) = etth1(file)
    variants = [(shared, level) for shared in (False, True) for level in ("none", "last")]
    scores = [_score(panel, train, validation, test, *variant) for variant in variants]
    return sorted(scores, key=lambda score: score.validation_error)


def _score(panel: Panel, train: Span, validation: Span, test: Span, shared: bool, level: str) -> ETTScore:
    started = time.process_time()
    settings = {"individual": not shared, "normalisation": level, "scaler": "none"}
    model = DLinear(context=336, horizon=96, config=DLinearConfig.model_validate(settings))
    report = model.fit(panel, train, validation)
    origins = window_origins(panel, test, context=336, horizon=96)
    squares, sizes = 0.0, 0.0
    for part in chunks(origins, 512):
        error = model.predict(batch_of(panel, part, 336)).point_BHC - targets_of(panel, part, 96)
        squares += float(np.square(error, dtype=np.float64).sum())
        sizes += float(np.abs(error).sum(dtype=np.float64))
    count = len(origins) * 96 * len(panel.channels)
    return ETTScore(
        individual=not shared,
        normalisation=level,
        ridge=report.chosen["ridge"],
        validation_error=min(row["validation_error"] for row in report.candidates),
        mse=squares / count,
        mae=sizes / count,
        test_windows=len(origins),
        cpu_seconds=time.process_time() - started,
    )


def synthetic() -> Panel:
    """A series every five seconds: a daily rhythm of counts, gamma tokens, a gauge that wanders."""
    rng = np.random.default_rng(0)
    rows = np.arange(WINDOWS + JUDGED + CONTEXT + HORIZON - 1)
    columns = [
        rng.poisson(3 + 2 * np.sin(2 * np.pi * rows / 17_280)),
        rng.gamma(2, 100, len(rows)),
        100 + rng.normal(size=len(rows)).cumsum() * 0.01 + rng.normal(size=len(rows)),
    ]
    return Panel(
        values=np.stack(columns, 1).astype(np.float32),
        channels=(Channel("requests", kind="count"), Channel("tokens", kind="count"), Channel("load")),
        step=5 * SECOND,
        start=np.zeros(1, np.int64),
    )


def reduced_qr(x_R: np.ndarray, width: int, context: int) -> np.ndarray:
    """Least squares of all windows written out a chunk at a time: the R of a QR, chunk by chunk, then its solution."""
    windows = sliding_window_view(x_R.astype(np.float64), width)
    triangle = np.zeros((0, width + 1))
    for begin in range(0, len(windows), 20_000):
        part = windows[begin : begin + 20_000]
        with_one = np.c_[part[:, :context], np.ones(len(part)), part[:, context:]]
        triangle = np.linalg.qr(np.vstack([triangle, with_one]), mode="r")
    solution = np.linalg.lstsq(triangle[:, : context + 1], triangle[:, context + 1 :], rcond=None)[0]
    return solution[:-1].T


def chunked_gram(x_R: np.ndarray, width: int) -> np.ndarray:
    """The Gram matrix of all windows multiplied out a chunk at a time."""
    windows = sliding_window_view(x_R.astype(np.float64), width)
    total = np.zeros((width, width))
    for begin in range(0, len(windows), 20_000):
        part = np.ascontiguousarray(windows[begin : begin + 20_000])
        total += part.T @ part
    return total


def measured(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def bench_windows() -> None:
    panel = synthetic()
    bounds = np.array([[0], [len(panel) - JUDGED], [len(panel)]])
    train, validation = Span(bounds[0], bounds[1]), Span(bounds[1], bounds[2])
    given = DLinear(context=CONTEXT, horizon=HORIZON, config=DLinearConfig(ridge=0.0))
    chosen = DLinear(context=CONTEXT, horizon=HORIZON)
    fits = [measured(lambda: given.fit(panel, train)) for _ in range(3)]
    choices = [measured(lambda: chosen.fit(panel, train, validation)) for _ in range(3)]
    resident = peak_mib()
    exact, with_choice = min(t for t, _ in fits), min(t for t, _ in choices)

    columns = panel.values[: len(panel) - JUDGED].T
    width = CONTEXT + HORIZON
    gram, _ = measured(lambda: [chunked_gram(x_R, width) for x_R in columns])
    qr, weights = measured(lambda: [reduced_qr(x_R, width, CONTEXT) for x_R in columns])
    off = max(np.abs(w - mine).max() for w, mine in zip(weights, given.folded.weight_CHL, strict=True))

    print(f"{fits[0][1].n_windows:,} windows, {CONTEXT} -> {HORIZON}, {len(columns)} channels, CPU-seconds")
    for name, seconds in (
        ("least squares of windows written out (chunked QR)", qr),
        ("Gram matrix of windows written out, alone", gram),
        (f"exact solver, ridge chosen from {len(RIDGES)} on 140,000 windows", with_choice),
        ("exact solver", exact),
    ):
        print(f"  {name:<56} {seconds:8.3f}   1/{qr / seconds:.0f} of the first")
    print(f"  largest difference of a weight from the first: {off:.1e}")
    print(f"  peak resident memory of the process by then: {resident:.0f} MiB")


def bench_etth1() -> None:
    file = SHARED / "data" / "benchmark" / "ETTh1.csv.gz"
    if not file.is_file():
        print(f"ETTh1 left out: no {file} (set PRESURGE_SHARED)")
        return
    print(
        "\nETTh1, 336 -> 96, standard protocol, ridge chosen on validation (published DLinear: 0.375 / 0.399)"
    )
    print(
        f"  {'weights':<11} {'level off':<10} {'ridge':>7} {'validation':>11} {'MSE':>7} {'MAE':>7} {'CPU-s':>6}"
    )
    for row in etth1_standard_protocol(file):
        kind = "individual" if row.individual else "shared"
        print(
            f"  {kind:<11} {row.normalisation:<10} {row.ridge:>7g} {row.validation_error:>11.4f} "
            f"{row.mse:>7.4f} {row.mae:>7.4f} {row.cpu_seconds:>6.2f}"
        )
    print("  (the first has the least validation error; 2,785 test windows each)")


if __name__ == "__main__":
    print(f"threads: {os.environ.get('OMP_NUM_THREADS', 'default')}, numpy {np.__version__}")
    bench_windows()
    bench_etth1()
