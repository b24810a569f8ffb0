"""What a trace holds, counted exactly in one walk through it with bounded memory."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from presurge.series.frequency import SECOND
from presurge.sources.trace import Trace

_BATCH = 1_000_000
_DISTINCT_AT_ONCE = 25_000_000
"""Stamps whose distinct values are counted together where a trace is not sorted: about half a gigabyte."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceCounts:
    """Exact counts of a trace.

    Attributes:
        rows: Requests.
        first_us: Earliest stamp.
        last_us: Latest stamp.
        unsorted_steps: Requests that are earlier than the one before them in the file.
        duplicate_stamps: Requests less distinct stamps.
        fractional_stamps: Stamps that are no whole second.
        failures: Requests without an output token.
        bad_rows: Rows left out as bad when the trace was opened.
        input_tokens: Their sum.
        output_tokens: Their sum.
    """

    rows: int
    first_us: int
    last_us: int
    unsorted_steps: int
    duplicate_stamps: int
    fractional_stamps: int
    failures: int
    bad_rows: int
    input_tokens: int
    output_tokens: int


def check_trace(trace: Trace) -> TraceCounts:
    """Count what a trace holds and how regular it is.

    The walk goes through the file in batches. An unsorted trace of more than 25 million requests costs one further pass for
    every 25 million, in which the distinct stamps of one stretch of time are counted.
    """
    unsorted = repeated = fractional = failures = inputs = outputs = 0
    previous = np.zeros(0, np.int64)
    events = trace.events.select("time_us", "input_tokens", "output_tokens", "failed")
    for batch in events.collect_batches(chunk_size=_BATCH, maintain_order=True, engine="streaming"):
        stamps = np.concatenate((previous, batch["time_us"].to_numpy()))
        gaps = np.diff(stamps)
        unsorted += int(np.count_nonzero(gaps < 0))
        repeated += int(np.count_nonzero(gaps == 0))
        fractional += int(np.count_nonzero(stamps[len(previous) :] % SECOND))
        failures += int(batch["failed"].sum())
        inputs += int(batch["input_tokens"].sum())
        outputs += int(batch["output_tokens"].sum())
        previous = stamps[-1:]
    return TraceCounts(
        rows=trace.rows,
        first_us=trace.first_us,
        last_us=trace.last_us,
        unsorted_steps=unsorted,
        duplicate_stamps=trace.rows - _distinct(trace) if unsorted else repeated,
        fractional_stamps=fractional,
        failures=failures,
        bad_rows=trace.dropped,
        input_tokens=inputs,
        output_tokens=outputs,
    )


def _distinct(trace: Trace) -> int:
    """Number of distinct stamps, counted in stretches of time that fit into memory."""
    parts = -(-trace.rows // _DISTINCT_AT_ONCE)
    edges = np.linspace(trace.first_us, trace.last_us + 1, parts + 1).astype(np.int64)
    stamp = pl.col("time_us")
    return sum(
        trace.events.filter(stamp >= low, stamp < high)
        .select(stamp.n_unique())
        .collect(engine="streaming")
        .item()
        for low, high in zip(edges.tolist(), edges[1:].tolist(), strict=False)
    )
