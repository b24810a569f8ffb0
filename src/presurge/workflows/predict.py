"""Forecast what follows a history with a trained model."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import field_validator

from presurge import files
from presurge.config import Config
from presurge.errors import ConfigError, FormatError, HistoryError
from presurge.models import registry
from presurge.models.forecaster import Forecaster
from presurge.models.history import future_rows, matching_channels, unfit_items
from presurge.series.forecast import Forecast
from presurge.series.frequency import SECOND, parse_step
from presurge.series.holidays import is_holidays, with_holidays
from presurge.series.panel import Panel
from presurge.series.timestamps import format_stamp
from presurge.sources.files import RowFile
from presurge.sources.formats import recognise_file
from presurge.workflows.dataset import Series, TableConfig, examined, load_series
from presurge.workflows.edges import moment_of

GapRule = Literal["error", "interpolate"]
TIME_NAMES = ("timestamp", "time", "date", "datetime", "ds", "t_s")
"""Names that identify a time column when neither the model nor the user names one."""
_SHOWN = 5
"""Items that a message names."""
_NEVER = 1 << 62
"""A time at which all rows are finished."""


class PredictConfig(Config):
    """What to forecast, and from what.

    Attributes:
        horizon: Rows to forecast, at most the model's horizon (the default).
        fill_gaps: How to treat missing rows in the context: give no forecast, or interpolate between their neighbours and say
            so in the forecast's ``flags``.
        items: Names of the items to forecast; None takes all.
        now: What time it is, in microseconds since the Unix epoch or on the clock of the history; None takes the system clock
            if the stamps are dates.
        max_age: Largest age of the end of the last row of an item, such as ``"15m"``; an older item gets no forecast.
        levels: Levels of the quantiles to give (default: the calibrated ones).
    """

    horizon: int | None = None
    fill_gaps: GapRule = "error"
    items: tuple[str, ...] | None = None
    now: int | None = None
    max_age: str | None = None
    levels: tuple[float, ...] | None = None

    @field_validator("max_age")
    @classmethod
    def _is_a_duration(cls, age: str | None) -> str | None:
        try:
            parse_step(1 if age is None else age)
        except ConfigError as error:
            raise ValueError("is no age from 1s to 1w, such as 15m") from error
        return age


DEFAULTS = PredictConfig()


def predict(
    model_directory: Path,
    history: Path,
    config: PredictConfig = DEFAULTS,
    *,
    table: Mapping[str, Any] | None = None,
    future: Path | None = None,
) -> Forecast:
    """Forecast what follows the last complete row of every item of a history file.

    An item that is too short, too old or has a gap gets no forecast; ``missing`` of the forecast says why. An item that ends
    before the others is flagged.

    Args:
        model_directory: A model directory or a run directory.
        history: A table with the columns that the model was trained on, a minute file, a request trace or a prepared
            directory. At least as many rows as the model's context, at the model's step.
        config: What to forecast.
        table: Settings of ``TableConfig`` that differ from those of the training table.
        future: The known columns of the rows after the history, as many as the model's horizon; only for a model that
            was trained with known columns.

    Raises:
        HistoryError: No item can be forecast, or the history has another step or misses a channel.
        ConfigError: There is no such item, or it is unknown what time it is.
        ModelError: The model directory is damaged or unsafe.
    """
    model, record = registry.load(model_directory)
    series = load_history(examined(history), model, record["training"], table, now=config.now)
    known = None if future is None else load_future(examined(future), model, series.table)
    made = forecast_items(model, series.panel, config, future=known)
    return replace(made, flags=(*made.flags, *(note for note in series.notes if note.endswith("(`now`)"))))


def load_history(
    source: Path | RowFile | Panel,
    model: Forecaster,
    training: Mapping[str, Any],
    changes: Mapping[str, Any] | None = None,
    *,
    now: int | None = None,
) -> Series:
    """Load rows of a model's series: read as the training table was or by the columns' names, with changes.

    Args:
        source: A file, a prepared directory, or a panel, which is taken as it is.
        model: A fitted model.
        training: How the model was trained, as its ``config.json`` says.
        changes: Settings of ``TableConfig`` that differ from those of the training table.
        now: What time it is, as for ``load_series``.

    Raises:
        HistoryError: The file is of no known format and lacks a column of the model.
        ConfigError: The changes do not say which columns to read.
        DataError: The file cannot be read.
    """
    table = _history_table(source, model, training, changes) if isinstance(source, RowFile) else None
    return load_series(source, table, step=f"{model.fitted_spec().step // SECOND}s", now=now)


def load_future(source: Path | RowFile, model: Forecaster, history: TableConfig | None) -> Panel:
    """The known columns of the rows to forecast, read as the history is, with nothing filled in.

    Raises:
        ConfigError: The model reads no future.
        HistoryError: The file is of no known format and lacks a column.
    """
    spec, table = model.fitted_spec(), None
    kinds = {channel.name: channel.kind for channel in spec.known if not is_holidays(channel.name)}
    if not kinds:
        raise ConfigError(
            "the model uses no known columns, so it reads no future",
            setting="future",
            hint="Leave it out, or train a model that uses `known=COL`.",
        )
    step = f"{spec.step // SECOND}s"
    if isinstance(source, RowFile):
        alike = history is not None and history.time in source.columns
        time = history.time if history and alike else _time_column(source, tuple(kinds))
        read: dict[str, Any] = {
            "time": time,
            "values": tuple(kinds),
            "item": history.item if history else None,
        }
        table = TableConfig(**read, step=step, kinds=kinds, fill="missing") if time else None
    panel = load_series(source, table, step=step, now=_NEVER).panel
    return with_holidays(panel, [channel.name for channel in spec.known])


def forecast_items(
    model: Forecaster, history: Panel, config: PredictConfig = DEFAULTS, *, future: Panel | None = None
) -> Forecast:
    """Forecast what follows the last row of every item that can be forecast; ``missing`` names the others.

    Raises:
        HistoryError: No item can be forecast, or the history has another step or misses a channel.
        ConfigError: There is no such item, or it is unknown what time it is.
    """
    names = (channel.name for channel in model.fitted_spec().channels)
    panel, flags = _chosen(history.with_ratios(names), config.items), tuple[str, ...]()
    if config.fill_gaps == "interpolate":
        panel, flags = interpolate_context(panel, model)
    missing = _unfit(panel, model, future, config)
    fit = [number for number in range(len(panel.items)) if number not in missing]
    if not fit:
        raise _none_fits(panel, missing)
    usable = panel.take_items(fit) if missing else panel
    forecast = model.forecast(usable, config.horizon, future=future, levels=config.levels)
    return replace(
        forecast,
        flags=(*forecast.flags, *flags, *_behind(forecast, history)),
        missing={panel.items[number]: error.what for number, error in missing.items()},
    )


def _chosen(panel: Panel, items: Sequence[str] | None) -> Panel:
    """The items of a panel with the given names.

    Raises:
        ConfigError: There is no item of that name.
    """
    if items is None:
        return panel
    unknown = [name for name in items if name not in panel.items]
    if unknown:
        near = get_close_matches(unknown[0], panel.items, n=_SHOWN)
        more = ["…"] if len(panel.items) > _SHOWN else []
        hint = f"The items are: {', '.join([*panel.items[:_SHOWN], *more])}"
        if near:
            hint = f"Did you mean: {', '.join(near)}?"
        if panel.items == ("",):
            hint = "The history has one series without a name: leave this out."
        raise ConfigError(f"there is no item {unknown[0]!r}", setting="items", hint=hint)
    return panel.take_items([panel.items.index(name) for name in dict.fromkeys(items)])


def _unfit(
    panel: Panel, model: Forecaster, future: Panel | None, config: PredictConfig
) -> dict[int, HistoryError]:
    """The items of a history that cannot be forecast, by number, and why.

    Raises:
        HistoryError: The history has another step or misses a channel.
        ConfigError: An age is asked about on a clock that is not known.
    """
    history, found = matching_channels(panel, model.fitted_spec()), dict[int, HistoryError]()
    if config.max_age is not None:
        oldest = parse_step(config.max_age) + panel.step
        if config.now is None and panel.clock != "utc":
            raise ConfigError(
                "the history counts seconds from an unknown origin, so its age is unknown",
                setting="max_age",
                hint="Say what time it is on that clock: `now=SECONDS`",
            )
        moment = moment_of(config.now)
        for item in np.flatnonzero(np.diff(panel.indptr)).tolist():
            last = int(panel.times_of(panel.indptr[[item + 1]] - 1)[0])
            if moment - last > oldest:
                what = f"the last row is too old, at {format_stamp(last, panel.clock)}"
                found[item] = HistoryError(what, hint="Give newer rows, or a larger `max_age`.")
    found = unfit_items(history, model.context) | found
    names = [channel.name for channel in model.fitted_spec().known]
    if future is not None and {*names} <= {*future.channel_names}:
        ahead = future.select(names)
        for item in range(len(panel.items)):
            try:
                future_rows(history, item, ahead, model.horizon)
            except HistoryError as error:
                found.setdefault(item, error)
    return found


def _none_fits(panel: Panel, missing: Mapping[int, HistoryError]) -> HistoryError:
    """The error of a history of which no item can be forecast."""
    error, name = missing[0], panel.items[0]
    if len(missing) == 1:
        error.where = f"item {name!r}" if name else None
    else:
        error.what, error.where = (
            f"none of the {len(missing)} items can be forecast; {name}: {error.what}",
            None,
        )
    return error


def _behind(forecast: Forecast, history: Panel) -> tuple[str, ...]:
    """A flag for the items that end more than a step before others of the history, asked for or not."""
    ends = history.times_of(history.indptr[1:][np.diff(history.indptr) > 0] - 1)
    late = np.flatnonzero(forecast.origin < ends.max() - forecast.step)
    if not len(late):
        return ()
    named = [
        f"{forecast.items[i]} ({format_stamp(int(forecast.origin[i]), forecast.clock)})"
        for i in late[:_SHOWN]
    ]
    more = f" and {len(late) - _SHOWN} more" if len(late) > _SHOWN else ""
    return (f"the history of these items ends before that of the others: {', '.join(named)}{more}",)


def _history_table(
    source: RowFile, model: Forecaster, training: Mapping[str, Any], changes: Mapping[str, Any] | None
) -> TableConfig | None:
    """How to read a file of the model's series (see ``load_history``); None if it is of a known format."""
    spec, changes = model.fitted_spec(), changes or {}
    channels = [channel for channel in spec.channels if not is_holidays(channel.name)]
    named = {
        role: tuple(c.name for c in channels if c.role == role) for role in ("target", "known", "observed")
    }
    base = training.get("table") or {}
    if not base and not {"time", "values"} <= changes.keys():
        time = changes.get("time") or _time_column(source, [channel.name for channel in channels])
        if time is None:
            return None
        base = {"time": time, "values": named["target"]}
    # The model may have left covariates out that it was offered.
    used = {"known": named["known"], "observed": named["observed"], "static": spec.features}
    table = TableConfig(**{**base, **used, **changes})
    read = {*table.values, *table.known, *table.observed}
    kinds = {c.name: table.kinds.get(c.name, c.kind) for c in channels if c.name in read}
    return table.model_copy(update={"kinds": kinds})


