"""The DATA argument of a command: a prepared directory, a table or a trace becomes a panel and its splits."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from presurge.errors import ConfigError, DataError
from presurge.files import sha256_of
from presurge.series.dataset import Dataset
from presurge.series.frequency import MINUTE, SECOND, parse_step
from presurge.series.panel import Channel, ChannelKind, Panel
from presurge.series.spans import Span
from presurge.sources.formats import LOAD_CHANNELS
from presurge.sources.table import read_table
from presurge.workflows.prepare import trace_panel
from presurge.workflows.prepare.directory import MANIFEST, MANIFEST_FORMAT

Fill = Literal["auto", "zero", "missing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOptions:
    """How to read a table; also what a model remembers of the table that it was trained on.

    Attributes:
        time: Column of the time stamps.
        values: Columns of the channels.
        item: Column of the item names, for a table in long form.
        step: Frequency such as ``"60s"``; told from the stamps where None.
        kinds: ``count`` or ``gauge`` for columns where the rule would decide otherwise.
        fill: What a bucket without a row means; ``auto`` is zero for counts and missing for gauges.
    """

    time: str
    values: tuple[str, ...]
    item: str | None = None
    step: str | None = None
    kinds: dict[str, ChannelKind] = field(default_factory=dict)
    fill: Fill = "auto"

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "time": self.time,
            "values": list(self.values),
            "item": self.item,
            "step": self.step,
            "kinds": self.kinds,
            "fill": self.fill,
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "TableOptions":
        """The inverse of ``to_dict``."""
        return cls(**{**value, "values": tuple(value["values"])})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Series:
    """A panel and where it came from; ``channels`` are those to forecast unless others are asked for."""

    panel: Panel
    channels: tuple[str, ...]
    source: dict[str, Any]
    notes: tuple[str, ...] = ()
    table: TableOptions | None = None
    split: tuple[Span, Span, Span] | None = None


def load_dataset(
    path: Path,
    table: TableOptions | None = None,
    *,
    step: str | None = None,
    channels: Sequence[str] | None = None,
    test_fraction: float | None = None,
    validation_fraction: float | None = None,
) -> Dataset:
    """Load DATA and cut it into training, validation and test rows.

    Args:
        path: A prepared directory, a table (with ``table``), or a request trace or minute file of a known format.
        table: The columns, for a table.
        step: Bucket width for a request trace; 60 s where None.
        channels: Which channels of a prepared directory or a trace to forecast, for example ``in_flight`` beside the
            requests and tokens that are meant where None.
        test_fraction: Last part of the rows that measures; the split of a prepared directory, else 0.2, where None.
        validation_fraction: Last part of the rows before the test part; 0.2 where None.

    Raises:
        DataError: The input cannot be read or holds too little.
        ConfigError: A fraction is impossible.
    """
    series = load_series(path, table, step=step)
    names = tuple(channels or series.channels)
    missing = [name for name in names if name not in series.panel.channel_names]
    if missing:
        raise DataError(
            f"no channel {', '.join(map(repr, missing))}",
            where=str(path),
            hint=f"The channels are: {', '.join(series.panel.channel_names)}.",
        )
    panel = series.panel.select(names)
    if series.split is not None and test_fraction is None and validation_fraction is None:
        train, validation, test = series.split
        given = len(validation) > 0
        head = train
    else:
        head, test = _tail(panel.full_span(), test_fraction, 0.2, "test_fraction")
        given = False
    if not given:
        train, validation = _tail(head, validation_fraction, 0.2, "validation_fraction")
    return Dataset(
        panel=panel,
        train=train,
        validation=validation,
        test=test,
        validation_given=given,
        source=series.source,
        notes=series.notes,
        table=series.table.to_dict() if series.table is not None else None,
    )


def load_series(path: Path, table: TableOptions | None = None, *, step: str | None = None) -> Series:
    """Load DATA as one panel, without cutting it unless it was prepared with a split.

    Raises:
        DataError: The input cannot be read.
    """
    path = Path(path)
    if table is not None:
        return _load_table(path, table)
    if (path / MANIFEST).is_file():
        return _load_prepared(path)
    if path.is_dir():
        raise DataError(
            f"is a directory without {MANIFEST}",
            where=str(path),
            hint="Make one with `presurge prepare`.",
        )
    return _load_known(path, MINUTE if step is None else parse_step(step))


def _load_table(path: Path, options: TableOptions) -> Series:
    read = read_table(
        path,
        time=options.time,
        values=list(options.values),
        item=options.item,
        step=options.step,
        kinds=options.kinds,
        fill=options.fill,
    )
    source = {"path": str(path), "format": "table", **_fingerprint(path)}
    return Series(
        panel=read.panel,
        channels=read.panel.channel_names,
        source=source,
        notes=tuple(read.notes),
        table=options,
    )


def _load_known(path: Path, step: int) -> Series:
    panel, trace_format, notes = trace_panel(path, step)
    source = {"path": str(path), "format": trace_format, **_fingerprint(path)}
    main = tuple(channel.name for channel in LOAD_CHANNELS)
    return Series(panel=panel, channels=main, source=source, notes=notes)


def _load_prepared(directory: Path) -> Series:
    manifest = _read_manifest(directory / MANIFEST)
    path = directory / manifest["series"]
    main = tuple(channel["name"] for channel in manifest["channels"])
    channels = tuple(Channel(**channel) for channel in (*manifest["channels"], *manifest["extra_channels"]))
    try:
        frame = pl.read_parquet(path, columns=[channel.name for channel in channels])
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"cannot be read: {error}", where=str(path), hint="Prepare the data again."
        ) from error
    panel = Panel(
        values=frame.to_numpy().astype(np.float32),
        channels=channels,
        step=manifest["step_seconds"] * SECOND,
        start=np.array([manifest["start_us"]]),
        clock=manifest["clock"],
    )
    edges = manifest["partial_edges"]
    inner = Span(np.array([int(edges["first"])]), np.array([len(panel) - int(edges["last"])]))
    if inner.last[0] <= inner.first[0]:
        raise DataError(
            f"none of its {len(panel)} rows is covered by the trace as a whole",
            where=str(directory),
            hint="Prepare a longer trace, or prepare it with a smaller `step`.",
        )
    spans = {name: _clip(bounds, inner) for name, bounds in manifest["split"].items()}
    notes = list(manifest["notes"])
    if edges["first"] or edges["last"]:
        notes.append("Edge buckets that the trace covers only in part are left out of training and scoring.")
    shifted = {name: Span(span.first - inner.first, span.last - inner.first) for name, span in spans.items()}
    source = {"path": str(directory), "format": "prepared", "trace": manifest["source"]}
    return Series(
        panel=panel.take(inner),
        channels=main,
        source=source,
        notes=tuple(notes),
        split=(shifted["train"], shifted["val"], shifted["test"]),
    )


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot be read: {error}", where=str(path), hint="Prepare the data again."
        ) from error
    if manifest.get("format") != MANIFEST_FORMAT or manifest.get("format_version") != 1:
        raise DataError(
            "was not written by a version of Presurge that this one can read",
            where=str(path),
            hint="Prepare the data again with this version.",
        )
    return manifest


def _clip(bounds: Sequence[int], inner: Span) -> Span:
    first, last = (np.clip(np.array([bound]), inner.first, inner.last) for bound in bounds)
    return Span(first, last)


def _tail(span: Span, fraction: float | None, default: float, option: str) -> tuple[Span, Span]:
    share = default if fraction is None else fraction
    if not 0 < share < 1:
        raise ConfigError(
            f"{share:g} is no part of the rows", setting=option, hint="Give a number between 0 and 1."
        )
    return span.cut_tail(repr(share))


def _fingerprint(path: Path) -> dict[str, Any]:
    return {"sha256": sha256_of(path)}
