"""A synthetic LLM request trace in the columns of BurstGPT, drawn block by block and the same for the same seed.

Which minute gets how many requests is drawn first (a few bytes a minute). The requests themselves are drawn block
by block, each block from a random stream of its own, so memory does not grow with the trace and no row depends on
how the rows are handed over.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
import polars as pl

from presurge.errors import ConfigError
from presurge.sources.rhythm import MINUTES_PER_DAY, minute_load

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

MAX_ROWS = 100_000_000
MAX_DAYS = 3660
DEFAULT_ROWS = 400_000
BLOCK_ROWS = 1 << 18

SCHEMA = pl.Schema(
    {
        "Timestamp": pl.Float64,
        "Session ID": pl.Int64,
        "Elapsed time": pl.Float64,
        "Model": pl.String,
        "Request tokens": pl.Int64,
        "Response tokens": pl.Int64,
        "Total tokens": pl.Int64,
        "Log Type": pl.String,
    }
)

_BLOCK_MINUTES = 7 * MINUTES_PER_DAY
_MAX_MINUTE_ROWS = 1 << 21
_MODELS = pl.Enum(["synthetic-small", "synthetic-large"])
_LOG_TYPES = pl.Enum(["Conversation log", "API log"])
_MAX_TOKENS = 32_768


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticSpec:
    """What to draw. Give ``rows`` for an exact number of requests or ``rate`` for a mean; neither means 400,000.

    Attributes:
        rows: Exact number of requests.
        rate: Mean requests a second over the whole trace.
        days: Length in days, rounded to whole minutes.
        seed: The same seed and parameters give the same bytes.
        start: Wall-clock time of the first minute; it decides weekday and hour. Stamps count seconds from the
            midnight before it.
    """

    rows: int | None = None
    rate: float | None = None
    days: float = 10.0
    seed: int = 0
    start: datetime = datetime(2024, 1, 1)

    def __post_init__(self) -> None:
        if self.rows is not None and self.rate is not None:
            raise ConfigError("give the number of rows or the rate, not both", setting="rows")
        if self.rows is not None and not 1 <= self.rows <= MAX_ROWS:
            raise ConfigError(f"must be from 1 to {MAX_ROWS:,}, not {self.rows:,}", setting="rows")
        if not 1 / MINUTES_PER_DAY <= self.days <= MAX_DAYS:
            raise ConfigError(f"must be from one minute to {MAX_DAYS} days, not {self.days}", setting="days")
        if self.rate is not None and not 1 <= self.rate * self.minutes * 60 <= MAX_ROWS:
            raise ConfigError(
                f"{self.rate:g} requests a second for {self.days:g} days must give from 1 to {MAX_ROWS:,} rows",
                setting="rate",
            )
        if self.seed < 0:
            raise ConfigError(f"must not be negative: {self.seed}", setting="seed")

    @property
    def minutes(self) -> int:
        """Length in minutes."""
        return round(self.days * MINUTES_PER_DAY)


class SyntheticTrace:
    """A trace that is drawn as it is read; iterating it again gives the same rows."""

    def __init__(self, spec: SyntheticSpec) -> None:
        self.spec = spec
        rng = _stream(spec.seed, 0)
        self._load = minute_load(spec.minutes, spec.start, rng)
        rows = DEFAULT_ROWS if spec.rows is None else spec.rows
        if spec.rate is not None:
            rows = min(max(int(rng.poisson(spec.rate * spec.minutes * 60)), 1), MAX_ROWS)
        self.rows = rows
        # Poisson arrivals, given how many there are in all, are multinomial over the minutes.
        shares = np.concatenate([self._load.conversation, self._load.api])
        counts = rng.multinomial(rows, shares / shares.sum())
        self._conversations, self._apis = counts[: spec.minutes], counts[spec.minutes :]
        busiest = int((self._conversations + self._apis).max())
        if busiest > _MAX_MINUTE_ROWS:
            raise ConfigError(
                f"the busiest minute would hold {busiest:,} requests, more than {_MAX_MINUTE_ROWS:,}",
                setting="days",
                hint="Spread the rows over more days.",
            )
        self._edges = _block_edges(self._conversations + self._apis)

    def blocks(self) -> Iterator[pl.DataFrame]:
        """The rows in order of time, about a quarter of a million at once."""
        first_row = 0
        for number, (first, last) in enumerate(zip(self._edges[:-1], self._edges[1:], strict=True)):
            frame = self._block(number, int(first), int(last), first_row)
            first_row += len(frame)
            yield frame

    def frames(self, rows: int) -> Iterator[pl.DataFrame]:
        """The same rows, ``rows`` at once (the last frame may be shorter)."""
        kept = pl.DataFrame(schema=SCHEMA)
        for block in self.blocks():
            kept = pl.concat([kept, block])
            while len(kept) >= rows:
                yield kept[:rows]
                kept = kept[rows:]
        if len(kept):
            yield kept

    def scan(self, watch: Callable[[pl.DataFrame], None] = lambda _: None) -> pl.LazyFrame:
        """The trace as a lazy frame that streams; ``watch`` sees each block before it is handed over."""
        from polars.io.plugins import register_io_source

        def source(
            columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, _: int | None
        ) -> Iterator[pl.DataFrame]:
            left = self.rows if n_rows is None else n_rows
            for block in self.blocks():
                watch(block)
                frame = block[:left]
                left -= len(frame)
                frame = frame if predicate is None else frame.filter(predicate)
                yield frame if columns is None else frame.select(columns)
                if left <= 0:
                    return

        return register_io_source(source, schema=SCHEMA, is_pure=True)

    def _block(self, number: int, first: int, last: int, first_row: int) -> pl.DataFrame:
        rng = _stream(self.spec.seed, 1, number)
        per_minute = self._conversations[first:last] + self._apis[first:last]
        minute = np.repeat(np.arange(first, last), per_minute)
        milliseconds, api = self._arrivals(first, last, rng)
        midnight = (self.spec.start.hour * 60 + self.spec.start.minute) * 60_000
        length = self._load.length[minute].astype(np.float32)
        tokens_in, tokens_out = _token_lengths(api, length, rng)
        failed = rng.random(len(minute), np.float32) < self._load.failure[minute]
        tokens_out[failed] = 0
        large = rng.random(len(minute), np.float32) < np.where(api, np.float32(0.06), np.float32(0.22))
        elapsed = _elapsed_seconds(tokens_in, tokens_out, large, rng)
        sessions = _sessions(api, minutes=last - first, rng=rng) + first_row
        frame = pl.DataFrame(
            {
                "Timestamp": (milliseconds + (first * 60_000 + midnight)) / 1000,
                "Session ID": sessions,
                "Elapsed time": elapsed,
                "Model": pl.Series(large.astype(np.uint8)).cat.to(_MODELS).cast(pl.String),
                "Request tokens": tokens_in,
                "Response tokens": tokens_out,
                "Total tokens": tokens_in + tokens_out,
                "Log Type": pl.Series(api.astype(np.uint8)).cat.to(_LOG_TYPES).cast(pl.String),
            }
        )
        is_api = pl.col("Log Type") == "API log"
        return frame.with_columns(pl.when(~is_api).then(pl.col("Session ID")).alias("Session ID"))

    def _arrivals(
        self, first: int, last: int, rng: np.random.Generator
    ) -> tuple[IntArray, npt.NDArray[np.bool_]]:
        """Sorted milliseconds since the block's first minute, and which arrivals are API requests."""
        minutes = np.arange(last - first)
        counts = np.concatenate([self._conversations[first:last], self._apis[first:last]])
        minute = np.repeat(np.concatenate([minutes, minutes]), counts)
        within = rng.integers(0, 60_000, len(minute), dtype=np.int32)
        # One sort orders the times and carries the kind along in the lowest bit.
        key = (minute * 60_000 + within) * 2
        key[int(counts[: last - first].sum()) :] += 1
        key.sort()
        return key >> 1, (key & 1).astype(np.bool_)


