"""Frames in and out of the Python door: which column is what, and how a forecast is written as the data were."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypedDict

import polars as pl

from presurge.config import validated
from presurge.errors import ConfigError, FormatError
from presurge.evaluation.rolling import microseconds
from presurge.series.frequency import SECOND
from presurge.series.panel import ChannelKind, Panel
from presurge.series.timestamps import PER_SECOND, TimeForm, detect_form
from presurge.sources.files import RowFile, RowFrame
from presurge.sources.formats import recognise_file
from presurge.sources.frames import Frame, is_frame, is_pandas, pandas_columns
from presurge.workflows.dataset import Fill, TableConfig, examined
from presurge.workflows.predict import TIME_NAMES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONG = {"item": "unique_id", "timestamp": "ds", "origin": "cutoff", "actual": "y"}
"""Our names and those of Nixtla's long format."""


_SETTINGS = {"value": "values", "kind": "kinds"}
_ROLES = ("known", "observed", "static")
_LISTS = ("values", *_ROLES)
Source = Path | RowFile | Panel


class Columns(TypedDict, total=False):
    """Which columns of a table are what, and how to read them.

    Attributes:
        time: Column with the timestamps. Without a zone they are taken as UTC; numbers are seconds to nanoseconds.
        value: Columns to forecast (default: ``y`` in Nixtla's long format, else every number without another role).
        item: Column with the item names (default: ``unique_id`` in Nixtla's long format).
        known: Covariates whose future is known (default in Nixtla's long format: all columns without another role, if none of
            ``known``, ``observed`` and ``static`` is given).
        observed: Covariates that are known up to now.
        static: Numbers that are constant for an item.
        kind: ``count`` or ``gauge`` for columns whose kind should not be inferred.
        step: Time between two rows, such as ``"5m"`` (default: the most frequent one; for a request log one minute).
        fill: What a time without a row holds: ``zero``, ``missing``, or ``auto``, zero for counts and missing for gauges.
        holidays: Public holidays that are a covariate with a known future, such as ``DE-BY`` or ``US@America/New_York``.
    """

    time: str
    value: str | Sequence[str]
    item: str | None
    known: str | Sequence[str]
    observed: str | Sequence[str]
    static: str | Sequence[str]
    kind: Mapping[str, ChannelKind]
    step: str | None
    fill: Fill
    holidays: str


def opened(data: object) -> Source:
    """What a caller gave, examined once: a frame or a file as rows, a panel or a directory as it is.

    Raises:
        DataError: It is none of these, or cannot be read.
    """
    if isinstance(data, Panel):
        return data
    if isinstance(data, Path | str):
        return examined(Path(data))
    return RowFrame.of(data)


