"""A data directory with real structure, made up from a seed: the log of a small outdoor and home shop.

    make_demo_data("demo-data/")        # interactions.csv and items.csv; same seed, same bytes

What is in it, and what a recommender can therefore learn:

* needs follow one another (tent, sleeping bag, mat, stove); buyers move on, those who only looked compare;
* people keep to a favourite brand and a style, both of which stand in the titles;
* a need that is met does not come back, except for what is used up;
* activities have seasons; products have a popular head and a long tail, some come late, some are yet unseen;
* sessions with minutes inside and days between, events of three types: view, cart, buy.

Each event is drawn from a known distribution over all items, so it is also known how well the best possible
ranking would do (`DemoLog.best_ranks`).
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import DataError
from pocketrec_tools.demo_catalogue import (
    BRANDS,
    FEWEST_ITEMS,
    MOST_ITEMS,
    NEEDS_EACH,
    STYLES,
    DemoCatalogue,
    make_catalogue,
)

START = 1_672_531_200
"""The first second of the log: 1 January 2023, UTC."""

DAYS = 730
_BLOCK = 4096
EVENTS = ["view", "cart", "buy"]
VIEW, CART, BUY = range(3)

# Chance to compare, to move on to a next need, to turn to something else; by the type of the last event.
_MODES = np.array([[0.42, 0.46, 0.12], [0.15, 0.73, 0.12], [0.04, 0.84, 0.12]])
_NEW_SESSION = np.array([[0.25, 0.50, 0.25], [0.15, 0.60, 0.25], [0.03, 0.72, 0.25]])
_EVENT_SHARES = np.cumsum([0.58, 0.14, 0.28])

_NEXT_NEEDS = ((1, 0.62), (2, 0.23), (3, 0.10), (-1, 0.05))
_MET_AGAIN = 0.1
_SEEN_AGAIN, _USED_UP_AGAIN = 0.03, 0.5
_BRAND_ODDS, _SECOND_BRAND_ODDS, _STYLE_ODDS = 14.0, 4.0, 3.5


@dataclass(frozen=True)
class DemoLog:
    """Events in time order; arrays have [events] entries.

    Args:
        users: int64, numbers from 0.
        items: int64, positions in the demo catalogue.
        timestamps: int64 seconds.
        events: int64, indices into `EVENTS`.
        best_ranks: int64; the rank (ties count against) among the items new to the user, by the distribution
            from which the event was drawn; items + 1 when the item was not new.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    timestamps: NDArray[np.int64]
    events: NDArray[np.int64]
    best_ranks: NDArray[np.int64]


def make_demo_data(
    out_dir: str | Path, seed: int = 0, users: int = 3000, items: int = 1200, *, force: bool = False
) -> Path:
    """Write interactions.csv and items.csv and return their directory.

    Args:
        out_dir: made when absent. Files of the same content stay; others are only replaced with `force`.
        seed: same seed and sizes, same bytes.
        users: how many shoppers, from 1.
        items: how many products, 60 to 50,000; fewer than 600 give fewer activities.
        force: replace what is there.

    Raises:
        DataError: sizes out of range, or other files in the way.
    """
    if users < 1 or not FEWEST_ITEMS <= items <= MOST_ITEMS:
        raise DataError(
            f"{users} users and {items} items make no shop.",
            code="data-bad-size",
            remedy=f"Ask for at least 1 user, and for {FEWEST_ITEMS} to {MOST_ITEMS:,} items.",
        )
    rng = np.random.default_rng([seed, users, items])
    catalogue = make_catalogue(items, DAYS, rng)
    log = simulate(catalogue, users, rng)
    width = len(str(users))
    rows = zip(
        log.users.tolist(), log.items.tolist(), log.timestamps.tolist(), log.events.tolist(), strict=True
    )
    files = {
        "interactions.csv": _csv(
            ["user_id", "item_id", "timestamp", "event"],
            ([f"u{u + 1:0{width}d}", catalogue.item_ids[i], t, EVENTS[e]] for u, i, t, e in rows),
        ),
        "items.csv": _csv(
            ["item_id", "title", "categories", "brand"],
            (
                [
                    catalogue.item_ids[i],
                    catalogue.titles[i],
                    catalogue.categories[i],
                    BRANDS[catalogue.brands[i]],
                ]
                for i in sorted(range(items), key=catalogue.item_ids.__getitem__)
            ),
        ),
    }
    directory = Path(out_dir)
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = directory / name
        if path.exists() and path.read_bytes() != content and not force:
            raise DataError(
                f"{path} is already there and differs.",
                code="data-exists",
                remedy="Choose another directory, or replace it with force.",
            )
    for name, content in files.items():
        part = directory / f".{name}.part"
        part.write_bytes(content)
        os.replace(part, directory / name)
    return directory


def simulate(catalogue: DemoCatalogue, users: int, rng: np.random.Generator) -> DemoLog:
    """Let `users` shop; blocks of users bound the memory, which is users x items otherwise."""
    blocks, done = [], 0
    while done < users:
        size = min(_BLOCK, users - done)
        who, *rest = _shop(catalogue, size, rng)
        blocks.append((who + done, *rest))
        done += size
    who, item, seconds, event, best = (np.concatenate(part) for part in zip(*blocks, strict=True))
    order = np.argsort(seconds, kind="stable")
    return DemoLog(who[order], item[order], seconds[order], event[order], best[order])