def _stream(seed: int, *key: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=key)))


def _block_edges(per_minute: IntArray) -> IntArray:
    """Minutes that begin a block: a block ends with the minute that fills it, or after a week."""
    edges = [0]
    total = np.concatenate([[0], np.cumsum(per_minute)])
    while edges[-1] < len(per_minute):
        begin = edges[-1]
        full = int(np.searchsorted(total, total[begin] + BLOCK_ROWS))
        edges.append(min(max(full, begin + 1), begin + _BLOCK_MINUTES, len(per_minute)))
    return np.array(edges)


def _token_lengths(
    api: npt.NDArray[np.bool_], length: npt.NDArray[np.float32], rng: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """Log-normal request and response lengths; conversations answer longer, programs send longer."""
    f = np.float32
    z_in = rng.standard_normal(len(api), f)
    z_out = f(0.3) * z_in + f(0.954) * rng.standard_normal(len(api), f)
    log_in = np.where(api, f(6.2), f(5.7)) + length + np.where(api, f(0.9), f(1.2)) * z_in
    log_out = np.where(api, f(3.4), f(5.2)) + length + np.where(api, f(0.9), f(0.8)) * z_out
    shortest, longest = f(1), f(_MAX_TOKENS)
    tokens_in = np.clip(np.exp(log_in), shortest, longest).astype(np.int64)
    return tokens_in, np.clip(np.exp(log_out), shortest, longest).astype(np.int64)


def _elapsed_seconds(
    tokens_in: IntArray, tokens_out: IntArray, large: npt.NDArray[np.bool_], rng: np.random.Generator
) -> FloatArray:
    """Reading time and time per token, both noisy; to the millisecond."""
    noise = np.exp(np.float32(0.25) * rng.standard_normal(len(large), np.float32))
    per_token = np.where(large, 0.045, 0.018)
    elapsed: FloatArray = np.round((0.15 + 0.0002 * tokens_in + per_token * tokens_out) * noise, 3)
    return elapsed


def _sessions(api: npt.NDArray[np.bool_], *, minutes: int, rng: np.random.Generator) -> IntArray:
    """The session of each row, named by the row that began it (API rows get a number that is not used).

    Conversations take turns on as many lanes as there are conversation requests in two minutes, so the turns of a
    session are about two minutes apart; a session has three turns on average.
    """
    rows = np.flatnonzero(~api)
    lanes = max(1, min(2 * len(rows) // minutes, 65_535))
    lane = rng.integers(0, lanes, len(rows), dtype=np.uint16)
    begins = rng.random(len(rows), np.float32) < 1 / 3
    order = np.argsort(lane, kind="stable")
    begins = begins[order]
    begins[np.flatnonzero(np.diff(lane[order], prepend=-1))] = True
    began_at = np.maximum.accumulate(np.where(begins, np.arange(len(rows)), 0))
    session = np.zeros(len(api), np.int64)
    session[rows[order]] = rows[order][began_at]
    return session