def reading_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a caller said of the columns as settings of ``TableConfig``.

    Raises:
        ConfigError: There is no such setting.
    """
    if unknown := given.keys() - Columns.__annotations__.keys():
        hint = f"Choose among: {', '.join(sorted(Columns.__annotations__))}."
        raise ConfigError("there is no such setting", setting=min(unknown), hint=hint)
    said = {
        _SETTINGS.get(key, key): value
        for key, value in given.items()
        if key == "item" or (value is not None and key != "holidays")
    }
    return {key: (said[key],) if key in _LISTS and isinstance(said[key], str) else said[key] for key in said}


def table_of(file: Source, given: Columns) -> TableConfig | None:
    """How to read a table: as the caller says, in Nixtla's long format, or by the names and types of its columns.

    None for a panel and a directory, and if no column is named of a trace or a minute file of a known format.

    Raises:
        ConfigError: No column is clearly the time, none can be forecast, or there is no such setting.
    """
    read, named = reading_of(given), given.keys() - {"holidays"}
    if not isinstance(file, RowFile):
        if named:
            what = "only a table has columns to name; a panel and a prepared directory say what theirs are"
            raise ConfigError(what, setting=min(named))
        return None
    if not named - {"step"} and (file.table or _is_known(file)):
        return None
    if "time" not in read:
        read["time"] = _time_of(file)
    long = read["time"] == "ds" and "unique_id" in file.columns
    read.setdefault("item", "unique_id" if long else None)
    if long and "y" in file.columns:
        read.setdefault("values", ("y",))
    taken = {read["time"], read["item"], *(name for key in _LISTS for name in read.get(key, ()))}
    rest = [name for name in file.columns if name not in taken]
    if not read.get("values"):
        types = file.read(rest).schema if rest else {}
        read["values"] = [name for name, dtype in types.items() if dtype.is_numeric() or dtype == pl.Boolean]
    elif long and not {*_ROLES} & read.keys():
        read["known"] = rest
    if not read["values"]:
        what = f"no column holds numbers to forecast; the columns are: {', '.join(file.columns)}"
        raise ConfigError(what, setting="value", hint="Name the columns to forecast.")
    return validated(TableConfig, read)


def _is_known(file: RowFile) -> bool:
    with suppress(FormatError):
        recognise_file(file)
        return True
    return False


def _time_of(file: RowFile) -> str:
    """The one column with a usual name for times, or else the one of a type for times."""
    named = [name for name in file.columns if name.lower() in TIME_NAMES]
    if not named and isinstance(file, RowFrame):
        named = [name for name, dtype in file.frame.schema.items() if dtype in (pl.Datetime, pl.Date)]
    if len(named) != 1:
        hint = f"Name it: `time=COL`. The columns are: {', '.join(file.columns)}."
        raise ConfigError("no single column is clearly the time", where=str(file.path), hint=hint)
    return named[0]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Form:
    """How a caller's data are written, so that what goes out is written alike.

    Attributes:
        pandas: Whether a pandas frame came in; everything else gets Polars frames.
        long: Whether the names are those of Nixtla's long format, and a single channel needs none.
        time: Type of the time column, pandas's or Polars's; None if no frame came in.
        stamps: How the times are written.
        item: Type of the item column.
    """

    pandas: bool = False
    long: bool = False
    time: Any = None
    stamps: TimeForm | None = None
    item: pl.DataType | None = None

    @classmethod
    def of(cls, data: object, file: Source, table: TableConfig | None) -> Self:
        """The form of what a caller gave: a frame that is read as ``table`` says, or something else."""
        if table is None or not (is_frame(data) and isinstance(file, RowFrame)):
            return cls(pandas=is_pandas(data))
        time = file.frame[table.time]
        return cls(
            pandas=is_pandas(data),
            long=(table.time, table.item) == ("ds", "unique_id"),
            time=dict(pandas_columns(data))[table.time].dtype if is_pandas(data) else time.dtype,
            stamps=detect_form(time, where=f"{file.path}, column {table.time!r}"),
            item=file.frame.schema[table.item] if table.item else None,
        )

    def write(
        self, frame: pl.DataFrame, draw: Callable[[], "Figure"] | None = None, *, named: bool = False
    ) -> Frame:
        """A frame of ours as the caller's kind of frame; its ``plot()`` is what ``draw`` draws.

        Unless it is to be ``named``, the only channel of a frame in Nixtla's long format loses its name.
        """
        for name in ("timestamp", "origin"):
            if name in frame.columns and self.stamps is not None:
                frame = frame.with_columns(_as_written(frame[name], self.stamps, self.time).alias(name))
        if "item" in frame.columns and self.item is not None and self.item.is_integer():
            frame = frame.with_columns(pl.col("item").cast(self.item))
        if self.long:
            if not named and frame["channel"].n_unique() == 1:
                frame = frame.drop("channel")
            frame = frame.rename({ours: name for ours, name in LONG.items() if ours in frame.columns})
        if not self.pandas:
            return frame if draw is None else _drawing(frame, draw)
        return _as_pandas(frame, self.time, draw)


def _drawing(frame: pl.DataFrame, draw: Callable[[], "Figure"]) -> pl.DataFrame:
    """The Polars frame with a ``plot()`` of its own; frames made from it are ordinary ones."""

    class Drawing(pl.DataFrame):
        def plot(self) -> "Figure":  # type: ignore[override]
            return draw()

        def __reduce__(self) -> tuple[Any, ...]:
            return pl.DataFrame, (pl.DataFrame(self),)  # pickled without the drawing

    return Drawing(frame)


def _as_written(stamps: pl.Series, form: TimeForm, dtype: Any) -> pl.Series:
    """UTC times, or seconds on a relative clock, as the caller writes them; for text as datetimes."""
    us = microseconds(stamps)
    if form.kind == "number":
        scaled = us * PER_SECOND[form.unit]
        return scaled // SECOND if bool((scaled % SECOND == 0).all()) else scaled / SECOND
    if form.kind == "duration":
        return us.cast(pl.Duration("us"))
    written = us.cast(pl.Datetime("us", "UTC" if form.zoned else None))
    whole_days = dtype == pl.Date and bool((written.dt.truncate("1d") == written).all())
    return written.cast(dtype) if whole_days or isinstance(dtype, pl.Datetime) else written


def _as_pandas(frame: pl.DataFrame, time: Any, draw: Callable[[], "Figure"] | None) -> Frame:
    """A pandas frame, made without pyarrow; times in the type that they came in."""
    pandas = sys.modules["pandas"]
    made = pandas.DataFrame({c.name: c.to_list() if c.dtype == pl.String else c.to_numpy() for c in frame})
    for stamps in frame.select(pl.selectors.datetime()):
        zoned = made[stamps.name].dt.tz_localize(getattr(stamps.dtype, "time_zone", None))
        made[stamps.name] = zoned.astype(time) if getattr(time, "kind", "") == "M" else zoned
    if draw is not None:
        usual, drawing = made.plot, draw

        class Plot(type(usual)):  # type: ignore[misc]
            """Draws what the frame holds if called without arguments, and else what pandas draws."""

            def __call__(self, *given: Any, **named: Any) -> Any:
                return usual(*given, **named) if given or named else drawing()

        object.__setattr__(made, "plot", Plot(made))  # as pandas itself keeps it
    return made
