"""A synthetic LLM request trace in the columns of BurstGPT, always labelled as synthetic.

The number of requests of each minute is drawn first (a few bytes a minute); then the requests themselves are drawn block
by block, each block from a random stream of its own. So memory does not grow with the trace, no row depends on how the
rows are consumed, and the same seed gives the same trace.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from polars.io.plugins import register_io_source

from presurge import __version__
from presurge.errors import ConfigError
from presurge.files import atomic_path, write_json
from presurge.progress import Progress, silent
from presurge.series.panel import IntArray
from presurge.sources.rhythm import MINUTES_PER_DAY, minute_load

FloatArray = npt.NDArray[np.float64]

GENERATOR = "presurge-synthetic-trace"
GENERATOR_VERSION = 1
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
_CSV_ENDINGS: dict[str, Literal["uncompressed", "gzip", "zstd"]] = {
    ".csv": "uncompressed",
    ".csv.gz": "gzip",
    ".csv.zst": "zstd",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticConfig:
    """What to draw: ``rows`` is an exact number of requests, ``rate`` a mean; the default is 400,000 rows.

    Attributes:
        rows: Exact number of requests.
        rate: Mean requests per second over the whole trace.
        days: Length in days, rounded to whole minutes.
        seed: The same seed and parameters give the same bytes.
        start: Wall-clock time of the first minute, which sets weekday and hour. Stamps count seconds from the midnight
            before it.
    """

    rows: int | None = None
    rate: float | None = None
    days: float = 10.0
    seed: int = 0
    start: datetime = datetime(2024, 1, 1)

    def __post_init__(self) -> None:
        if self.rows is not None and self.rate is not None:
            raise ConfigError("cannot be combined with `rate`", setting="rows", hint="Give one of them.")
        if self.rows is not None and not 1 <= self.rows <= MAX_ROWS:
            raise ConfigError(f"must be from 1 to {MAX_ROWS:,}, not {self.rows:,}", setting="rows")
        if not 1 / MINUTES_PER_DAY <= self.days <= MAX_DAYS:
            raise ConfigError(f"must be from one minute to {MAX_DAYS} days, not {self.days}", setting="days")
        if self.rate is not None and not 1 <= self.rate * self.minutes * 60 <= MAX_ROWS:
            raise ConfigError(
                f"{self.rate:g} requests per second over {self.days:g} days must give from 1 to {MAX_ROWS:,} rows",
                setting="rate",
            )
        if self.seed < 0:
            raise ConfigError(f"must not be negative: {self.seed}", setting="seed")

    @property
    def minutes(self) -> int:
        """Length in minutes."""
        return round(self.days * MINUTES_PER_DAY)


@dataclass(frozen=True, slots=True)
class SyntheticReport:
    """What was written."""

    path: Path
    sidecar: Path
    rows: int
    failures: int
    input_tokens: int
    output_tokens: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "path": str(self.path), "sidecar": str(self.sidecar), "synthetic": True}


def parse_start(text: str) -> datetime:
    """Read a date, or a date and time, as wall-clock time.

    Raises:
        ConfigError: It is neither, or it names a time zone: the daily rhythm follows the clock on the wall.
    """
    try:
        start = datetime.fromisoformat(text)
    except ValueError as error:
        hint = "Write for example 2024-01-01 or 2024-01-01T06:00."
        raise ConfigError(f"{text!r} is not an ISO-8601 date", setting="start", hint=hint) from error
    if start.tzinfo is not None or start.second or start.microsecond:
        raise ConfigError(f"{text!r} must be a whole minute without a time zone", setting="start")
    return start


def synthesize(config: SyntheticConfig, path: Path, *, progress: Progress = silent) -> SyntheticReport:
    """Write a synthetic trace as CSV (also .gz, .zst) or Parquet, and beside it a JSON file that labels it.

    Args:
        config: What to draw.
        path: Where to write; the ending decides the format.
        progress: Called with the share of the rows that is written.

    Raises:
        ConfigError: ``path`` does not end in .csv, .csv.gz, .csv.zst or .parquet.
        StorageError: The file system refused; no partial file is left.
    """
    ending = next((each for each in (".parquet", *_CSV_ENDINGS) if path.name.lower().endswith(each)), None)
    if ending is None:
        raise ConfigError(
            f"cannot tell a format from the ending of {path.name!r}",
            setting="out",
            hint="Use .csv, .csv.gz, .csv.zst or .parquet.",
        )
    began = perf_counter()
    trace = SyntheticTrace(config)
    label = {
        "synthetic": True,
        "generator": GENERATOR,
        "generator_version": GENERATOR_VERSION,
        "presurge_version": __version__,
        "rows": trace.rows,
        "parameters": {**asdict(config), "start": config.start.isoformat()},
    }
    totals = {"rows": 0, "failures": 0, "input_tokens": 0, "output_tokens": 0}

    def counted_blocks(*_: object) -> Iterator[pl.DataFrame]:
        for block in trace.blocks():
            totals["rows"] += len(block)
            totals["failures"] += int((block["Response tokens"] == 0).sum())
            totals["input_tokens"] += int(block["Request tokens"].sum())
            totals["output_tokens"] += int(block["Response tokens"].sum())
            progress("Drawing a synthetic trace", totals["rows"] / trace.rows, f"{totals['rows']:,} requests")
            yield block

    with atomic_path(path) as temporary:
        try:
            _write(register_io_source(counted_blocks, schema=SCHEMA), temporary, ending, label)
        except pl.exceptions.ComputeError as error:
            raise OSError(str(error)) from error  # how Polars reports a full disk
        # Before the trace is in place, so that there is never a trace without its label.
        write_json(_label_path(path), {**label, "totals": totals})
    return SyntheticReport(path, _label_path(path), **totals, seconds=perf_counter() - began)


def _write(frame: pl.LazyFrame, path: Path, ending: str, label: dict[str, Any]) -> None:
    if ending == ".parquet":
        metadata = {"presurge.synthetic": "true", "presurge.generator": json.dumps(label)}
        frame.sink_parquet(path, compression_level=1, row_group_size=BLOCK_ROWS, metadata=metadata)
    else:  # a CSV has no place for the label: the model names and the file beside it say what it is
        frame.sink_csv(path, compression=_CSV_ENDINGS[ending], check_extension=False)


def is_synthetic(trace: Path) -> bool:
    """Whether the file ``trace.csv.json`` beside ``trace.csv`` labels it as synthetic."""
    try:
        label = json.loads(_label_path(trace).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(label, dict) and label.get("synthetic") is True


def _label_path(trace: Path) -> Path:
    return trace.with_name(trace.name + ".json")


class SyntheticTrace:
    """A trace drawn as it is read; iterating over it again gives the same rows."""

    def __init__(self, config: SyntheticConfig) -> None:
        self.config = config
        rng = _stream(config.seed, 0)
        self._load = minute_load(config.minutes, config.start, rng)
        self.rows = config.rows or DEFAULT_ROWS
        if config.rate is not None:
            self.rows = min(max(int(rng.poisson(config.rate * config.minutes * 60)), 1), MAX_ROWS)
        # Poisson arrivals, given how many there are in all, are multinomial over the minutes.
        shares = np.concatenate([self._load.conversation, self._load.api])
        counts = rng.multinomial(self.rows, shares / shares.sum())
        self._conversations, self._apis = counts[: config.minutes], counts[config.minutes :]
        busiest = int((self._conversations + self._apis).max())
        if busiest > _MAX_MINUTE_ROWS:
            raise ConfigError(
                f"the busiest minute would hold {busiest:,} requests, more than {_MAX_MINUTE_ROWS:,}",
                setting="days",
                hint="Spread the rows over more days.",
            )
        self._edges = _block_edges(self._conversations + self._apis)

    def blocks(self) -> Iterator[pl.DataFrame]:
        """Yield the rows in order of time, about a quarter of a million at once."""
        first_row = 0
        for number, (first, last) in enumerate(zip(self._edges[:-1], self._edges[1:], strict=True)):
            frame = self._block(number, int(first), int(last), first_row)
            first_row += len(frame)
            yield frame

    def _block(self, number: int, first: int, last: int, first_row: int) -> pl.DataFrame:
        rng = _stream(self.config.seed, 1, number)
        milliseconds, api = self._arrivals(first, last, rng)
        minute = first + milliseconds // 60_000
        midnight = (self.config.start.hour * 60 + self.config.start.minute) * 60_000
        length = self._load.length[minute].astype(np.float32)
        tokens_in, tokens_out = _token_lengths(api, length, rng)
        failed = rng.random(len(minute), np.float32) < self._load.failure[minute]
        tokens_out[failed] = 0
        large = rng.random(len(minute), np.float32) < np.where(api, np.float32(0.06), np.float32(0.22))
        elapsed = _elapsed_seconds(tokens_in, tokens_out, large, rng)
        sessions = _sessions(api, minutes=last - first, rng=rng) + first_row
        return pl.DataFrame(
            {
                "Timestamp": (milliseconds + (first * 60_000 + midnight)) / 1000,
                "Session ID": pl.Series(sessions).set(pl.Series(api), None),
                "Elapsed time": elapsed,
                "Model": pl.Series(large.astype(np.uint8)).cat.to(_MODELS).cast(pl.String),
                "Request tokens": tokens_in,
                "Response tokens": tokens_out,
                "Total tokens": tokens_in + tokens_out,
                "Log Type": pl.Series(api.astype(np.uint8)).cat.to(_LOG_TYPES).cast(pl.String),
            }
        )

    def _arrivals(
        self, first: int, last: int, rng: np.random.Generator
    ) -> tuple[IntArray, npt.NDArray[np.bool_]]:
        """Sorted milliseconds since the first minute of the block, and which arrivals are API requests."""
        minutes = np.arange(last - first)
        counts = np.concatenate([self._conversations[first:last], self._apis[first:last]])
        minute = np.repeat(np.concatenate([minutes, minutes]), counts)
        within = rng.integers(0, 60_000, len(minute), dtype=np.int32)
        # One sort orders the times; the lowest bit carries the kind.
        key = (minute * 60_000 + within) * 2
        key[int(counts[: last - first].sum()) :] += 1
        key.sort()
        return key >> 1, (key & 1).astype(np.bool_)


def _stream(seed: int, *key: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=key)))


def _block_edges(per_minute: IntArray) -> IntArray:
    """The minutes that begin a block: a block ends with the minute that fills it, or after a week."""
    edges = [0]
    total = np.concatenate([[0], np.cumsum(per_minute)])
    while (begin := edges[-1]) < len(per_minute):
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
    tokens_in, tokens_out = (np.clip(np.exp(log), f(1), f(_MAX_TOKENS)) for log in (log_in, log_out))
    return tokens_in.astype(np.int64), tokens_out.astype(np.int64)


def _elapsed_seconds(
    tokens_in: IntArray, tokens_out: IntArray, large: npt.NDArray[np.bool_], rng: np.random.Generator
) -> FloatArray:
    """Reading time and time per token, both noisy; to the millisecond."""
    noise = np.exp(np.float32(0.25) * rng.standard_normal(len(large), np.float32))
    per_token = np.where(large, 0.045, 0.018)
    elapsed: FloatArray = np.round((0.15 + 0.0002 * tokens_in + per_token * tokens_out) * noise, 3)
    return elapsed


def _sessions(api: npt.NDArray[np.bool_], *, minutes: int, rng: np.random.Generator) -> IntArray:
    """The session of each row, named by the row that began it (the number of an API row has no meaning).

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
