"""Data frames in memory: a pandas frame becomes a Polars frame, without pyarrow and without importing pandas."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import polars as pl

from presurge.errors import DataError

Frame = Any
"""A ``pandas.DataFrame``, a ``polars.DataFrame`` or a ``polars.LazyFrame``."""


def is_pandas(data: object) -> bool:
    """Whether it is a pandas frame; pandas is not imported for that."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(data, pandas.DataFrame)


def is_frame(data: object) -> bool:
    """Whether it is a frame that ``as_polars`` takes."""
    return isinstance(data, pl.DataFrame | pl.LazyFrame) or is_pandas(data)


def as_polars(data: Frame, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """A frame as a Polars frame, with some of its columns or all.

    A level of a pandas index becomes a column if it has a name or holds times; times without a name are called
    ``timestamp``. Times with a zone are converted to UTC, periods become their beginnings, and ``NaN``, ``NaT`` and ``NA``
    become null.

    Raises:
        DataError: It is not a data frame, or two columns have the same name.
    """
    if not is_frame(data):
        hint = "Give a pandas or Polars DataFrame."
        raise DataError(f"{type(data).__name__} is not a data frame", hint=hint)
    if is_pandas(data):
        found = [
            (name, column) for name, column in pandas_columns(data) if columns is None or name in columns
        ]
        names = [name for name, _ in found]
        if twice := [name for name in names if names.count(name) > 1]:
            raise DataError(f"two columns are named {twice[0]!r}", where="data frame", hint="Drop one.")
        return pl.DataFrame([_series(name, column) for name, column in found])
    wanted = data if columns is None else data.select(columns)
    return wanted.collect() if isinstance(wanted, pl.LazyFrame) else wanted


def pandas_columns(data: Frame) -> Iterator[tuple[str, Any]]:
    """The columns of a pandas frame by name, the levels of its index first."""
    pandas = sys.modules["pandas"]
    names = [str(name) for name in data.columns]
    for place, name in enumerate(data.index.names):
        level = data.index.get_level_values(place)
        times = isinstance(level, pandas.DatetimeIndex | pandas.PeriodIndex)
        called = "timestamp" if name is None and times else name
        if called is not None and str(called) not in names:
            yield str(called), level
    yield from ((name, data.iloc[:, place]) for place, name in enumerate(names))


def _series(name: str, column: Any) -> pl.Series:
    """A pandas column; what NumPy has no type for, such as text, is read object by object."""
    if isinstance(column.dtype, sys.modules["pandas"].PeriodDtype):
        column = column.array.to_timestamp()
    dtype = column.dtype
    kind = getattr(dtype, "kind", "O")
    if kind == "M":
        stamps = pl.Series(name, column.to_numpy("datetime64[us]"))
        zone = getattr(dtype, "tz", None) or getattr(getattr(dtype, "pyarrow_dtype", None), "tz", None)
        return stamps.dt.replace_time_zone("UTC") if zone else stamps
    if kind == "m":
        return pl.Series(name, column.to_numpy("timedelta64[us]"))
    if kind in "iufb" and hasattr(dtype, "numpy_dtype"):  # missing values have a mask of their own
        filled = pl.Series(name, column.to_numpy(dtype.numpy_dtype, na_value=0), nan_to_null=True)
        return filled.set(pl.Series(np.asarray(column.isna(), bool)), None)
    if kind in "iufb":
        return pl.Series(name, column.to_numpy(), nan_to_null=True)
    cells = column.to_numpy(object, na_value=None).tolist()
    with suppress(pl.exceptions.ComputeError):  # times of several zones are read as text
        return pl.Series(name, cells, strict=False)
    return pl.Series(name, [None if cell is None else str(cell) for cell in cells])
