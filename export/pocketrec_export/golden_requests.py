"""The requests whose answers become a bundle's golden vectors.

Drawn from the catalogue, never from anybody's history: a bundle is handed out, and histories stay where they
were made.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pocketrec.golden import Request

UNKNOWN_ITEM = "pocketrec:no-such-item"
START = 1_700_000_000


def golden_requests(
    item_ids: Sequence[str], prior: np.ndarray, events: Sequence[str], length: int, seed: int = 0
) -> list[Request]:
    """Requests that reach every rule of docs/bundle.md §4 and §7.

    Histories of length 0, 1, 2, up to, at and beyond `length`; with and without times, event types, unknown
    items, repeats and near-ties; with filters, exclusions and candidates.
    """
    rng = np.random.default_rng(seed)
    weights = np.asarray(prior, np.float64) + 1.0
    weights /= weights.sum()
    ids = list(item_ids)

    def history(
        size: int, *, timed: bool = True, typed: bool = True
    ) -> tuple[tuple[str, str, int | None], ...]:
        gaps = np.exp(rng.uniform(0, np.log(3e7), size)).astype(np.int64)
        times = START + np.cumsum(gaps)
        items = rng.choice(len(ids), size, p=weights)
        types = rng.integers(0, len(events), size)
        return tuple(
            (ids[i], events[t] if typed else "", int(when) if timed else None)
            for i, t, when in zip(items, types, times, strict=True)
        )

    sizes = [0, 1, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, length - 1, length, length + 1, 2 * length + 3]
    requests = [Request(history=history(max(0, size))) for size in sizes]
    requests += [Request(history=history(size, timed=False, typed=False)) for size in (1, 3, 7, length)]
    some = history(6)
    stranger = ((UNKNOWN_ITEM, "", START),)
    requests += [
        Request(history=stranger),
        Request(history=(*stranger, *some, *stranger)),
        Request(history=(*some, *some)),
        Request(history=((some[0][0], "pocketrec:no-such-event", START),)),
        Request(history=some, filter_seen=False),
        Request(history=some, k=1),
        Request(history=some, k=min(100, len(ids))),
        # Near-ties: neighbours in a list this long are closer than the tolerance, and may change places.
        Request(history=some, k=min(1000, len(ids))),
        Request(history=some, exclude=tuple(ids[: min(20, len(ids))])),
        Request(history=some, candidates=tuple(ids[:: max(1, len(ids) // 15)])),
        Request(history=tuple(reversed(history(5)))),  # a clock that runs backwards
    ]
    return requests
