"""Reads a file of scores that somebody made with a model we know nothing about.

    teacher = open_score_teacher("lists.parquet", material, ScoresConfig())
    print(teacher.report)                   # what was used, and a count for everything that was not

The file, .parquet, .csv or .csv.gz, or a directory of .parquet parts, has a row for each (user_id, item_id,
score) and optionally `after`: the list was made after that many events of the user. It is never in memory
as a whole: polars streams it, once to count and then as often as `ROWS_AT_ONCE` demands. What stays is eight
bytes for each row of a list.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl

from pocketrec.errors import DataError

from .data import Dataset
from .data_report import refuse, sample, short
from .model import Material
from .score_config import ScoresConfig
from .score_lists import ScoreLists
from .score_report import ScoresReport
from .score_teacher import ScoresTeacher

log = logging.getLogger(__name__)

T = TypeVar("T")

# Usable rows that are sorted at a time, in about 70 bytes each.
ROWS_AT_ONCE = 32_000_000
# Beyond this a score is a mistake, and its square is no number.
LARGEST = 1e30
# A probability of 0 still stands behind all others.
SMALLEST_PROBABILITY = 1e-12

_COLUMNS = ("user_id", "item_id", "score")
_STATUS = ("used", "blank_ids", "bad_scores", "bad_after", "unknown_user_rows", "unknown_item_rows")


def open_score_teacher(
    path: str | Path, material: Material, config: ScoresConfig | None = None
) -> ScoresTeacher:
    """The teacher that a file of scores is, for the data of `material`.

    Raises:
        DataError: the file is not there, not readable, has wrong columns, or says nothing about any training
            position (`scores-empty`).
    """
    path, config = Path(path), config or ScoresConfig()
    split = material.split
    events = np.diff(material.dataset.offsets)
    training = split.train_ends - material.dataset.offsets[:-1]
    scan = _Scan(path, material.dataset, config)
    lists, used, duplicates, cut = scan.lists()
    # After all of a user's events there is nothing left to recommend.
    beyond = lists.after >= events[lists.user]
    held_out = ~beyond & (lists.after >= training[lists.user])
    beyond_rows = int(lists.lengths[beyond].sum())
    # Held-out lists must change nothing in training, not even the scale of the others.
    spread = lists.only(~beyond & ~held_out).spread() if config.scores == "auto" else 1.0
    lists = lists.only(~beyond)
    covered, with_list = lists.coverage(training)
    report = ScoresReport(
        path=str(path),
        rows=scan.rows,
        used_rows=used - beyond_rows,
        duplicate_rows=duplicates,
        cut_rows=cut,
        beyond_rows=beyond_rows,
        **{name: scan.count[name] for name in _STATUS[1:]},
        unknown_users=scan.unknown_users.len(),
        unknown_items=scan.unknown_items.len(),
        unknown_user_sample=sample(scan.unknown_users.sort().head(5).to_list()),
        unknown_item_sample=sample(scan.unknown_items.sort().head(5).to_list()),
        unused_columns=scan.unused,
        lists=len(lists.after),
        held_out_lists=int(held_out.sum()),
        beyond_lists=int(beyond.sum()),
        longest_list=int(lists.lengths.max(initial=0)),
        mean_list=float(lists.lengths.mean()) if len(lists.after) else 0.0,
        users=int((training > 1).sum()),
        users_without_list=int(((training > 1) & ~with_list).sum()),
        positions=int((training - 1).sum()),
        positions_without_list=int((training - 1).sum()) - covered,
    )
    if covered == 0:
        raise DataError(
            f"{path.name}: no list is about a training position.\n{report}\n",
            code="scores-empty",
            remedy="Write user and item ids as the data has them, and lists made after fewer events than a "
            "user's training part has, or without `after`.",
        )
    log.info("%s", report)
    key = hashlib.sha256(f"{scan.digest()} {material.dataset.fingerprint} {config.key()}".encode())
    return ScoresTeacher(
        f"scores {path.name}",
        key.hexdigest()[:16],
        material.dataset.num_items,
        lists,
        scale=config.temperature * spread,
        by_rank=config.scores == "rank",
        report=report,
    )


@dataclass(frozen=True)
class _Columns:
    """The columns of a file as expressions: text ids, float64 score, float64 after or null."""

    user: pl.Expr
    item: pl.Expr
    score: pl.Expr
    after: pl.Expr
    after_given: pl.Expr


class _Scan:
    """A file of scores beside the data that it is about; counts all rows at once, gives the lists later."""

    def __init__(self, path: Path, dataset: Dataset, config: ScoresConfig) -> None:
        self.path, self._config = path, config
        self._users = dataset.num_users
        self.files, frame = _open(path)
        schema = self._guard(frame.collect_schema)
        columns = _columns(path.name, schema, text=not self.files[0].name.endswith(".parquet"))
        self.unused = tuple(name for name in schema.names() if name not in (*_COLUMNS, "after"))
        user = columns.user.cast(pl.Enum(dataset.user_ids), strict=False).to_physical().cast(pl.Int32)
        item = columns.item.cast(pl.Enum(dataset.item_ids), strict=False).to_physical().cast(pl.Int32)
        no_score = ~(columns.score.is_finite() & (columns.score.abs() < LARGEST)).fill_null(False)
        after = columns.after
        whole = (after >= 1) & (after < 2**31) & (after == after.floor())
        no_after = columns.after_given & ~whole.fill_null(False)
        blank = (_blank(columns.user) | _blank(columns.item)).fill_null(True)
        first_three = pl.when(blank).then(1).when(no_score).then(2).when(no_after).then(3)
        status = first_three.when(user.is_null()).then(4).when(item.is_null()).then(5).otherwise(0)
        self._frame = frame.select(
            status=status.cast(pl.Int8),
            user=user,
            after=pl.when(columns.after_given).then(after).otherwise(0).cast(pl.Int32, strict=False),
            item=item,
            score=columns.score,
            user_id=columns.user,
            item_id=columns.item,
        )
        count, users, items, lowest = self._guard(
            lambda: pl.collect_all(
                [
                    self._frame.group_by("status").len(),
                    self._frame.filter(pl.col("status") == 4).select(pl.col("user_id").unique()),
                    self._frame.filter(pl.col("status") == 5).select(pl.col("item_id").unique()),
                    self._frame.filter(pl.col("status") == 0).select(pl.col("score").min()),
                ],
                engine="streaming",
            )
        )
        found = dict(count.iter_rows())
        self.rows = sum(found.values())
        self.count = {name: found.get(number, 0) for number, name in enumerate(_STATUS)}
        self.unknown_users, self.unknown_items = users.to_series(), items.to_series()
        if self.rows == 0:
            refuse(path.name, "there is no row", "Write the rows again.", code="scores-empty")
        if config.scores == "probabilities" and (lowest.item() or 0) < 0:
            refuse(
                path.name,
                f"the lowest score is {lowest.item():.6g}, which is no probability",
                'Say scores = "logits" or "auto".',
                code="scores-invalid",
                column="score",
            )

    def lists(self) -> tuple[ScoreLists, int, int, int]:
        """All lists, the rows that they hold, rows that repeat a pair, and rows cut off at their ends."""
        parts, held, duplicates, cut = [], 0, 0, 0
        passes = max(1, -(-self.count["used"] // ROWS_AT_ONCE))
        bounds = np.linspace(0, self._users, passes + 1).astype(int)
        for low, high in itertools.pairwise(bounds.tolist()):
            part = self._part(low, high)
            lists, repeated = ScoreLists.from_rows(*(part[name].to_numpy() for name in part.columns))
            duplicates += repeated
            short_lists = lists.cut(self._config.list_length)
            cut += len(lists.item) - len(short_lists.item)
            held += len(short_lists.item)
            parts.append(short_lists)
        return ScoreLists.joined(parts), held, duplicates, cut

    def digest(self) -> str:
        """sha256 of the contents of all files."""
        digest = hashlib.sha256()
        for file in self.files:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    def _part(self, low: int, high: int) -> pl.DataFrame:
        wanted = (pl.col("status") == 0) & pl.col("user").is_between(low, high, closed="left")
        score = pl.col("score")
        if self._config.scores == "probabilities":
            score = score.clip(SMALLEST_PROBABILITY).log()
        rows = self._frame.filter(wanted).select("user", "after", "item", score)
        return self._guard(lambda: rows.collect(engine="streaming"))

    def _guard(self, read: Callable[[], T]) -> T:
        try:
            return read()
        except (pl.exceptions.PolarsError, OSError) as error:
            reason = str(error).split("\n", 1)[0]
            refuse(self.path.name, f"not readable ({reason})", "Write the file again.", code="scores-damaged")


def _open(path: Path) -> tuple[list[Path], pl.LazyFrame]:
    """The files behind a path, and a lazy frame over them."""
    if path.is_dir():
        files = sorted(path.glob("*.parquet"))
        if not files:
            refuse(str(path), "holds no .parquet file", "Name the file itself.", code="scores-missing")
        return files, pl.scan_parquet(files)
    if not path.is_file():
        refuse(str(path), "is not there", "Name the file of scores.", code="scores-missing")
    if path.name.endswith((".csv", ".csv.gz")):
        return [path], pl.scan_csv(path, infer_schema=False)
    if path.name.endswith(".parquet"):
        return [path], pl.scan_parquet(path)
    refuse(path.name, "is neither .parquet nor .csv nor .csv.gz", "Write one of them.", code="scores-missing")


def _columns(name: str, schema: pl.Schema, text: bool) -> _Columns:
    missing = [column for column in _COLUMNS if column not in schema]
    if missing:
        refuse(
            name,
            f"column {', '.join(map(repr, missing))} is missing; found {', '.join(map(short, schema))}",
            "Name the columns user_id, item_id, score, and after if lists were made after so many events.",
            code="scores-missing-column",
        )
    for column, what, wanted in () if text else _wrong_types(schema):
        refuse(name, f"is of type {what}", f"Write {wanted}.", code="scores-type", column=column)
    after = pl.col("after") if "after" in schema else pl.lit(None, pl.String if text else pl.Int32)
    return _Columns(
        pl.col("user_id").cast(pl.String),
        pl.col("item_id").cast(pl.String),
        _number(pl.col("score"), text),
        _number(after, text),
        ~_blank(after) if text else after.is_not_null(),
    )


def _wrong_types(schema: pl.Schema) -> Iterator[tuple[str, str, str]]:
    """(column, its type, what is wanted) of each column whose type has no meaning here."""
    for column in ("user_id", "item_id"):
        kind = schema[column]
        if not (kind == pl.String or kind.is_integer() or isinstance(kind, (pl.Categorical, pl.Enum))):
            yield column, str(kind), "ids as text or as whole numbers"
    for column, wanted in (("score", "scores as numbers"), ("after", "whole numbers of events")):
        kind = schema.get(column, pl.Int32())
        if not (kind.is_numeric() or kind == pl.Null):
            yield column, str(kind), wanted


def _number(column: pl.Expr, text: bool) -> pl.Expr:
    """float64; null for what is no number, in a CSV file."""
    return (column.str.strip_chars() if text else column).cast(pl.Float64, strict=False)


def _blank(column: pl.Expr) -> pl.Expr:
    return column.is_null() | (column.str.strip_chars() == "")
