"""The requests of a trace one by one: as rows to be counted, and as a panel with one row a request."""

from typing import Literal

import numpy as np
import polars as pl

from presurge.errors import DataError
from presurge.series.buckets import ELAPSED, TIME
from presurge.series.frequency import SECOND
from presurge.series.panel import Channel, Panel
from presurge.sources.trace import Trace

FailureRule = Literal["keep", "drop"]

REQUEST_CHANNELS = (
    Channel("inter_arrival", "s", "gauge"),
    Channel("input_tokens", "tokens", "count"),
    Channel("output_tokens", "tokens", "count"),
)


def counted(events: pl.LazyFrame, failures: FailureRule = "keep") -> pl.LazyFrame:
    """The events of a trace as columns that add up: ``requests``, ``input_tokens``, ``output_tokens``, ``failures``.

    Args:
        events: As in a ``Trace``; ``elapsed_us`` is kept where it is there.
        failures: ``keep`` counts failed requests as requests with the tokens they have; ``drop`` counts them in
            ``failures`` only, neither as requests nor as tokens nor as time in flight.
    """
    columns = {"requests": pl.lit(1, pl.Int64)}
    columns |= {name: pl.col(name) for name in ("input_tokens", "output_tokens")}
    if ELAPSED in events.collect_schema():
        columns[ELAPSED] = pl.col(ELAPSED)
    if failures == "drop":
        kept = (~pl.col("failed")).cast(pl.Int64)
        columns = {name: column * kept for name, column in columns.items()}
    return events.select(pl.col(TIME), **columns, failures=pl.col("failed").cast(pl.Int64))


def requests_panel(trace: Trace, failures: FailureRule = "keep") -> Panel:
    """The request-level view: time since the request before, input tokens and output tokens of every request.

    A row is a request, in the order of time (of the file, among equal stamps), so the panel's step of one second and
    its start at zero are nominal and its clock is relative: a forecast of three rows is one of the next three requests.
    The first request has no inter-arrival time (missing).

    Raises:
        DataError: No request is left.
    """
    columns = [TIME, "input_tokens", "output_tokens"]
    events = trace.events if failures == "keep" else trace.events.filter(~pl.col("failed"))
    frame = events.select(columns).collect(engine="streaming").sort(TIME, maintain_order=True)
    if frame.is_empty():
        raise DataError("no request is left without the failed ones", where=str(trace.path))
    values = np.full((len(frame), 3), np.nan, np.float32)
    values[1:, 0] = np.diff(frame[TIME].to_numpy()) / SECOND
    values[:, 1] = frame["input_tokens"].to_numpy()
    values[:, 2] = frame["output_tokens"].to_numpy()
    return Panel(
        values=values, channels=REQUEST_CHANNELS, step=SECOND, start=np.zeros(1, np.int64), clock="relative"
    )
