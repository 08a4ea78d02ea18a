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
    if kind == pl.String:
        text = series.fill_null("").str.strip_chars()
        whole, real = text.cast(pl.Int64, strict=False), text.cast(pl.Float64, strict=False)
        if real.null_count() > text.len() // 2:
            iso = _iso(text)
            # Not numbers and not dates: the message below names the first bad number instead.
            if iso.null_count() < real.null_count():
                _refuse_where(table, column, iso.is_null())
                return iso.to_numpy(), [_iso_warning(table, column)]
    elif kind.is_integer():
        whole, real = series.cast(pl.Int64, strict=False), series.cast(pl.Float64)
    elif kind.is_float():
        whole, real = (
            pl.Series([None], dtype=pl.Int64).new_from_index(0, series.len()),
            series.cast(pl.Float64),
        )
    else:
        refuse(table.name, f"of type {kind}, not a time", _REMEDY, code="data-bad-timestamp", column=column)
    bad = real.is_null() | ~real.is_finite().fill_null(False) | (real.abs() > _LARGEST).fill_null(False)
    _refuse_where(table, column, bad)
    return _scaled(table, column, whole, real.to_numpy())


def _scaled(
    table: Table, column: str, whole: pl.Series, real: NDArray[np.float64]
) -> tuple[NDArray[np.int64], list[DataWarning]]:
    """Seconds to microseconds; larger units by size. `whole` is null where a value is no integer."""
    exact = whole.is_not_null().to_numpy()
    integers = whole.fill_null(0).to_numpy()
    size = np.abs(real)
    factor, divisor = np.full(len(real), MICROS, np.int64), np.ones(len(real), np.int64)
    warnings = []
    for unit, least, most, times, over in _UNITS:
        where = np.flatnonzero((size > least) & (size <= most))
        factor[where], divisor[where] = times, over
        if len(where):
            warnings.append(
                DataWarning(
                    "timestamp-unit",
                    table.name,
                    len(where),
                    f"{len(where):,} of {len(real):,} values are too large for seconds, read as {unit}",
                    "Write seconds.",
                    column,
                    table.numbers(where),
                    sample(table.frame[column].gather(where[:SAMPLE]).to_list()),
                )
            )
    micros = np.where(exact, integers, 0) * np.where(exact, factor, 0) // divisor
    if not exact.all():
        micros[~exact] = np.rint(real[~exact] * factor[~exact] / divisor[~exact]).astype(np.int64)
    if micros.max() < EARLIEST * MICROS:
        warnings.append(
            DataWarning(
                "timestamp-position",
                table.name,
                len(micros),
                "values are too small for times, so they give the order of events and no time gaps",
                "Write seconds since 1970 when they are known.",
                column,
            )
        )
    return micros, warnings


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
