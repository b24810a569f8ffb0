"""What a trace holds, in numbers: printed by ``presurge prepare`` on request."""

from dataclasses import asdict, dataclass
from typing import Any

from presurge.series.buckets import BUSY
from presurge.series.frequency import SECOND
from presurge.series.timestamps import format_stamp
from presurge.sources.trace import check_trace
from presurge.workflows.counted_input import CountedInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Numbers of a trace; shares are between 0 and 1, stamps in the form that they came in.

    Attributes:
        duplicate_stamps: Requests whose exact stamp an earlier request has too.
        unsorted_requests: Requests that are earlier than the one before them in the file.
        fractional_stamps: Stamps that are no whole second.
        empty_share: Seconds between the first and the last request in which none arrived.
        mean_in_flight: Mean number of requests in flight, None where elapsed times are unknown.
    """

    rows: int
    first: str | int | float
    last: str | int | float
    span_seconds: float
    requests: int
    input_tokens: int
    output_tokens: int
    mean_input_tokens: float
    mean_output_tokens: float
    failures: int
    failure_share: float
    duplicate_stamps: int
    duplicate_share: float
    unsorted_requests: int
    fractional_stamps: int
    seconds: int
    empty_share: float
    densest_second: str | int | float
    densest_second_requests: int
    mean_in_flight: float | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def trace_statistics(counted: CountedInput) -> Statistics:
    """Describe a trace from its one-second buckets and one more pass, in which stamps are compared."""
    trace, seconds, totals = counted.trace, counted.buckets, counted.totals
    assert trace is not None, "only a trace has statistics"
    stamps = check_trace(trace)
    requests = max(totals["requests"], 1)
    arrivals = seconds.sums["requests"]
    densest = int(arrivals.argmax())
    in_flight = int(seconds.sums[BUSY].sum()) / (len(seconds) * SECOND) if BUSY in seconds.sums else None
    return Statistics(
        rows=trace.rows,
        first=format_stamp(trace.first_us, trace.clock),
        last=format_stamp(trace.last_us, trace.clock),
        span_seconds=(trace.last_us - trace.first_us) / SECOND,
        requests=totals["requests"],
        input_tokens=totals["input_tokens"],
        output_tokens=totals["output_tokens"],
        mean_input_tokens=totals["input_tokens"] / requests,
        mean_output_tokens=totals["output_tokens"] / requests,
        failures=totals["failures"],
        failure_share=totals["failures"] / trace.rows,
        duplicate_stamps=stamps.duplicate_stamps,
        duplicate_share=stamps.duplicate_stamps / trace.rows,
        unsorted_requests=stamps.unsorted_steps,
        fractional_stamps=stamps.fractional_stamps,
        seconds=len(seconds),
        empty_share=1 - int((arrivals > 0).sum()) / len(seconds),
        densest_second=format_stamp(int(seconds.index_N[densest]) * SECOND, trace.clock),
        densest_second_requests=int(arrivals[densest]),
        mean_in_flight=in_flight,
    )
