"""Open a file of rows (CSV, Parquet or JSON lines, plain or compressed), or say in plain words why it cannot be read."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

import polars as pl

from presurge.errors import DataError
from presurge.sources.frames import Frame, as_polars, is_frame

FileKind = Literal["csv", "parquet", "json"]
Types = Mapping[str, type[pl.DataType] | pl.DataType]

MISSING_WORDS = ["NA", "N/A", "n/a", "null", "NULL", "None", "none"]
"""Text that means "no value" in a table. NaN is not among them: it is a number until the rules for it are known."""

_SNIFF_BYTES = 65_536
_SNIFF_ROWS = 1_000
_SEPARATORS = ",;\t|"
_FOREIGN = {
    b"PK\x03\x04": "a zip archive or an Excel file",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
}
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
_CONVERT = "Convert it from the encoding that it was written in: iconv -f LATIN1 -t UTF-8 FILE > NEW."
_COMPLAINTS = (
    # Words in Polars's message, what they mean, what to do.
    (("end of file", "incomplete frame", "checksum", "corrupt", "deflate"),
     "the compressed file is damaged or was cut off", "Copy or download it again."),
    (("utf-8", "utf8"), "the text is not UTF-8", _CONVERT),
    (("more fields than",), "a row has more fields than the header", "Quote the fields that contain the separator."),
    (("parsing line", "json", "tape"), "a line is not valid JSON (NaN and Infinity are not)", "Fix or remove that line."),
    (("parquet", "par1"), "is not a readable Parquet file", "It is damaged or was cut off: write or copy it again."),
    (("permission denied",), "cannot be read: permission denied", "Check the permissions of the file."),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RowFile:
    """An opened file of rows: its kind and its columns. Pass it on, so that the file is examined only once."""

    path: Path
    kind: FileKind
    columns: tuple[str, ...]
    separator: str = ","
    is_array: bool = False

    def scan(self, types: Types | None = None) -> pl.LazyFrame:
        """The rows, lazily.

        In a text file the columns named get the given types, with null where a value does not parse; the other columns
        of a CSV are text. A Parquet file keeps its own types.
        """
        types = types or {}
        if self.kind == "parquet":
            return pl.scan_parquet(self.path, glob=False)
        if self.is_array:
            return pl.read_json(self.path, infer_schema_length=None).lazy()
        if self.kind == "json":
            return pl.scan_ndjson(self.path, schema=dict(types), ignore_errors=True)
        return pl.scan_csv(
            self.path,
            separator=self.separator,
            glob=False,
            infer_schema=False,
            schema_overrides=dict(types),
            ignore_errors=True,
        )

    def sample(self, column: str) -> pl.Series:
        """The first rows of one column; text in a CSV."""
        types = {} if self.kind == "csv" else {column: pl.String}
        return self.scan(types).select(column).head(_SNIFF_ROWS).collect()[column]

    def read(self, columns: list[str]) -> pl.DataFrame:
        """All rows of some columns, in types that fit every value."""
        if self.kind == "parquet" or self.is_array:
            return self.scan().select(columns).collect(engine="streaming")
        try:
            return self._infer(columns, _SNIFF_ROWS)
        except pl.exceptions.ComputeError:
            return self._infer(columns, None)  # a later row did not fit the type of the first ones

    def _infer(self, columns: list[str], rows: int | None) -> pl.DataFrame:
        if self.kind == "json":
            frame = pl.scan_ndjson(self.path, infer_schema_length=rows)
        else:
            frame = pl.scan_csv(
                self.path,
                separator=self.separator,
                glob=False,
                infer_schema_length=rows,
                null_values=MISSING_WORDS,
            )
        return frame.select(columns).collect(engine="streaming")

    def where(self, row: int, column: str | None = None) -> str:
        """Name a place in the file for an error message; ``row`` counts from 0, the message from 1."""
        line = {"csv": f" (line {row + 2})", "json": "", "parquet": ""}[self.kind]
        place = f"{self.path}, row {row + 1}{line}"
        return f"{place}, column {column!r}" if column else place

    def text_at(self, row: int, column: str) -> str:
        """The text of one cell as it was written, in quotes; the whole line of a JSON lines file."""
        if self.kind == "json" and not self.is_array:
            return quoted(pl.scan_lines(self.path, glob=False).slice(row, 1).collect().item())
        return quoted(self.scan().select(column).slice(row, 1).collect().item())


@dataclass(frozen=True, slots=True)
class RowFrame(RowFile):
    """A frame in memory, which keeps its own types as a Parquet file does."""

    frame: pl.DataFrame = field(default_factory=pl.DataFrame)

    @classmethod
    def of(cls, frame: Frame) -> Self:
        """Wrap a pandas or Polars frame so that errors can point into it.

        Raises:
            DataError: Two columns have the same name.
        """
        own = as_polars(frame)
        return cls(Path("data frame"), "parquet", tuple(own.columns), frame=own)

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
    head = _first_bytes(path)
    with reading(path):
        if head.startswith(b"PAR1"):
            return RowFile(path, "parquet", tuple(pl.scan_parquet(path, glob=False).collect_schema().names()))
        lines = pl.scan_lines(path, glob=False, n_rows=1).collect().to_series()
        first = str(lines[0]).removeprefix("\ufeff").strip() if len(lines) else ""
        if not first:
            raise _empty(path)
        if first[0] == "[":
            return RowFile(path, "json", tuple(pl.read_json(path).columns), is_array=True)
        if first[0] == "{":
            rows = pl.scan_ndjson(path, infer_schema_length=_SNIFF_ROWS)
            return RowFile(path, "json", tuple(rows.collect_schema().names()))
        separator = max(_SEPARATORS, key=first.count)
        header = pl.scan_csv(path, separator=separator, glob=False, infer_schema=False, n_rows=0)
        return RowFile(path, "csv", tuple(header.collect_schema().names()), separator)


def check_columns(file: RowFile, names: list[str]) -> None:
    """Check that the file has some columns.

    Raises:
        DataError: One is missing; the message lists those that the file has.
    """
    missing = [name for name in names if name not in file.columns]
    if missing:
        raise DataError(
            f"no column {', '.join(map(repr, missing))}",
            where=str(file.path),
            hint=f"The columns are: {', '.join(file.columns)}.",
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
def reading(path: Path) -> Iterator[None]:
    """Turn what Polars or the system says about a file into a DataError that says what to do.

    Raises:
        DataError: The body could not read the file.
    """
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        message = str(error)
        for words, what, hint in _COMPLAINTS:
            if any(word in message.lower() for word in words):
                raise DataError(what, where=str(path), hint=hint) from error
        raise DataError(f"cannot be read: {message.splitlines()[0]}", where=str(path)) from error


def _empty(path: Path) -> DataError:
    return DataError("the file is empty", where=str(path), hint="Check how it was made or copied.")


def _first_bytes(path: Path) -> bytes:
    """The first bytes of a file that may hold rows; an error if they show that it does not."""
    where = str(path)
    if path.is_dir():
        raise DataError("is a directory, not a file", where=where, hint="Name one of the files in it.")
    if not path.exists():
        raise DataError("there is no such file", where=where, hint="Check the name and the folder.")
    with reading(path), path.open("rb") as stream:
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
