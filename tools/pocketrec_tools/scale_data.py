"""A data directory of any size, made up from a seed: what the scale of the build side is measured on.

    make_scale_data("big/", users=1_000_000, items=1_000_000, events=50_000_000)

* `interactions.parquet` is a log in the order of time, so a user's events lie all over it;
* ids are text of 16 and 10 characters, no numbers in disguise;
* histories have every length from two (log-normal), items follow a power law, four fifths of what a user
  takes are of his three topics, and an item's words say its topic;
* both files are written in chunks: the largest array is one of `events` numbers of 32 bits.

Same arguments, same events. For quality there is `demo_data`, whose events have reasons.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from polars.io.plugins import register_io_source

from pocketrec.errors import DataError

CHUNK = 1_000_000
START, SECONDS = 1_672_531_200, 365 * 86_400
FEWEST = 2
"""Events of a user, at least."""
TOPIC_ITEMS, TOPICS_EACH, OWN_TOPIC = 1000, 3, 0.8
EVENTS, EVENT_SHARES = ("view", "cart", "buy"), (0.7, 0.1, 0.2)
_WORDS, _TOPIC_WORDS, _BRANDS = 40_000, 30, 3_000
_SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in ("a", "e", "i", "o", "u", "an", "er", "is")]


def make_scale_data(out: str | Path, *, users: int, items: int, events: int, seed: int = 0) -> Path:
    """Write interactions.parquet and items.parquet into the directory `out`, and return it.

    Args:
        users: each has two events or more; items: of the catalogue, not all of which are met; events: rows.

    Raises:
        DataError: fewer than two events for each user, or nothing to write.
    """
    if users < 1 or items < 1 or events < FEWEST * users:
        raise DataError(
            f"{events:,} events of {users:,} users and {items:,} items.",
            remedy=f"Ask for an item, a user, and {FEWEST} events for each user, or more.",
        )
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    item_ids = _ids("B0", items, 8, rng)
    topics = -(-items // TOPIC_ITEMS)
    place = rng.permutation(items)  # popularity does not follow the order of the catalogue
    _write(_catalogue(item_ids, np.argsort(place) % topics, topics, rng), out / "items.parquet")
    _write(_log(item_ids, place, topics, users, events, rng), out / "interactions.parquet")
    return out


def _log(
    item_ids: pl.Series,
    place: NDArray[np.int64],
    topics: int,
    users: int,
    events: int,
    rng: np.random.Generator,
) -> Iterator[pl.DataFrame]:
    user_ids = _ids("", users, 16, rng)
    own = rng.integers(0, topics, (users, TOPICS_EACH), dtype=np.int32)
    who = np.repeat(np.arange(users, dtype=np.int32), _lengths(users, events, rng))
    rng.shuffle(who)
    kinds = pl.Series(EVENTS)
    for first in range(0, events, CHUNK):
        user = who[first : first + CHUNK]
        n = len(user)
        topic = own[user, rng.integers(0, TOPICS_EACH, n)]
        topic = np.where(rng.random(n) < OWN_TOPIC, topic, rng.integers(0, topics, n))
        # Within a topic, too, the first few are most of what is taken.
        rank = (rng.random(n) ** 3 * TOPIC_ITEMS).astype(np.int64)
        item = place[(rank * topics + topic) % len(place)]
        moment = START + np.arange(first, first + n, dtype=np.int64) * SECONDS // events
        kind = rng.choice(len(EVENTS), n, p=EVENT_SHARES)
        yield pl.DataFrame(
            {
                "user_id": user_ids.gather(user),
                "item_id": item_ids.gather(item),
                "timestamp": moment,
                "event": kinds.gather(kind),
            }
        )


def _lengths(users: int, events: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Events of each user, int64 [users], summing to `events`."""
    weights = rng.lognormal(0, 1, users)
    spare = events - FEWEST * users
    lengths = FEWEST + np.floor(weights / weights.sum() * spare).astype(np.int64)
    lengths[rng.permutation(users)[: events - int(lengths.sum())]] += 1
    return lengths


def _catalogue(
    item_ids: pl.Series, topic: NDArray[np.int64], topics: int, rng: np.random.Generator
) -> Iterator[pl.DataFrame]:
    words = _words(_WORDS, rng)
    common = words[: _WORDS // 20]
    of_topic = rng.integers(0, _WORDS, (topics, _TOPIC_WORDS), dtype=np.int32)
    brands = _words(_BRANDS, rng).str.to_titlecase()
    for first in range(0, len(item_ids), CHUNK):
        ids, own = item_ids[first : first + CHUNK], topic[first : first + CHUNK]
        n = len(ids)

        def typical(own: NDArray[np.int64] = own, n: int = n) -> pl.Series:
            return words.gather(of_topic[own, rng.integers(0, _TOPIC_WORDS, n)])

        def any_word(n: int = n) -> pl.Series:
            return common.gather((rng.random(n) ** 2 * len(common)).astype(np.int64))

        code = pl.Series(rng.integers(1, 999, n)).cast(pl.String)
        parts = {"a": typical(), "b": any_word(), "c": typical(), "d": any_word(), "e": typical(), "f": code}
        title = pl.DataFrame(parts).select(pl.concat_str(pl.all(), separator=" ")).to_series()
        yield pl.DataFrame(
            {
                "item_id": ids,
                "title": title,
                "categories": words.gather(of_topic[own, 0]) + " " + words.gather(of_topic[own, 1]),
                "brand": brands.gather(rng.integers(0, _BRANDS, n)),
            }
        )


def _words(count: int, rng: np.random.Generator) -> pl.Series:
    """Words of two to four syllables; some may come twice."""
    parts = [pl.Series(["", *_SYLLABLES]).gather(rng.integers(low, 113, count)) for low in (1, 1, 0, 0)]
    return parts[0] + parts[1] + parts[2] + parts[3]


def _ids(head: str, count: int, digits: int, rng: np.random.Generator) -> pl.Series:
    """Different ids in no order: numbers through a random odd multiplier, in capital hexadecimal."""
    factor = int(rng.integers(0, 2 ** (4 * digits - 1), dtype=np.uint64)) * 2 + 1
    mask = (1 << (4 * digits)) - 1
    return pl.Series([f"{head}{(i * factor + factor) & mask:0{digits}X}" for i in range(count)])


def _write(frames: Iterator[pl.DataFrame], file: Path) -> None:
    """The frames as one parquet file, one at a time."""
    first = next(frames)

    def source(*_arguments: Any) -> Iterator[pl.DataFrame]:
        yield first
        yield from frames

    register_io_source(source, schema=first.schema).sink_parquet(file, row_group_size=CHUNK // 2)
