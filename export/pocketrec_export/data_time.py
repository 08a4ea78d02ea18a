"""Timestamps of any usual form to whole microseconds, so that events sort exactly.

Numbers are seconds; what is too large for seconds (over 1e11, the year 5138) is taken as milliseconds,
microseconds or nanoseconds by its size, and counted. A column of ISO dates or datetimes is read as UTC where
it names no offset.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pocketrec_export.data_files import Table
from pocketrec_export.data_report import EARLIEST, SAMPLE, DataWarning, refuse, sample, short

MICROS = 1_000_000
BLOCK = 1 << 22
"""Rows worked on at a time."""
_LARGEST = 9.2e18  # int64
# unit, above, up to, times, divided by: value * times // divided by = microseconds
_UNITS = (
    ("milliseconds", 1e11, 1e14, 1_000, 1),
    ("microseconds", 1e14, 1e17, 1, 1),
    ("nanoseconds", 1e17, _LARGEST, 1, 1_000),
)
_FORMATS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")
_OFFSET = r"(?: ?[zZ]|([+-])(\d\d):?(\d\d)?)$"
_REMEDY = "Write seconds since 1970 as a number, or ISO dates in the whole column."


def microseconds(table: Table, column: str = "timestamp") -> tuple[NDArray[np.int64], list[DataWarning]]:
    """The column as int64 microseconds [rows], with warnings about what had to be converted.

    Raises:
        DataError: naming the first row whose value is empty, text, NaN or out of range.
    """
    series = table.frame[column]
    kind = series.dtype
    if kind == pl.Date or isinstance(kind, pl.Datetime):
        _refuse_where(table, column, series.is_null())
        micros = series.cast(pl.Datetime("us")).cast(pl.Int64)
        return micros.to_numpy(), [_iso_warning(table, column)]
    if not (kind == pl.String or kind.is_integer() or kind.is_float()):
        refuse(table.name, f"of type {kind}, not a time", _REMEDY, code="data-bad-timestamp", column=column)
    numbers = _Numbers(series)
    if kind == pl.String and numbers.none > series.len() // 2:
        iso = pl.concat([_iso(_stripped(block)) for block in _blocks(series)])
        # Not numbers and not dates: the message below names the first bad number instead.
        if iso.null_count() < numbers.none:
            _refuse_where(table, column, iso.is_null())
            return iso.to_numpy(), [_iso_warning(table, column)]
    _refuse_where(table, column, numbers.bad)
    return numbers.micros, _warnings(table, column, numbers)


def _blocks(series: pl.Series) -> list[pl.Series]:
    """The column in pieces, so that no step needs arrays as long as the column."""
    return [series[first : first + BLOCK] for first in range(0, series.len(), BLOCK)]


def _stripped(text: pl.Series) -> pl.Series:
    return text.fill_null("").str.strip_chars()


class _Numbers:
    """A column of numbers, or of text that should be numbers, in microseconds.

    Attributes:
        micros: int64 [rows]; of no meaning where `bad`.
        bad: boolean [rows], what is no time.
        none: rows that hold no number at all.
        larger: rows of each unit above seconds, counted, and the first few of them.
    """

    def __init__(self, series: pl.Series) -> None:
        self.micros = np.empty(series.len(), np.int64)
        self.none = 0
        self.larger: dict[str, tuple[int, NDArray[np.int64]]] = {}
        bad = []
        for number, block in enumerate(_blocks(series)):
            whole, real = self._parsed(block)
            self.none += real.null_count()
            wrong = real.is_null() | ~real.is_finite().fill_null(False)
            wrong |= (real.abs() > _LARGEST).fill_null(False)
            bad.append(wrong)
            fine = ~wrong.to_numpy()
            first = number * BLOCK
            self.micros[first : first + block.len()] = self._scaled(
                whole, np.where(fine, real.fill_null(0).to_numpy(), 0.0), first
            )
        self.bad = pl.concat(bad)

    @staticmethod
    def _parsed(block: pl.Series) -> tuple[pl.Series, pl.Series]:
        """As Int64, null where a value is no integer, and as Float64."""
        if block.dtype == pl.String:
            block = _stripped(block)
        elif block.dtype.is_float():
            return pl.Series([None], dtype=pl.Int64).new_from_index(0, block.len()), block.cast(pl.Float64)
        return block.cast(pl.Int64, strict=False), block.cast(pl.Float64, strict=False)

    def _scaled(self, whole: pl.Series, real: NDArray[np.float64], first: int) -> NDArray[np.int64]:
        """Seconds to microseconds; larger units by size."""
        exact = whole.is_not_null().to_numpy()
        integers = whole.fill_null(0).to_numpy()
        size = np.abs(real)
        factor, divisor = np.full(len(real), MICROS, np.int64), np.ones(len(real), np.int64)
        for unit, least, most, times, over in _UNITS:
            where = np.flatnonzero((size > least) & (size <= most))
            factor[where], divisor[where] = times, over
            if len(where):
                count, rows = self.larger.get(unit, (0, where[:0]))
                self.larger[unit] = (count + len(where), np.append(rows, first + where)[:SAMPLE])
        micros = np.where(exact, integers, 0) * np.where(exact, factor, 0) // divisor
        if not exact.all():
            micros[~exact] = np.rint(real[~exact] * factor[~exact] / divisor[~exact]).astype(np.int64)
        return micros


def _warnings(table: Table, column: str, numbers: _Numbers) -> list[DataWarning]:
    """What had to be converted, and whether the column holds times at all."""
    total = len(numbers.micros)
    warnings = []
    for unit, *_ in _UNITS:
        count, rows = numbers.larger.get(unit, (0, None))
        if rows is not None:
            warnings.append(
                DataWarning(
                    "timestamp-unit",
                    table.name,
                    count,
                    f"{count:,} of {total:,} values are too large for seconds, read as {unit}",
                    "Write seconds.",
                    column,
                    table.numbers(rows),
                    sample(table.frame[column].gather(rows).to_list()),
                )
            )
    if numbers.micros.max() < EARLIEST * MICROS:
        warnings.append(
            DataWarning(
                "timestamp-position",
                table.name,
                total,
                "values are too small for times, so they give the order of events and no time gaps",
                "Write seconds since 1970 when they are known.",
                column,
            )
        )
    return warnings


def _iso(text: pl.Series) -> pl.Series:
    """ISO dates and datetimes, with or without offset, as int64 microseconds; null for anything else."""
    frame = pl.DataFrame({"t": text.str.replace("T", " ", literal=True)})
    dated = pl.col("t").str.contains(r"^\d{4}-\d\d-\d\d")
    timed = pl.col("t").str.contains(r"\d\d:\d\d")
    part = [pl.col("t").str.extract(_OFFSET, i) for i in (1, 2, 3)]
    sign = pl.when(part[0] == "-").then(-1).otherwise(1)
    minutes = sign * (part[1].cast(pl.Int64) * 60 + part[2].cast(pl.Int64).fill_null(0))
    plain = pl.when(timed).then(pl.col("t").str.replace(_OFFSET, "")).otherwise(pl.col("t"))
    moment = pl.coalesce(plain.str.to_datetime(f, strict=False, time_unit="us") for f in _FORMATS).cast(
        pl.Int64
    )
    offset = pl.when(timed).then(minutes.fill_null(0)).otherwise(0)
    return frame.select(pl.when(dated).then(moment - offset * 60 * MICROS)).to_series()


def _iso_warning(table: Table, column: str) -> DataWarning:
    height = table.frame.height
    return DataWarning(
        "timestamp-date",
        table.name,
        height,
        f"{height:,} dates were read as UTC times",
        "Write seconds since 1970 to be sure of the order.",
        column,
        table.numbers(np.arange(min(height, 1))),
        sample([table.frame[column][0]]),
    )


def _refuse_where(table: Table, column: str, bad: pl.Series) -> None:
    """Raise for the first row where `bad` is true."""
    index = bad.arg_true()
    if index.len() == 0:
        return
    value = table.frame[column][index[0]]
    problem = "is empty" if value is None or str(value).strip() == "" else f"{short(value)} is not a time"
    more = f" (and {index.len() - 1:,} more rows)" if index.len() > 1 else ""
    refuse(
        table.name,
        f"{problem}{more}",
        _REMEDY,
        code="data-bad-timestamp",
        place=table.place(int(index[0])),
        column=column,
    )
