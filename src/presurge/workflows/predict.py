"""Forecast what follows a history with a trained model."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from presurge import files
from presurge.errors import ConfigError, FormatError, HistoryError
from presurge.models import registry
from presurge.models.forecaster import Forecaster, SeriesSpec
from presurge.series.forecast import Forecast
from presurge.series.frequency import SECOND
from presurge.series.panel import Panel
from presurge.sources.files import RowFile
from presurge.sources.formats import recognise_file
from presurge.workflows.dataset import TableConfig, examined, load_series

GapRule = Literal["error", "interpolate"]
TIME_NAMES = ("timestamp", "time", "date", "datetime", "ds", "t_s")
"""Names that identify a time column when neither the model nor the user names one."""


def predict(
    model_directory: Path,
    history: Path,
    *,
    table: Mapping[str, Any] | None = None,
    horizon: int | None = None,
    future: Path | None = None,
    gaps: GapRule = "error",
) -> Forecast:
    """Forecast what follows the last complete row of a history file.

    Args:
        model_directory: A model directory or a run directory.
        history: A table with the columns that the model was trained on, a minute file, a request trace or a prepared
            directory. At least as many rows as the model's context, at the model's step.
        table: Settings of ``TableConfig`` that differ from those of the training table.
        horizon: Rows to forecast, at most the model's horizon (the default).
        future: The known columns of the rows after the history, as many as the model's horizon; only for a model that
            was trained with known columns.
        gaps: How to treat missing rows in the context: raise an error, or interpolate between their neighbours and say so
            in the forecast's ``flags``.

    Raises:
        HistoryError: The history is too short, has another step, misses a channel, or has a gap.
        ModelError: The model directory is damaged or unsafe.
    """
    model, config = registry.load(model_directory)
    spec = model.fitted_spec()
    step = f"{spec.step // SECOND}s"
    source = examined(history)
    reading = history_table(source, model, config, table)
    panel = load_series(source, reading, step=step).panel.with_ratios(c.name for c in spec.channels)
    known, flags = None, tuple[str, ...]()
    if future is not None:
        ahead = examined(future)
        known = load_series(ahead, future_table(ahead, spec, reading, step), step=step).panel
    if gaps == "interpolate":
        panel, flags = interpolate_context(panel, model)
    return replace(model.forecast(panel, horizon, future=known), flags=flags)


def history_table(
    source: Path | RowFile,
    model: Forecaster,
    config: dict[str, Any],
    changes: Mapping[str, Any] | None = None,
) -> TableConfig | None:
    """How to read a file of the model's series: as the training table was read or by the columns' names, with changes.

    None if the file is a prepared directory, a request trace or a minute file of a known format.

    Raises:
        HistoryError: The file is of no known format and lacks a column of the model.
        ConfigError: The changes do not say which columns to read.
    """
    if not isinstance(source, RowFile):
        return None
    channels = model.fitted_spec().channels
    roles = {"values": "target", "known": "known", "observed": "observed"}
    columns = {key: tuple(c.name for c in channels if c.role == role) for key, role in roles.items()}
    base = config["training"].get("table") or {}
    changes = dict(changes or {})
    if not base and not {"time", "values"} <= set(changes):
        time = changes.get("time") or _time_column(source, [channel.name for channel in channels])
        if time is None:
            return None
        base = {"time": time, "values": columns["values"]}
    # The model may have left covariates out that it was offered.
    columns["static"] = model.fitted_spec().features
    table = TableConfig(
        **{**base, **{key: columns[key] for key in ("known", "observed", "static")}, **changes}
    )
    read = {*table.values, *table.known, *table.observed}
    kinds = {c.name: table.kinds.get(c.name, c.kind) for c in channels if c.name in read}
    return table.model_copy(update={"kinds": kinds})


def future_table(
    source: Path | RowFile, spec: SeriesSpec, history: TableConfig | None, step: str
) -> TableConfig | None:
    """How to read the known columns of the rows to forecast: like the history, with nothing filled in.

    Raises:
        ConfigError: The model reads no future.
        HistoryError: The file is of no known format and lacks a column.
    """
    if not spec.known:
        raise ConfigError(
            "the model uses no known columns, so it reads no future",
            setting="future",
            hint="Leave it out, or train a model that uses `known=COL`.",
        )
    kinds = {channel.name: channel.kind for channel in spec.known}
    if not isinstance(source, RowFile):
        return None
    time = history.time if history else _time_column(source, tuple(kinds))
    if time is None:
        return None
    item = history.item if history else None
    return TableConfig(time=time, values=tuple(kinds), item=item, step=step, kinds=kinds, fill="missing")


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
