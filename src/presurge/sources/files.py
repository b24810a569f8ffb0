"""Open a file of rows, or say in plain words why it cannot be read.

A file holds CSV, Parquet, JSON lines, the lines of an access log, or the answer of a Prometheus server; text may be
compressed. ``-`` and FIFOs are read once, into a temporary file that has no name, so that nothing is left of it however
the process ends.
"""

import csv
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Self

import polars as pl

from presurge.errors import DataError
from presurge.sources.frames import Frame, as_polars, is_frame

FileKind = Literal["csv", "parquet", "json", "log"]
Types = Mapping[str, type[pl.DataType] | pl.DataType]

MISSING_WORDS = ["NA", "N/A", "n/a", "null", "NULL", "None", "none"]
"""Text that means "no value" in a table. NaN is not among them: it is a number until the rules for it are known."""

_SNIFF_BYTES = 65_536
_SNIFF_ROWS = 10_000
_SEPARATORS = ",;\t|"
_FOREIGN = {
    b"PK\x03\x04": "a zip archive or an Excel file",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
}
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
_LOG_LINE = r'^[^\[]*\[([^\]]+)\] ".*?" (\d{3}) (?:\d+|-)(?:\s|$)'
"""The common log format, with whatever an operator put before the time or after the size. Groups: time, status."""
_LOG_TIME = re.compile(r'[^\[]*\[\d+/\w{3}/\d{4}:[^\]]+\] "')
_LISTS = ("start_times", "input_lens", "output_lens")
"""What a detailed result of `vllm bench serve` keeps of all requests, each in one list."""
_NOT_JSON = "is not valid JSON (one object in each line, without NaN and Infinity)"
_TOO_WIDE = "a row has more fields than the header"
_CONVERT = "Convert it from the encoding that it was written in: iconv -f LATIN1 -t UTF-8 FILE > NEW."
_COMPLAINTS = (
    # Words in Polars's message, what they mean, what to do.
    (("end of file", "incomplete frame", "checksum", "corrupt", "deflate"),
     "the compressed file is damaged or was cut off", "Copy or download it again."),
    (("utf-8", "utf8"), "the text is not UTF-8", _CONVERT),
    (("more fields than",), _TOO_WIDE, "Quote the fields that contain the separator."),
    (("parsing line", "json", "tape", "syntax at", "supertype"), _NOT_JSON, "Fix or remove that line."),
    (("parquet", "par1"), "is not a readable Parquet file", "It is damaged or was cut off: write or copy it again."),
    (("permission denied",), "cannot be read: permission denied", "Check the permissions of the file."),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RowFile:
    """An opened file of rows: its kind and its columns. Pass it on, so that the file is examined only once.

    Attributes:
        path: Its name.
        data: Where its rows are: a copy of what came through ``path``, if that is a stream.
        kind: What it holds.
        columns: Its columns by name, with the way to each: a field inside an object is called ``usage.prompt_tokens``.
        separator: Of a CSV.
        table: How to read it as a table, if its format says so, by the names in ``read_table``.
        notes: What was changed on the way in, in words.
    """

    path: Path
    data: Path
    kind: FileKind
    columns: Mapping[str, tuple[str, ...]]
    separator: str = ","
    table: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def scan(self, types: Types | None = None) -> pl.LazyFrame:
        """The rows, lazily.

        In a text file the columns named get the given types, with null where a value does not parse; the other columns
        of a CSV are text. A Parquet file keeps its own types.
        """
        if self.kind == "parquet":
            return self._fields(pl.scan_parquet(self.data, glob=False), self.columns)
        if self.kind == "log":
            return _access_log(self.data)
        if self.kind == "json":
            return self._scan_json(types or {})
        return self._scan_csv(infer_schema=False, schema_overrides=types, ignore_errors=True)

    def _scan_csv(self, **options: Any) -> pl.LazyFrame:
        return pl.scan_csv(self.data, separator=self.separator, glob=False, **options)

    def _scan_json(self, types: Types) -> pl.LazyFrame:
        """The named columns of JSON lines. A decimal is read as text first, since logs also write numbers in quotes."""
        schema: dict[str, Any] = {}
        for name, kind in types.items():
            *outer, last = self.columns[name]
            inside = schema
            for part in outer:
                inside = inside.setdefault(part, {})
            inside[last] = pl.String if kind == pl.Float64 else kind
        rows = self._fields(pl.scan_ndjson(self.data, schema=_struct(schema), ignore_errors=True), types)
        return rows.with_columns(
            pl.col(n).str.strip_chars().cast(k, strict=False) for n, k in types.items() if k == pl.Float64
        )

    def _fields(self, rows: pl.LazyFrame, names: Iterable[str]) -> pl.LazyFrame:
        """Columns of the rows by their names, those inside objects too."""
        return rows.select(_field(self.columns[name]).alias(name) for name in names)

    def sample(self, column: str) -> pl.Series:
        """The first rows of one column; text in a CSV."""
        types = {} if self.kind == "csv" else {column: pl.String}
        return self.scan(types).select(column).head(_SNIFF_ROWS).collect()[column]

    def read(self, columns: list[str]) -> pl.DataFrame:
        """All rows of some columns, in types that fit every value."""
        if self.kind in ("parquet", "log"):
            return self.scan().select(columns).collect(engine="streaming")
        try:
            return self._infer(columns, _SNIFF_ROWS)
        except pl.exceptions.ComputeError:
            return self._infer(columns, None)  # a later row did not fit the type of the first ones

    def _infer(self, columns: list[str], rows: int | None) -> pl.DataFrame:
        if self.kind == "json":
            frame = self._fields(pl.scan_ndjson(self.data, infer_schema_length=rows), columns)
        else:
            frame = self._scan_csv(infer_schema_length=rows, null_values=MISSING_WORDS).select(columns)
        return frame.collect(engine="streaming")

    def where(self, row: int, column: str | None = None) -> str:
        """Name a place in the file for an error message; ``row`` counts from 0, the message from 1."""
        line = {"csv": f" (line {row + 2})", "log": f" (line {row + 1})"}.get(self.kind, "")
        place = f"{self.path}, row {row + 1}{line}"
        return f"{place}, column {column!r}" if column else place

    def text_at(self, row: int, column: str) -> str:
        """The text of one cell as it was written, in quotes; the whole line of JSON lines and of an access log."""
        if self.kind in ("json", "log"):
            return quoted(pl.scan_lines(self.data, glob=False).slice(row, 1).collect().item())
        return quoted(self.scan().select(column).slice(row, 1).collect().item())


@dataclass(frozen=True, slots=True)
class RowFrame(RowFile):
    """A frame in memory, which keeps its own types as a Parquet file does."""

    frame: pl.DataFrame = field(default_factory=pl.DataFrame)

    @classmethod
    def of(cls, frame: Frame, name: str = "data frame", **more: Any) -> Self:
        """Wrap a pandas or Polars frame so that errors can point into it; fields inside objects become columns.

        Raises:
            DataError: Two columns have the same name.
        """
        own = as_polars(frame)
        columns = _leaves(own.schema)
        flat = own.select(_field(way).alias(column) for column, way in columns.items())
        more.setdefault("data", Path(name))
        return cls(
            path=Path(name), kind="parquet", columns={name: (name,) for name in columns}, frame=flat, **more
        )

    def scan(self, types: Types | None = None) -> pl.LazyFrame:
        """The rows, lazily."""
        del types
        return self.frame.lazy()


def open_file(source: Path | str | RowFile | Frame) -> RowFile:
    """Examine a file: its kind by its content, its columns by its header. Wrap a frame; return an opened file as it is.

    Raises:
        DataError: There is no such file, or it is empty, a directory, damaged, or not UTF-8.
    """
    if isinstance(source, RowFile):
        return source
    if is_frame(source):
        return RowFrame.of(source)
    path = Path(source)
    if str(path) != "-" and not (path.is_fifo() or path.is_char_device()):
        return _examined(path, path)
    name = "stdin" if str(path) in ("-", "/dev/stdin") else "stream" if path.is_relative_to("/dev") else path
    return _examined(Path(name), _spooled(path))


def _spooled(path: Path) -> Path:
    """Copy a stream into a temporary file, which stays open, and so stays, until the process ends.

    Polars has the kernel restart what Ctrl-C interrupts, so that waiting for a FIFO would go on: not here.
    """
    signal.siginterrupt(signal.SIGINT, True)
    with reading(path):
        descriptor, name = tempfile.mkstemp(prefix="presurge-")
        Path(name).unlink()
        with (
            path.open("rb") if str(path) != "-" else nullcontext(sys.stdin.buffer) as stream,
            os.fdopen(descriptor, "wb", closefd=False) as copy,
        ):
            shutil.copyfileobj(stream, copy, 2**20)
    return Path(f"/proc/self/fd/{descriptor}")


def _examined(path: Path, data: Path) -> RowFile:
    head = _first_bytes(path, data)
    with reading(path, data):
        if head.startswith(b"PAR1"):
            return RowFile(path, data, "parquet", _leaves(pl.scan_parquet(data, glob=False).collect_schema()))
        lines = pl.scan_lines(data, glob=False, n_rows=1).collect().to_series()
        line = str(lines[0]) if len(lines) else ""
        first = line.removeprefix("\ufeff").strip()
        if not first:
            raise _empty(path)
        if first[0] in "[{":
            if line[0] == "\ufeff":
                what = "begins with a byte order mark, which JSON may not"
                unpack = "Unpack it first. " if head.startswith(_COMPRESSED) else ""
                hint = f"{unpack}Remove it: tail -c +4 FILE > NEW"
                raise DataError(what, where=str(path), hint=hint)
            return _examined_json(path, data, first)
        if _LOG_TIME.match(first):
            return RowFile(path, data, "log", {"time": ("time",), "status": ("status",)})
        separator = max(_SEPARATORS, key=first.count)
        file = RowFile(path, data, "csv", {}, separator)
        names = file._scan_csv(infer_schema=False, n_rows=0).collect_schema().names()
        return replace(file, columns={name: (name,) for name in names})


def _examined_json(path: Path, data: Path, first: str) -> RowFile:
    """One array of objects, the answer of a Prometheus server, or JSON lines."""
    from presurge.sources import prometheus  # which makes a file of what a server answers

    if first[0] == "[":
        return RowFrame.of(pl.read_json(data, infer_schema_length=None), str(path), data=data)
    if first == "{" or prometheus.is_answer(first):
        text = "\n".join(pl.scan_lines(data, glob=False).collect().to_series())
        return prometheus.parse_answer(text, str(path), data=data)
    rows = pl.scan_ndjson(data, infer_schema_length=_SNIFF_ROWS)
    columns = _leaves(rows.collect_schema())
    if set(_LISTS) <= set(columns):
        return RowFrame.of(rows.select(_LISTS).explode(_LISTS), str(path), data=data)
    return RowFile(path, data, "json", columns)


def _leaves(schema: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The columns of a schema and the way to each, with the fields of an object in place of it."""
    columns: dict[str, tuple[str, ...]] = {}

    def descend(fields: Mapping[str, Any], way: tuple[str, ...]) -> None:
        for name, kind in fields.items():
            if isinstance(kind, pl.Struct):
                descend(kind.to_schema(), (*way, name))
            else:
                columns.setdefault(".".join((*way, name)), (*way, name))

    descend({name: kind for name, kind in schema.items() if not isinstance(kind, pl.Struct)}, ())
    descend(schema, ())
    return columns


def _field(way: tuple[str, ...]) -> pl.Expr:
    """The column at the end of a way through objects."""
    return reduce(lambda column, part: column.struct.field(part), way[1:], pl.col(way[0]))


def _struct(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema with Polars's type for objects in place of dictionaries."""
    return {n: pl.Struct(_struct(kind)) if isinstance(kind, dict) else kind for n, kind in schema.items()}


def _access_log(path: Path) -> pl.LazyFrame:
    """The lines of an access log: ``time`` (the whole line if it has none, null if it is empty) and ``status``."""
    line = pl.col("line").str.strip_chars()
    time, status = (line.str.extract(_LOG_LINE, group) for group in (1, 2))
    fallback = pl.when(line != "").then(line)
    return pl.scan_lines(path, glob=False).select(time=pl.coalesce(time, fallback), status=status)


def check_columns(file: RowFile, names: list[str]) -> None:
    """Check that the file has some columns.

    Raises:
        DataError: One is missing; the message lists those that the file has.
    """
    missing = [name for name in names if name not in file.columns]
    if missing:
        seen = f" of the first {_SNIFF_ROWS:,} rows" if file.kind == "json" else ""
        raise DataError(
            f"no column {', '.join(map(repr, missing))}",
            where=str(file.path),
            hint=f"The columns{seen} are: {', '.join(file.columns)}.",
        )


def quoted(value: object) -> str:
    """A cell's value for an error message."""
    if value is None:
        return "an empty cell"
    return repr(value if isinstance(value, int | float) else str(value)[:200])


def no_rows(path: Path) -> DataError:
    """The error for a file with a header and no rows below it."""
    return DataError("holds no rows", where=str(path), hint="There is nothing below the header.")


@contextmanager
def reading(path: Path, data: Path | None = None) -> Iterator[None]:
    """Turn what Polars or the system says about a file into a DataError that says what to do.

    Args:
        path: What to call the file.
        data: Where it is, if that is another place.

    Raises:
        DataError: The body could not read the file.
    """
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        message = str(error)
        for words, what, hint in _COMPLAINTS:
            if any(word in message.lower() for word in words):
                where = f"{path}{_line_at_fault(data or path, what)}"
                raise DataError(what, where=where, hint=hint) from error
        raise DataError(f"cannot be read: {message.splitlines()[0]}", where=str(path)) from error


def _line_at_fault(data: Path, what: str) -> str:
    """Name the first line that is no JSON object, or has too many fields, in a second pass that only a bad file costs."""
    parts = pl.scan_lines(data, glob=False).collect_batches()
    lines = (str(text) for part in parts for text in part.to_series())
    if what == _NOT_JSON:
        bad = (row for row, line in enumerate(lines, 1) if line.strip() and not _is_object(line))
    elif what == _TOO_WIDE:
        header = next(lines)
        rows = csv.reader(chain([header], lines), delimiter=max(_SEPARATORS, key=header.count))
        width = len(next(rows))
        bad = (rows.line_num for row in rows if len(row) > width)
    else:
        return ""
    row = next(bad, None)
    return "" if row is None else f", line {row}"


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line, parse_constant=int), dict)  # int() refuses NaN and Infinity
    except ValueError:
        return False


def _empty(path: Path) -> DataError:
    return DataError("the file is empty", where=str(path), hint="Check how it was made or copied.")


def _first_bytes(path: Path, data: Path) -> bytes:
    """The first bytes of a file that may hold rows; an error if they show that it does not."""
    where = str(path)
    if data.is_dir():
        raise DataError("is a directory, not a file", where=where, hint="Name one of the files in it.")
    if not data.exists():
        raise DataError("there is no such file", where=where, hint="Check the name and the folder.")
    with reading(path), data.open("rb") as stream:
        head = stream.read(_SNIFF_BYTES)
    if not head:
        raise _empty(path)
    for magic, meaning in _FOREIGN.items():
        if head.startswith(magic):
            hint = "Unpack it to CSV, Parquet or .csv.gz."
            raise DataError(f"is {meaning}, which Presurge does not read", where=where, hint=hint)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        hint = "Convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW."
        raise DataError("the text is UTF-16, not UTF-8", where=where, hint=hint)
    if b"\0" in head and not head.startswith((b"PAR1", *_COMPRESSED)):
        raise DataError("is a binary file, or text that is not UTF-8", where=where, hint=_CONVERT)
    return head
