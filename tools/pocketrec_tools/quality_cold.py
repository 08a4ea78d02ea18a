"""Items that nobody has seen: how well their texts alone rank them.

A tenth of the items that have a text and events is held out with all their events; they stay in the
catalogue. A bundle is built from what is left by the usual `build`, so these items have no training events,
and no model has ever met them. Then each user who had one of them is asked about the last such event: given
the events with other items before it, where does that item rank among the held-out ones?

It is compared with
* random order, by its expectation;
* the similarity of texts without training, `quality_neighbours`;
* the true popularity of the held-out items, counted in the events that were taken away, without the one that
  is asked about: what nobody could know. Their popularity in training is nil, which is random order.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pocketrec import Recommender
from pocketrec.errors import DataError
from pocketrec_export.data import Dataset
from pocketrec_export.data_files import find_table, read_table
from pocketrec_export.metrics import Metrics, ndcg_gains, paired_bootstrap, pessimistic_rank
from pocketrec_tools.quality_neighbours import neighbour_scores, text_vectors
from pocketrec_tools.quality_records import QualityData, Record, Store, stamp
from pocketrec_tools.quality_runs import OURS, Recipe, build_arm, find_arm, training_minutes

SHARE = 0.1
ARM = "cold"
K = 10


@dataclass(frozen=True, eq=False)
class ColdItems:
    """Held-out items and who is asked about them; make it with `hold_out`.

    Attributes:
        items: int64 [n], ascending rows of the dataset.
        events: events taken away.
        users: int64 [m], rows of the dataset: who had one of the items, after an event with another item.
        targets: int64 [m], events of the dataset: the last one of each with a held-out item.
        left_out: users who had a held-out item but nothing else before it.
    """

    dataset: Dataset
    items: NDArray[np.int64]
    events: int
    users: NDArray[np.int64]
    targets: NDArray[np.int64]
    left_out: int

    def _before(self, row: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        before = np.arange(self.dataset.offsets[self.users[row]], self.targets[row])
        return before, np.isin(self.dataset.items[before], self.items)

    def history(self, row: int) -> NDArray[np.int64]:
        """Events before the target with items that were not held out, oldest first."""
        before, cold = self._before(row)
        return before[~cold]

    def seen(self, row: int) -> NDArray[np.int64]:
        """Places among `items` of those that the user had before the target; they are filtered."""
        before, cold = self._before(row)
        return np.searchsorted(self.items, self.dataset.items[before[cold]])

    @property
    def wanted(self) -> NDArray[np.int64]:
        """int64 [m]: the place of each target among `items`."""
        return np.searchsorted(self.items, self.dataset.items[self.targets])


def hold_out(dataset: Dataset, seed: int) -> ColdItems:
    """Draw a tenth of the items that have a text and events, by the seed.

    Raises:
        DataError: `cold-impossible` when there are fewer than ten such items, or nobody to ask.
    """
    counts = np.bincount(dataset.items, minlength=dataset.num_items)
    texts = np.array([bool(text.strip()) for text in dataset.texts])
    eligible = np.flatnonzero(texts & (counts > 0))
    size = int(SHARE * len(eligible))
    drawn = np.sort(np.random.default_rng(seed).choice(eligible, size, replace=False))
    cold = np.isin(dataset.items, drawn)
    users, targets, left_out = [], [], 0
    for user in range(dataset.num_users):
        where = dataset.user_slice(user)
        removed = np.flatnonzero(cold[where])
        if len(removed) == 0:
            continue
        if cold[where][: removed[-1]].all():
            left_out += 1
        else:
            users.append(user)
            targets.append(where.start + removed[-1])
    if size == 0 or not users:
        raise DataError(
            f"{len(eligible)} items have a text and events: too few to hold some out.",
            code="cold-impossible",
            remedy="Cold items need an items file with texts; leave them out with --cold-seeds ''.",
        )
    return ColdItems(dataset, drawn, int(cold.sum()), np.array(users), np.array(targets), left_out)


def write_without(data: Path, held_out: list[str], out: Path) -> None:
    """Copy a data directory without the events of these items; the catalogue stays whole."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    source = find_table(data, "interactions")
    items = find_table(data, "items")
    if source is None or items is None:
        raise DataError(
            f"{data} has no interactions or no items file.",
            code="data-missing-file",
            remedy="See docs/data.md.",
        )
    table = read_table(source, ("user_id", "item_id", "timestamp"))
    gone = table.frame["item_id"].cast(pl.String).is_in(pl.Series(held_out).implode())
    kept = table.frame.filter(~gone)
    if source.suffix == ".parquet":
        kept.write_parquet(out / "interactions.parquet")
    else:
        kept.write_csv(out / "interactions.csv")
    shutil.copyfile(items, out / items.name)


