"""Small files of scores for small data, and what they mean by definition, in loops over single numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from hypothesis import strategies as st
from small_data import dataset_of

from pocketrec_export.model import Material
from pocketrec_export.score_config import ScoresConfig

ScoreRow = tuple[str, str, float, int | None]

EVENTS = [
    *[("a", item, time) for time, item in enumerate("pqrstp")],
    *[("b", item, time) for time, item in enumerate("qrpsu")],
    *[("c", item, time) for time, item in enumerate("uvq")],
    *[("d", item, time) for time, item in enumerate("wx")],
    ("e", "y", 0),
]
"""Training events: 4, 3, 1, 1 and 1; so three training positions of a, two of b."""

SCORES = st.lists(
    st.tuples(
        st.sampled_from("abcdez"),
        st.sampled_from("pqrstuvwxyZ"),
        st.sampled_from([0.1, 0.25, 0.5, 0.7, 0.9, math.nan, math.inf]),
        st.sampled_from([None, None, 1, 2, 3, 4, 5, 9, 0, -2]),
    ),
    max_size=60,
)
"""(user, item, score, after), with users and items that the data do not have and values of no use."""


def world(directory: Path) -> Material:
    """The data of `EVENTS`."""
    return Material(dataset_of(directory, EVENTS), 64)


def write_scores(path: Path, rows: Sequence[ScoreRow], after: bool = True) -> Path:
    """A file of these rows, in the format of its name; without `after` three columns."""
    names = ["user_id", "item_id", "score", *(["after"] if after else [])]
    kinds = dict(zip(names, (pl.String, pl.String, pl.Float64, pl.Int64), strict=False))
    frame = pl.DataFrame([row[: len(names)] for row in rows], schema=kinds, orient="row")
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    else:
        frame.write_csv(path, compression="gzip" if path.suffix == ".gz" else "uncompressed")
    return path


def usable(row: ScoreRow, material: Material) -> bool:
    """Whether a row can be in a list."""
    user, item, score, after = row
    known = user in material.dataset.user_ids and item in material.dataset.item_ids
    return known and math.isfinite(score) and (after is None or after >= 1)


def list_of(
    rows: Sequence[ScoreRow], material: Material, user: str, after: int | None, length: int
) -> list[tuple[int, float]]:
    """(item, score) of one list, best first."""
    best: dict[int, float] = {}
    for row in rows:
        if usable(row, material) and row[0] == user and row[3] == after:
            item = material.dataset.item_ids.index(row[1])
            best[item] = max(best.get(item, -math.inf), row[2])
    return sorted(best.items(), key=lambda pair: (-pair[1], pair[0]))[:length]


def expected(
    rows: Sequence[ScoreRow], material: Material, event: int, config: ScoresConfig, k: int
) -> tuple[list[int], list[float], int]:
    """The first k items, the log-probabilities of the whole list, and the target's rank, at an event of the
    dataset; scores are logits or stand for an order."""
    dataset = material.dataset
    user = int(np.searchsorted(dataset.offsets, event, side="right") - 1)
    begin, target = int(dataset.offsets[user]), int(dataset.items[event + 1])
    met = set(dataset.items[begin : event + 1].tolist()) - {target}
    name, seen = dataset.user_ids[user], event - begin + 1
    said = list_of(rows, material, name, seen, config.list_length)
    said = said or list_of(rows, material, name, None, config.list_length)
    left = [(item, score) for item, score in said if item not in met]
    if not left:
        return [], [], 0
    logits = [score for _, score in left]
    if config.scores == "rank":
        logits = [-math.log(place) for place in range(1, len(left) + 1)]
    total = math.log(sum(math.exp(logit / config.temperature) for logit in logits))
    own = [score for item, score in left if item == target]
    rank = sum(score >= own[0] for _, score in left) if own else max(len(left), k) + 1
    return (
        [item for item, _ in left[:k]],
        [logit / config.temperature - total for logit in logits],
        min(rank, dataset.num_items),
    )