def _shop(catalogue: DemoCatalogue, users: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], ...]:
    """A block of users, one event of each at a time: the arrays of the log, users from 0, unordered."""
    times, fresh = _times(users, rng)
    taste = _tastes(catalogue, users, rng)
    interest = _interests(catalogue, users, rng)
    follows, entry = _transitions(catalogue)
    need_of, starts, sizes = catalogue.needs, catalogue.starts[:-1], np.diff(catalogue.starts)
    late = np.flatnonzero(catalogue.launches > 0)
    again = np.where(catalogue.consumable[need_of], _USED_UP_AGAIN, _SEEN_AGAIN)
    met_again = np.where(catalogue.consumable, 1.0, _MET_AGAIN)

    seen = np.zeros((users, len(need_of)), bool)
    met = np.ones((users, catalogue.num_needs))
    need = np.zeros(users, np.int64)
    event = np.full(users, VIEW)
    parts = []
    for step in range(times.shape[1]):
        who = np.flatnonzero(~np.isnan(times[:, step]))
        now = times[who, step]
        # Which need: the same, one that follows, or the entry to some activity in season.
        season = interest[who] * _seasons(now, catalogue.num_activities)
        turn = _normal(np.repeat(season, NEEDS_EACH, axis=1) * entry * met[who])
        if step:
            follow = _normal(follows[need[who]] * met[who])
            modes = np.where(fresh[who, step, None], _NEW_SESSION[event[who]], _MODES[event[who]])
            needs = modes[:, 1:2] * follow + modes[:, 2:] * turn
            needs[np.arange(len(who)), need[who]] += modes[:, 0]
        else:
            needs = turn
        # Which item of the need: taste, popularity, whether it was seen, whether it is out yet.
        shelf = taste[who]
        shelf[:, late] *= now[:, None] >= catalogue.launches[late]
        chance = shelf * np.repeat(needs / np.add.reduceat(shelf, starts, axis=1), sizes, axis=1)
        item = _drawn(chance, rng)
        own = chance[np.arange(len(who)), item]
        new = ~seen[who, item]
        best = np.count_nonzero((chance >= own[:, None]) & ~seen[who], axis=1)
        event[who] = np.searchsorted(_EVENT_SHARES, rng.random(len(who)))
        need[who] = need_of[item]
        bought = who[event[who] == BUY]
        met[bought, need[bought]] = met_again[need[bought]]
        taste[who, item] *= np.where(new, again[item], 1.0)
        seen[who, item] = True
        parts.append((who, item, now, event[who], np.where(new, best, len(need_of) + 1)))
    who, item, now, kind, best = (np.concatenate(part) for part in zip(*parts, strict=True))
    return who, item, START + (now * 86_400).astype(np.int64), kind, best


def _times(users: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Days since the start, [users, longest], NaN behind a user's last event; and where sessions begin."""
    lengths = np.clip(np.rint(np.exp(rng.normal(2.55, 0.55, users))), 1, 60).astype(int)
    longest = int(lengths.max())
    fresh = rng.random((users, longest)) < 0.35
    minutes, days = (
        rng.exponential(4.0, (users, longest)) + 0.2,
        rng.exponential(16.0, (users, longest)) + 0.3,
    )
    # The shop grows, so later first days are likelier.
    first = DAYS * np.sqrt(rng.random(users)) * 0.92
    times = first[:, None] + np.cumsum(np.where(fresh, days, minutes / 1440), axis=1)
    times[np.arange(longest) >= lengths[:, None]] = np.nan
    times[:, 1:][times[:, 1:] >= DAYS] = np.nan  # the log ends here; a first event stays
    times[:, 0] = np.minimum(times[:, 0], DAYS - 0.01)
    return times, fresh


def _tastes(catalogue: DemoCatalogue, users: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Weight of each item for each user, float64 [users, items]: popularity, favourite brands, a style."""
    share = 1.0 / np.arange(1, len(BRANDS) + 1) ** 0.5
    favourite = rng.choice(len(BRANDS), size=(users, 2), p=share / share.sum())
    style = rng.integers(len(STYLES), size=users)
    weights = np.tile(catalogue.weights, (users, 1))
    weights *= np.where(catalogue.brands == favourite[:, :1], _BRAND_ODDS, 1.0)
    weights *= np.where(catalogue.brands == favourite[:, 1:], _SECOND_BRAND_ODDS, 1.0)
    weights *= np.where(catalogue.styles == style[:, None], _STYLE_ODDS, 1.0)
    return weights


def _interests(catalogue: DemoCatalogue, users: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """How much each user likes each activity, float64 [users, activities]; a few make up most of it."""
    popular = 1.0 / np.arange(1, catalogue.num_activities + 1) ** 0.7
    return popular * rng.gamma(0.25, size=(users, catalogue.num_activities)) + 1e-4


def _seasons(days: NDArray[np.float64], activities: int) -> NDArray[np.float64]:
    """Demand for each activity at these days, float64 [users, activities], between a quarter and 1.75."""
    phase = np.arange(activities) / activities
    return 1 + 0.75 * np.cos(2 * np.pi * (days[:, None] / 365 - phase))


def _transitions(catalogue: DemoCatalogue) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight of each need after each need, [needs, needs], and as the first of its activity, [needs]."""
    count = catalogue.num_needs
    follows = np.full((count, count), 1e-6)
    place = np.arange(count) % NEEDS_EACH
    for step, share in _NEXT_NEEDS:
        after = np.arange(count) - place + (place + step) % NEEDS_EACH
        follows[np.arange(count), after] += share
    return follows, np.power(0.6, place)


def _normal(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows scaled to sum to 1."""
    return weights / weights.sum(axis=1, keepdims=True)


def _drawn(chance: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """One column for each row, drawn by the weights of the row; never one of weight 0."""
    upto = np.cumsum(chance, axis=1)
    mark = (1 - rng.random(len(chance))) * upto[:, -1]  # in (0, sum]
    return np.minimum(np.count_nonzero(upto < mark[:, None], axis=1), chance.shape[1] - 1)


def _csv(header: list[str], rows: Iterable[list[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()
