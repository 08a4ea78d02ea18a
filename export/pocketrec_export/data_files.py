"""Reads the tables of a data directory into polars frames, and says where a broken file is broken.

CSV is read with every column as text, so that an id such as "001" keeps its zeros and a bad value can be
shown as it stands in the file. Polars does the reading; Python's slower csv module walks the file to find a
place, or when polars is too lenient to be relied on.

Columns that repeat a few texts millions of times become categorical: four bytes a row. Parquet is turned into
them while it is read, so that the texts of all rows are never there at once.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pocketrec_export.data_report import SAMPLE, DataWarning, refuse, short

SUFFIXES = (".csv", ".csv.gz", ".parquet")

csv.field_size_limit(2**31 - 1)


@dataclass
class Table:
    """One file as a frame: text columns from CSV, typed columns from parquet, blank rows taken out."""

    path: Path
    frame: pl.DataFrame
    rows: NDArray[np.int64] | None = None
    """Number of each frame row in the file, from 1 without the header; None when nothing was taken out."""
    warnings: list[DataWarning] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.name

    def numbers(self, index: NDArray[np.integer] | pl.Series) -> tuple[int, ...]:
        """File row numbers of the first few of these frame rows."""
        first = np.asarray(index[:SAMPLE], dtype=np.int64)
        return tuple(int(n) for n in (first + 1 if self.rows is None else self.rows[first]))

    def place(self, index: int) -> str:
        """Where a frame row stands in the file: "row 3 (line 4)"; parquet has no lines."""
        row = index + 1 if self.rows is None else int(self.rows[index])
        if self.path.suffix == ".parquet":
            return f"row {row}"
        for number, (line, _) in enumerate(_records(_content(self.path))):
            if number == row:
                return f"row {row} (line {line})"
        return f"row {row}"


def find_table(directory: Path, stem: str) -> Path | None:
    """The one file `stem` + .csv, .csv.gz or .parquet of a directory; None when there is none.

    Raises:
        DataError: when several are there, since they could say different things.
    """
    found = [path for suffix in SUFFIXES if (path := directory / f"{stem}{suffix}").is_file()]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        refuse(str(directory), f"{names} are both there", "Keep one of them.", code="data-ambiguous-file")
    return found[0] if found else None


def read_table(path: Path, required: tuple[str, ...], repeated: tuple[str, ...] = ()) -> Table:
    """Read a CSV or parquet file that must have the columns `required`.

    Args:
        repeated: columns, there or not, to hold as categorical where they are text or whole numbers.

    Raises:
        DataError: the file is empty, damaged, not UTF-8, malformed, or lacks a column.
    """
    if path.suffix == ".parquet":
        try:
            scan = pl.scan_parquet(path, glob=False, hive_partitioning=False)
            frame = _categorical(scan, scan.collect_schema(), repeated).collect(engine="streaming")
        except (pl.exceptions.PolarsError, OSError) as error:
            refuse(
                path.name,
                f"not readable as parquet ({error})",
                "Write the file again.",
                code="data-damaged-file",
            )
        table = Table(path, frame)
    else:
        table = _read_csv(path)
        table.frame = _categorical(table.frame.lazy(), table.frame.schema, repeated).collect()
    missing = [name for name in required if name not in table.frame.columns]
    if missing:
        refuse(
            path.name,
            f"column {', '.join(map(repr, missing))} is missing; "
            f"found {', '.join(map(short, table.frame.columns))}",
            f"Name the columns {', '.join(required)} in the first line, separated by commas.",
            code="data-missing-column",
        )
    return _without_blank_rows(table)


def _categorical(frame: pl.LazyFrame, schema: pl.Schema, names: tuple[str, ...]) -> pl.LazyFrame:
    """The frame with these columns as categorical, where their type has an exact text form."""
    texts = [n for n in names if n in schema and (schema[n] == pl.String or schema[n].is_integer())]
    return frame.with_columns(pl.col(texts).cast(pl.String).cast(pl.Categorical)) if texts else frame


def _read_csv(path: Path) -> Table:
    content = _content(path)
    if not content.strip(b"\xef\xbb\xbf\r\n\t "):
        refuse(
            path.name, "the file is empty", "Write a header line and the rows again.", code="data-empty-file"
        )
    if b"\r" in content and b"\n" not in content:
        refuse(
            path.name,
            "lines end in a bare CR",
            "Save the file with LF or CRLF line ends.",
            code="data-malformed",
        )
    header = _header(path.name, content)
    table = Table(path, pl.DataFrame())
    # Polars accepts text after a closing quote and fills short rows up; the csv module is strict about both.
    checked = b'"' in content
    try:
        frame = pl.read_csv(io.BytesIO(content), infer_schema=False)
        suspicious = frame.height > 0 and frame.to_series(frame.width - 1).null_count() > 0
        if checked or suspicious:
            _walk(path.name, content, len(header))
    except pl.exceptions.PolarsError:
        # Either broken, then the walk names the place, or polars stumbled over quote marks in unquoted cells.
        rows = _walk(path.name, content, len(header), keep=True)
        frame = pl.DataFrame(rows, schema=dict.fromkeys(header, pl.String), orient="row")
        table.warnings.append(
            DataWarning(
                "loose-quotes",
                path.name,
                1,
                "has quote marks inside unquoted cells, read as part of the text",
                'Put such cells in quotes and double the marks: "19"" rack".',
            )
        )
    frame.columns = header
    table.frame = frame
    return table


def _content(path: Path) -> bytes:
    """The bytes of a CSV file, unpacked."""
    raw = path.read_bytes()
    if path.suffix != ".gz":
        if raw[:2] == b"\x1f\x8b":
            refuse(
                path.name, "the file is gzip data", "Rename it to end in .csv.gz.", code="data-damaged-file"
            )
        return raw
    try:
        return gzip.decompress(raw) if raw else b""
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        refuse(
            path.name,
            f"the gzip data is damaged or cut off ({error})",
            "Copy or pack the file again.",
            code="data-damaged-file",
        )


def _text(name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The codec counts from behind a byte order mark.
        at = error.start + (3 if content.startswith(b"\xef\xbb\xbf") else 0)
        line = content.count(b"\n", 0, at) + 1
        near = content[max(content.rfind(b"\n", 0, at) + 1, at - 20) : at + 10].decode("utf-8", "replace")
        # What comes before it, read as CSV, ends in the very cell.
        before = csv.reader(io.StringIO(content[:at].decode("utf-8-sig") + "?", newline=""))
        records = [cells for cells in before if cells]
        row, cell = len(records) - 1, len(records[-1])
        named = row > 0 and cell <= len(records[0])
        refuse(
            name,
            f"byte {at} of the unpacked file ({content[at]:#04x}, near {short(near)}) is not UTF-8",
            "Save the file as UTF-8.",
            code="data-encoding",
            place=f"row {row} (line {line})" if row else f"header, cell {cell} (line {line})",
            column=records[0][cell - 1] if named else "",
        )


class _BrokenQuoting(Exception):
    """The csv module's complaint, with the line at which the record begins."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