def interpolate_context(panel: Panel, model: Forecaster) -> tuple[Panel, tuple[str, ...]]:
    """Fill missing values in each item's context by straight lines between observed neighbours; flag what was filled.

    A gap that reaches the end of the history stays: there is no later value to interpolate to.
    """
    values, filled = panel.values.copy(), 0
    for item in range(len(panel.items)):
        rows = panel.rows_of(item)
        for series in values[max(rows.start, rows.stop - model.context) : rows.stop].T:  # views
            known, holes = np.flatnonzero(~np.isnan(series)), np.flatnonzero(np.isnan(series))
            if len(known):
                holes = holes[(holes > known[0]) & (holes < known[-1])]
                series[holes] = np.interp(holes, known, series[known])
                filled += len(holes)
    if not filled:
        return panel, ()
    flag = f"{filled} missing values of the context were interpolated between their neighbours"
    return panel.replace(values=values), (flag,)


def _time_column(file: RowFile, channels: Sequence[str]) -> str | None:
    """The column with a usual name for times, in a file with the columns of the channels; None for a known format.

    Raises:
        HistoryError: The file is of no known format and lacks a channel, or its time column is ambiguous.
    """
    columns = file.columns
    times = [name for name in columns if name.lower() in TIME_NAMES]
    if set(channels) <= set(columns) and len(times) == 1:
        return times[0]
    try:
        recognise_file(file)
    except FormatError as error:
        missing = [name for name in channels if name not in columns]
        what = (
            f"no column {', '.join(map(repr, missing))}" if missing else "no column that is clearly the time"
        )
        raise HistoryError(
            f"{what}; the columns are: {', '.join(columns)}",
            where=str(file.path),
            hint=f"The model forecasts {', '.join(channels)}. Name the columns of a table: `time=COL` `value=COL`",
        ) from error
    return None


def write_forecast(forecast: Forecast, path: Path) -> None:
    """Write a forecast as CSV or JSON, by the suffix of the name; devices and FIFOs without a suffix get JSON.

    Raises:
        ConfigError: The name ends in neither ``.csv`` nor ``.json``.
    """
    stream = not path.suffix and (path.is_fifo() or path.is_char_device() or str(path).startswith("/dev/"))
    if path.suffix == ".json" or stream:
        files.write_json(path, forecast.to_dict())
    elif path.suffix == ".csv":
        with files.atomic_path(path) as temporary:
            forecast.to_frame().write_csv(temporary)
    else:
        raise ConfigError(
            f"{path.name} is neither .csv nor .json", setting="output", hint="Name it FILE.csv or FILE.json."
        )
