"""Backtests with cutoffs: where to forecast from, when to fit anew, and every forecast as a table.

Shapes: B windows, H horizon, C channels.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from presurge.errors import ConfigError
from presurge.evaluation.walk import Piece, RollingForecast
from presurge.files import atomic_path
from presurge.series.dataset import Dataset
from presurge.series.forecast import value_columns
from presurge.series.frequency import SECOND
from presurge.series.panel import Panel, time_column
from presurge.series.spans import Span

Keep = Callable[[pl.DataFrame], None]
"""Takes the forecasts of one model from some origins, as ``forecast_frame`` gives them."""

_ROWS_AT_ONCE = 1 << 19


def rounds(
    dataset: Dataset, horizon: int, *, stride: int = 1, cutoffs: int | None = None, refit: int | None = None
) -> tuple[list[Dataset], int]:
    """Divide the test rows of a data set into rounds of fitting and scoring: (a data set for each, rows between origins).

    An origin, or cutoff, is the last row that a forecast knows. Every round fits on the rows up to its first origin, of
    which the last ones choose and calibrate, in the same proportion as in the data set.

    Args:
        dataset: The series and its parts.
        horizon: Rows that each forecast is compared with.
        stride: Rows between two origins.
        cutoffs: Number of evenly spaced origins in each item, from the row before the test rows on; sets the stride.
        refit: Number of origins after which the models are fitted anew; None fits once, on the parts as they are.

    Raises:
        ConfigError: A number is below 1, both a stride and cutoffs are given, or the test rows hold too few origins.
    """
    for setting, value in (("stride", stride), ("cutoffs", cutoffs), ("refit", refit)):
        if value is not None and value < 1:
            raise ConfigError(f"must be at least 1 (got {value})", setting=setting)
    test = dataset.test
    if cutoffs is not None:
        stride = _spacing(test, horizon, stride, cutoffs)
        test = Span(test.first, np.minimum(test.last, test.first + (cutoffs - 1) * stride + horizon))
    if refit is None:
        return [replace(dataset, test=test)], stride
    parts: list[Dataset] = []
    most = int((test.last - test.first).max()) - horizon + 1
    for begin in range(0, most, refit * stride):
        first = np.minimum(test.first + begin, test.last)
        last = np.minimum(test.last, first + (refit - 1) * stride + horizon)
        parts.append(replace(dataset.learning_from(first), test=Span(first, last)))
    return parts, stride


def _spacing(test: Span, horizon: int, stride: int, cutoffs: int) -> int:
    """Rows between so many evenly spaced origins, in the shortest item that has test rows."""
    if stride != 1:
        raise ConfigError(
            "the cutoffs already say how far apart the forecasts are",
            setting="stride",
            hint="Give `stride` or `cutoffs`, not both.",
        )
    rows = test.last - test.first
    possible = int(rows[rows > 0].min(initial=len(test))) - horizon + 1
    if possible < cutoffs:
        raise ConfigError(
            f"the {possible + horizon - 1} test rows hold {max(0, possible)} forecasts of {horizon} rows, not {cutoffs}",
            setting="cutoffs",
            hint="Ask for fewer, or give a larger `test_fraction`.",
        )
    return max(1, (possible - 1) // max(1, cutoffs - 1))


def forecast_frame(piece: Piece) -> pl.DataFrame:
    """The forecasts of a piece, a row for each origin, step and channel.

    The columns are ``item`` (where items have names), ``origin``, ``timestamp``, ``channel``, ``model``, ``actual``, ``mean``,
    ``median``, ``q0.1`` ...; a missing actual value is null.
    """
    panel, origins_B = piece.panel, piece.origins_B
    actual_BHC = piece.actual()
    _, horizon, channels = actual_BHC.shape
    names = [panel.channels[column].name for column in panel.targets]
    times_BH = panel.times_of(origins_B[:, None] + np.arange(1, horizon + 1))
    columns = [
        time_column(np.repeat(panel.times_of(origins_B), horizon * channels), panel.clock).alias("origin"),
        time_column(np.repeat(times_BH.reshape(-1), channels), panel.clock),
        pl.Series("channel", names * times_BH.size),
        pl.Series("model", [piece.model]).new_from_index(0, actual_BHC.size),
        pl.Series("actual", actual_BHC.reshape(-1)).fill_nan(None),
        *value_columns(piece.mean_BHC, piece.median_BHC, piece.quantiles_BHQC, piece.levels),
    ]
    if panel.items != ("",):
        items = np.array(panel.items)[panel.items_of(origins_B)]
        columns.insert(0, pl.Series("item", np.repeat(items, horizon * channels)))
    return pl.DataFrame(columns)


def blocks_of(frame: pl.DataFrame, panel: Panel, span: Span, item: int = 0) -> RollingForecast:
    """The rows of an item in a span with the forecasts of one model, laid one after another without overlap.

    Args:
        frame: Its forecasts, as ``forecast_frame`` gives them; those of other items are left out.
        panel: The series.
        span: The rows to show.
        item: Which item.
    """
    if "item" in frame.columns:
        frame = frame.filter(pl.col("item") == panel.items[item])
    frame = frame.with_columns(microseconds(frame[name]) for name in ("origin", "timestamp"))
    shown, end = list[int](), 0
    for origin, last in frame.group_by("origin").agg(pl.max("timestamp")).sort("origin").iter_rows():
        if not shown or origin >= end:
            shown.append(origin)
            end = last
    frame = frame.filter(pl.col("origin").is_in(shown))
    columns = [name for name in frame.columns if name[0] == "q" and name[1:2].isdigit()]
    found = RollingForecast.empty(panel, span, item, tuple(float(name[1:]) for name in columns))
    names = [channel.name for channel in found.channels]
    place = (
        np.searchsorted(found.times_us, frame["timestamp"]),
        frame["channel"].replace_strict(names, list(range(len(names))), return_dtype=pl.Int64).to_numpy(),
    )
    found.mean_NC[place] = frame["mean"]
    for q, name in enumerate(columns):
        found.quantiles_NQC[:, q][place] = frame[name].fill_null(np.nan)
    return found


def microseconds(stamps: pl.Series) -> pl.Series:
    """The times of a frame of ours as int64 microseconds: UTC datetimes, or seconds on a relative clock."""
    return (stamps * SECOND).round().cast(pl.Int64) if stamps.dtype.is_float() else stamps.dt.epoch("us")


@contextmanager
def forecast_file(path: Path) -> Iterator[Keep]:
    """Collect forecasts in a Parquet file, in memory that does not grow with their number.

    Raises:
        StorageError: The file system refused; what stood at ``path`` is untouched.
    """
    with atomic_path(path) as file:
        parts: list[Path] = []
        held: list[pl.DataFrame] = []

        def write() -> None:
            parts.append(file.with_name(f"{len(parts)}.parquet"))
            pl.concat(held, how="diagonal").write_parquet(parts[-1])
            held.clear()

        def keep(frame: pl.DataFrame) -> None:
            held.append(frame)
            if sum(map(len, held)) >= _ROWS_AT_ONCE:
                write()

        yield keep
        if held:
            write()
        whole = pl.concat([pl.scan_parquet(part) for part in parts], how="diagonal")
        whole.sink_parquet(file)