def _records(content: bytes) -> Iterator[tuple[int, list[str]]]:
    """(first line, cells) of each record, the header first; a blank line has no cells."""
    reader = csv.reader(io.StringIO(content.decode("utf-8-sig", "replace"), newline=""), strict=True)
    header_seen = False
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise _BrokenQuoting(line, str(error)) from error
        header_seen = header_seen or bool(cells)
        if header_seen:
            yield line, cells


def _header(name: str, content: bytes) -> list[str]:
    head = content.lstrip(b"\r\n")
    first = _text(name, head[: head.find(b"\n") + 1] or head)
    try:
        header = next(csv.reader(io.StringIO(first, newline=""), strict=True))
    except csv.Error as error:
        refuse(
            name,
            f"malformed header: {error}",
            "Write plain column names.",
            code="data-malformed",
            place="line 1",
        )
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice:
        refuse(
            name,
            f"column {', '.join(map(short, twice))} is there more than once",
            "Keep one of them.",
            code="data-duplicate-column",
            place="line 1",
        )
    return header


def _walk(name: str, content: bytes, width: int, keep: bool = False) -> list[list[str]]:
    """Check quoting and cell counts of every record; the rows without the header when they are to be kept."""
    _text(name, content)
    rows: list[list[str]] = []
    number = -1
    try:
        for number, (line, cells) in enumerate(_records(content)):
            if len(cells) != width and cells:
                refuse(
                    name,
                    f"{len(cells)} cells where the header has {width}: {short(','.join(cells))}",
                    "Give every row as many cells as the header; put cells with commas in quotes.",
                    code="data-malformed",
                    place=f"row {number} (line {line})",
                )
            if keep and number > 0:
                rows.append(cells or [""] * width)
    except _BrokenQuoting as error:
        refuse(
            name,
            f"broken quoting ({error})",
            "Close every quote, and double the quote marks inside quoted cells.",
            code="data-malformed",
            place=f"row {number + 1} (line {error.line})",
        )
    return rows


def _without_blank_rows(table: Table) -> Table:
    """Take out rows in which every cell is empty, and count them."""
    frame = table.frame
    if frame.height == 0:
        refuse(
            table.name,
            "there is a header but no row",
            "Write the rows below the header.",
            code="data-empty-file",
        )
    empty = [
        pl.col(name).is_null() | (pl.col(name) == "")
        if frame.schema[name] in (pl.String, pl.Categorical)
        else pl.col(name).is_null()
        for name in frame.columns
    ]
    blank = frame.select(pl.all_horizontal(empty)).to_series().to_numpy()
    if not blank.any():
        return table
    if blank.all():
        refuse(table.name, "every row is blank", "Write the rows below the header.", code="data-empty-file")
    warning = DataWarning(
        "blank-row",
        table.name,
        int(blank.sum()),
        f"{int(blank.sum())} blank rows were skipped",
        "Remove them.",
        rows=table.numbers(np.flatnonzero(blank)),
    )
    table.rows = np.flatnonzero(~blank) + 1
    table.frame = frame.filter(pl.Series(~blank))
    table.warnings.append(warning)
    return table