def run_cold(data: QualityData, seed: int, recipe: Recipe, store: Store) -> Record:
    """Hold out, build, measure, note down. The figures of `test` are among the held-out items.

    Raises:
        DataError: `cold-impossible`, see `hold_out`.
        PocketrecError: see `build`.
    """
    began = time.monotonic()
    cold = hold_out(data.dataset, seed)
    work = store.work / data.name / f"{ARM}-{seed}"
    held_out = [data.dataset.item_ids[item] for item in cold.items]
    write_without(data.path, held_out, work / "data")
    built = build_arm(work / "data", find_arm(OURS), seed, recipe, work, ARM)
    scores = {
        "model": runtime_scores(built.bundle, cold),
        "text": text_scores(cold),
        "popularity": popularity_scores(cold),
    }
    seen = [cold.seen(row) for row in range(len(cold.users))]
    ranks = {name: pessimistic_rank(found, cold.wanted, seen) for name, found in scores.items()}
    record = Record(
        kind="cold",
        data=data.figures,
        arm=ARM,
        seed=seed,
        settings=recipe.settings(find_arm(OURS)),
        **stamp(),
        minutes=(time.monotonic() - began) / 60,
        training=training_minutes(built.figures),
        test=Metrics.from_ranks(ranks["model"]).to_dict(),
        details={
            "items": len(cold.items),
            "events": cold.events,
            "left_out": cold.left_out,
            **compared(ranks, random_gains(cold, seen)),
        },
    )
    return store.save(record)


def compared(ranks: dict[str, NDArray[np.int64]], random: dict[str, NDArray[np.float64]]) -> dict[str, Any]:
    """HR@10 and NDCG@10 of all that is compared with, and the paired gain of the model over each."""
    gains = {
        name: {"hr@10": (found <= K).astype(float), "ndcg@10": ndcg_gains(found, K)}
        for name, found in ranks.items()
    }
    gains["random"] = random
    model = gains.pop("model")
    answer: dict[str, Any] = {}
    for name, theirs in gains.items():
        paired = paired_bootstrap(model["ndcg@10"], theirs["ndcg@10"], samples=5000)
        answer[name] = {
            **{metric: float(values.mean()) for metric, values in theirs.items()},
            "gain": [paired.mean, paired.low, paired.high],
        }
    return answer


def runtime_scores(bundle: Path, cold: ColdItems) -> NDArray[np.float32]:
    """float32 [users, held-out items] by the bundle, run by the runtime."""
    data = cold.dataset
    out = np.empty((len(cold.users), len(cold.items)), np.float32)
    with Recommender.open(bundle) as recommender:
        columns = recommender.bundle.catalogue.positions([data.item_ids[item] for item in cold.items])
        for row in range(len(out)):
            history = [
                (data.item_ids[data.items[e]], data.events[data.event_ids[e]], int(data.timestamps[e]))
                for e in cold.history(row)
            ]
            out[row] = np.asarray(recommender.scores(history))[columns]
    return out


def text_scores(cold: ColdItems) -> NDArray[np.float32]:
    """float32 [users, held-out items]: similarity of texts, recency-weighted, without training."""
    data, vectors = cold.dataset, text_vectors(cold.dataset.texts)
    histories = [data.items[cold.history(row)] for row in range(len(cold.users))]
    return neighbour_scores(histories, vectors, vectors[cold.items].T.tocsr())


def popularity_scores(cold: ColdItems) -> NDArray[np.float32]:
    """float32 [users, held-out items]: events that were taken away, without the one asked about."""
    counts = np.bincount(cold.dataset.items, minlength=cold.dataset.num_items)[cold.items]
    scores = np.tile(counts.astype(np.float32), (len(cold.users), 1))
    scores[np.arange(len(scores)), cold.wanted] -= 1
    return scores


def random_gains(cold: ColdItems, seen: list[NDArray[np.int64]]) -> dict[str, NDArray[np.float64]]:
    """What each user's target adds to HR@10 and NDCG@10 in a random order, on average."""
    best = ndcg_gains(np.arange(1, K + 1), K)
    hr, ndcg = np.zeros(len(seen)), np.zeros(len(seen))
    for row, (had, target) in enumerate(zip(seen, cold.wanted, strict=True)):
        left = len(cold.items) - len(np.unique(had))
        if target not in had:  # else filtered, and a miss for everybody
            hr[row], ndcg[row] = min(K, left) / left, best[:left].sum() / left
    return {"hr@10": hr, "ndcg@10": ndcg}
