"""Load DATA, whether a prepared directory, a table or a trace, as a panel and its parts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from pydantic import Field

from presurge.config import Config
from presurge.errors import ConfigError, DataError, within
from presurge.files import sha256_of
from presurge.series.dataset import Dataset
from presurge.series.frequency import MINUTE, SECOND, parse_step
from presurge.series.holidays import with_holidays
from presurge.series.panel import Channel, ChannelKind, Panel
from presurge.series.spans import Span
from presurge.sources.columns import read_items, read_numbers, without_blank
from presurge.sources.files import RowFile, check_columns, open_file
from presurge.sources.formats import LOAD_CHANNELS
from presurge.sources.table import read_table
from presurge.workflows.edges import covered_rows, rows_over
from presurge.workflows.prepare import trace_panel
from presurge.workflows.prepare.directory import MANIFEST, MANIFEST_FORMAT

Fill = Literal["auto", "zero", "missing"]
_EDGE_NOTE = "Edge rows that the trace covers only in part are left out of training and scoring."


class TableConfig(Config):
    """How to read a table; a model stores how its training table was read.

    Attributes:
        time: Column with the timestamps.
        values: Columns with the channels to forecast.
        known: Columns with covariates whose future is known, such as a price or a holiday.
        observed: Columns with covariates that are only known up to now.
        static: Columns with numbers that are constant for an item.
        item: Column with the item names, for a table in long form.
        step: Frequency such as ``"60s"``; None infers it from the timestamps.
        kinds: ``count`` or ``gauge`` for the columns whose kind should not be inferred.
        fill: How to fill times without a row; ``auto`` means zero for counts and missing for gauges.
    """

    time: str
    values: tuple[str, ...]
    known: tuple[str, ...] = ()
    observed: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    item: str | None = None
    step: str | None = None
    kinds: dict[str, ChannelKind] = Field(default_factory=dict)
    fill: Fill = "auto"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Series:
    """A panel and where it came from; ``channels``, without covariates, are forecast unless others are asked for."""

    panel: Panel
    channels: tuple[str, ...]
    source: dict[str, Any]
    notes: tuple[str, ...] = ()
    split: tuple[Span, Span, Span] | None = None
    table: TableConfig | None = None


def examined(path: Path) -> Path | RowFile:
    """Open a file or a stream once for everything that reads it; return a directory as a path."""
    return Path(path) if Path(path).is_dir() else open_file(path)


def load_dataset(
    path: "Path | RowFile | Panel | Series",
    table: TableConfig | None = None,
    *,
    step: str | None = None,
    channels: Sequence[str] | None = None,
    known: Sequence[str] = (),
    observed: Sequence[str] = (),
    test_fraction: float | None = None,
    validation_fraction: float | None = None,
) -> Dataset:
    """Load DATA and split it into training, validation and test rows.

    Args:
        path: A prepared directory, a table (with ``table``), a request trace or minute file of a known format, a panel, or
            what ``load_series`` made of one.
        table: How to read a table.
        step: Time between two rows, for a request trace (default: 60 s).
        channels: Which channels of a prepared directory or a trace to forecast (default: requests and tokens).
        known: Further channels that are covariates with a known future. Those of public holidays are made:
            ``holidays:COUNTRY[-SUBDIVISION][@ZONE]``, such as ``holidays:DE-BY`` or ``holidays:US@America/New_York``.
        observed: Further channels that are covariates known up to now.
        test_fraction: Share of the rows, at the end, that is only scored (default: that of a prepared directory, else 0.2).
        validation_fraction: Share of the rows before the test rows (default: that of a prepared directory, else 0.2).

    Raises:
        DataError: The input cannot be read or holds too little.
        ConfigError: A fraction is impossible.
    """
    series = path if isinstance(path, Series) else load_series(path, table, step=step)
    roles = {c.name: c.role for c in series.panel.channels}
    known = (*(name for name, role in roles.items() if role == "known"), *known)
    observed = (*(name for name, role in roles.items() if role == "observed"), *observed)
    panel = _chosen(series, channels, known, observed)
    notes = series.notes
    if series.split is not None and test_fraction is None and validation_fraction is None:
        train, validation, test = series.split
        notes += (_describe(series.split, len(panel)),)
    else:
        train, test = _tail(panel.full_span(), test_fraction, "test_fraction")
        validation = Span(train.last, train.last)
    given = len(validation) > 0
    if not given:
        train, validation = _tail(train, validation_fraction, "validation_fraction")
    return Dataset(
        panel=panel,
        train=train,
        validation=validation,
        test=test,
        validation_given=given,
        source=series.source,
        notes=notes,
        table=series.table.model_dump(mode="json") if series.table is not None else None,
    )


def _chosen(
    series: Series, channels: Sequence[str] | None, known: Sequence[str], observed: Sequence[str]
) -> Panel:
    """The channels to forecast and the covariates of a series, with their roles.

    Raises:
        DataError: There is no such channel.
    """
    covariates = (*observed, *known)
    targets = channels or [name for name in series.channels if name not in covariates]
    with within(series.source["path"]):
        panel = with_holidays(series.panel.with_ratios(targets), known)
        panel = panel.select(tuple(dict.fromkeys((*targets, *covariates))))
    return panel.with_roles(known=dict.fromkeys(known), observed=observed)


def _describe(split: tuple[Span, Span, Span], rows: int) -> str:
    train, validation, test = map(len, split)
    held = rows - train - validation - test
    others = f", and {held:,} rows that only a final fit learns from" if held else ""
    return f"prepared split: {train:,} training, {validation:,} validation and {test:,} test rows{others}"


def load_series(
    source: Path | RowFile | Panel,
    table: TableConfig | None = None,
    *,
    step: str | None = None,
    now: int | None = None,
) -> Series:
    """Load DATA as one panel, with a split only if it was prepared with one, and without rows whose step is not over.

    Args:
        source: A prepared directory, a table (with ``table``), a request trace or minute file of a known format; or a panel,
            which is taken as it is.
        table: How to read a table.
        step: Time between two rows, for a request trace (default: 60 s) or the answer of a Prometheus server.
        now: What time it is (``edges.rows_over``).

    Raises:
        DataError: The input cannot be read.
    """
    if isinstance(source, Panel):
        origin: dict[str, Any] = {"path": "panel", "format": "panel"}
        return Series(panel=source, channels=source.channel_names, source=origin)
    return _until(_read_series(source, table, step), now)


def _until(series: Series, now: int | None) -> Series:
    """A series without the rows that are not over; a note names them."""
    panel = series.panel
    over, note, _ = rows_over(panel, now, series.source["path"])
    if note is None:
        return series
    split = None
    if series.split is not None:
        train, validation, test = (
            Span(np.minimum(part.first, over.last), np.minimum(part.last, over.last)) for part in series.split
        )
        split = train, validation, test
    return replace(series, panel=panel.take(over), notes=(*series.notes, note), split=split)


def _read_series(source: Path | RowFile, table: TableConfig | None, step: str | None) -> Series:
    if not isinstance(source, RowFile):
        if table is None and Path(source).is_dir():
            return _load_prepared(Path(source))
        source = open_file(source)
    if table is None and source.table:
        table = TableConfig(**{**source.table, **({"step": step} if step else {})})
    if table is not None:
        columns = table.model_dump(exclude={"static"})
        values = [name for key in ("values", "observed", "known") for name in columns.pop(key)]
        ratios = [name for name in values if name not in source.columns and name.count("/") == 1]
        parts = [part for name in values for part in (name.split("/") if name in ratios else [name])]
        columns["kinds"] = {name: kind for name, kind in table.kinds.items() if name not in ratios}
        read = read_table(source, values=list(dict.fromkeys(parts)), **columns)
        panel, kind, notes, main = read.panel.with_ratios(ratios), "table", tuple(read.notes), tuple(values)
        panel = panel.with_roles(known=table.known, observed=table.observed)
        if table.static:
            panel = _with_features(panel, source, table)
    else:
        panel, kind, notes = trace_panel(source, MINUTE if step is None else parse_step(step))
        main = tuple(channel.name for channel in LOAD_CHANNELS if channel.name in panel.channel_names)
    origin = {"path": str(source.path), "format": kind}
    if source.data.is_file():
        origin["sha256"] = sha256_of(source.data)
    return Series(panel=panel, channels=main, source=origin, notes=(*source.notes, *notes), table=table)


def _with_features(panel: Panel, file: RowFile, table: TableConfig) -> Panel:
    """The panel with the static features that the columns of a table say, the same in every row of an item.

    Raises:
        DataError: A feature is not a number, is missing, or changes within an item.
    """
    check_columns(file, list(table.static))
    names = [*([table.item] if table.item else []), *table.static]
    rows = without_blank(file, file.read(list(dict.fromkeys(names))))
    item_N, items = read_items(rows, table.item)
    features_IF = np.empty((len(items), len(table.static)), np.float32)
    for f, name in enumerate(table.static):
        value_N = read_numbers(rows, name).cast(pl.Float64).fill_null(np.nan).to_numpy()
        features_IF[item_N, f] = value_N
        wrong = np.flatnonzero(features_IF[item_N, f] != value_N.astype(np.float32))
        if wrong.size:
            raise DataError(
                "a static feature needs one number in all rows of an item",
                where=f"{file.where(int(rows.number[wrong[0]]), name)}, item {items[item_N[wrong[0]]]!r}",
                hint="Name a column that changes with time in `known` or `observed`.",
            )
    return panel.replace(features=features_IF, feature_names=table.static)


def _load_prepared(directory: Path) -> Series:
    path = directory / MANIFEST
    if not path.is_file():
        hint = "Make one with `presurge prepare`."
        raise DataError(f"is a directory without {MANIFEST}", where=str(directory), hint=hint)
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if manifest.get("format") != MANIFEST_FORMAT or manifest.get("format_version") not in (1, 2):
            raise DataError(
                "was not written by a version of Presurge that this one can read",
                where=str(path),
                hint="Prepare the data again with this version.",
            )
        series = _stored(directory, manifest)
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        hint = "Prepare the data again."
        raise DataError(f"cannot be read: {error}", where=str(path), hint=hint) from error
    panel, edges, notes, split = series.panel, manifest["partial_edges"], list(manifest["notes"]), None
    covered = covered_rows(panel, (edges["first"], edges["last"]), directory)
    if len(covered) < len(panel):
        notes.append(_EDGE_NOTE)
    if "split" in manifest:
        parts = (
            np.clip(manifest["split"][name], covered.first, covered.last) for name in ("train", "val", "test")
        )
        train, validation, test = (Span(part[:1] - covered.first, part[1:] - covered.first) for part in parts)
        split = train, validation, test
    return replace(series, panel=panel.take(covered), notes=tuple(notes), split=split)


def _stored(directory: Path, manifest: Mapping[str, Any]) -> Series:
    """The series of a prepared directory with all of its rows."""
    path = directory / manifest["series"]
    origin = {"path": str(directory), "format": "prepared", "trace": manifest["source"]}
    if "table" in manifest:
        series = _read_series(path, TableConfig(**manifest["table"]), None)
        if manifest.get("now") is not None:
            series = _until(series, manifest["now"])
        return replace(series, source=origin)
    main, extra = ([Channel(**c) for c in manifest[key]] for key in ("channels", "extra_channels"))
    frame = pl.read_parquet(path, columns=[channel.name for channel in (*main, *extra)])
    panel = Panel(
        values=frame.to_numpy().astype(np.float32),
        channels=(*main, *extra),
        step=manifest["step_seconds"] * SECOND,
        start=np.array([manifest["start_us"]]),
        clock=manifest["clock"],
    )
    return Series(panel=panel, channels=tuple(channel.name for channel in main), source=origin)


def _tail(span: Span, fraction: float | None, setting: str) -> tuple[Span, Span]:
    share = 0.2 if fraction is None else fraction
    if not 0 < share < 1:
        raise ConfigError(
            f"{share:g} cannot be a share of the rows", setting=setting, hint="Give a number between 0 and 1."
        )
    return span.cut_tail(repr(share))
