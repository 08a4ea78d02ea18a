"""The `scores` teacher: ready-made lists of a model we know nothing about, looked up by user and position."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from .batches import Histories
from .known import KnownItems
from .score_lists import ScoreLists
from .score_report import ScoresReport
from .teachers import Lists, Positions

# Places of lists worked on at a time.
PLACES = 2_000_000
# A target that its list lacks stands at least this far behind the last item, in log-probability: further than
# float16, in which a cache keeps lists, can move that item.
STEP, SHARE = 0.01, 2**-9


class ScoresTeacher:
    """Ready-made lists as a `Teacher`; `open_score_teacher` makes it.

    A position has the list made after as many events as it has seen, else the one about the user as such,
    else no opinion: target rank 0 and an empty list. Probabilities are over the items of a list that the user
    had not met by then. A target that a list lacks ranks behind it, and behind the k places that were asked
    for; its log-probability is a little below that of the last item.

    Attributes:
        name, key, items: see `Teacher`.
        report: what was used of the file.

    Args:
        scale: what the logits of `lists` are divided by; of ranks, their logarithms.
        by_rank: only the order counts: the item at place r has a probability in proportion to r^(−1/scale).
    """

    def __init__(
        self,
        name: str,
        key: str,
        items: int,
        lists: ScoreLists,
        scale: float,
        by_rank: bool,
        report: ScoresReport,
    ) -> None:
        self.name, self.key, self.items, self.report = name, key, items, report
        self._lists, self._scale, self._by_rank = lists, scale, by_rank
        self._known: tuple[Histories, KnownItems] | None = None

    def lists(self, positions: Positions, k: int) -> Lists:
        """See `Teacher.lists`."""
        histories = positions.histories
        if self._known is None or self._known[0] is not histories:
            known = KnownItems.from_histories(histories.offsets, histories.items, self.items)
            self._known = (histories, known)
        users, index, targets = positions.users, positions.index, positions.targets
        found = self._lists.find(users, index - histories.offsets[users] + 1)
        m = len(found)
        out = Lists(
            np.full((m, k), -1, np.int32),
            np.full((m, k), -np.inf, np.float32),
            np.zeros(m, np.int32),
            np.zeros(m, np.float32),
        )
        there = np.flatnonzero(found >= 0)
        longest = int(self._lists.lengths[found[there]].max(initial=1))
        for first in range(0, len(there), max(1, PLACES // longest)):
            rows = there[first : first + max(1, PLACES // longest)]
            self._fill(out, rows, found[rows], users[rows], index[rows], targets[rows], self._known[1])
        return out

    def _fill(
        self,
        out: Lists,
        rows: NDArray[np.int64],
        lists: NDArray[np.int64],
        users: NDArray[np.int64],
        index: NDArray[np.int64],
        targets: NDArray[np.int64],
        known: KnownItems,
    ) -> None:
        """Answer the positions `rows` of `out` from these lists."""
        k = out.ids.shape[1]
        start, lengths = self._lists.offsets[lists], self._lists.lengths[lists]
        column = np.arange(int(lengths.max()))
        there = column < lengths[:, None]
        place = np.where(there, start[:, None] + column, 0)
        ids = np.where(there, self._lists.item[place], -1).astype(np.int64)
        is_target = ids == targets[:, None]
        met = known.before(*(torch.from_numpy(a) for a in (users, ids, index))).numpy()
        keep = there & (is_target | ~met)
        order = np.argsort(~keep, axis=1, kind="stable")  # what is kept moves up, in its order
        keep, ids, is_target = (np.take_along_axis(a, order, 1) for a in (keep, ids, is_target))
        raw = np.take_along_axis(self._lists.logit[place], order, 1)
        log_probs = self._log_probs(raw, keep)
        length = keep.sum(1)
        any_left = length > 0
        listed = (is_target & keep).any(1)
        own = raw[np.arange(len(raw)), is_target.argmax(1)]
        rank = np.where(listed, (keep & (raw >= own[:, None])).sum(1), np.maximum(length, k) + 1)
        first, last = log_probs[:, 0], log_probs[np.arange(len(raw)), np.maximum(length, 1) - 1]
        step = np.maximum((first - last) / np.maximum(length - 1, 1), STEP + SHARE * np.abs(last))
        target = np.where(listed, log_probs[np.arange(len(raw)), is_target.argmax(1)], last - step)
        width = min(k, keep.shape[1])
        out.ids[rows, :width] = np.where(keep, ids, -1)[:, :width]
        out.log_probs[rows, :width] = np.where(keep, log_probs, -np.inf)[:, :width]
        out.target_rank[rows] = np.where(any_left, np.minimum(rank, self.items), 0)
        out.target_log_prob[rows] = np.where(any_left, target, 0.0)

    def _log_probs(self, raw: NDArray[np.float32], keep: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Log-probabilities [m, width] over what is kept, which stands in front; anything elsewhere."""
        if self._by_rank:
            logits = np.broadcast_to(-np.log(np.arange(1.0, raw.shape[1] + 1)) / self._scale, raw.shape)
        else:
            logits = raw / np.float64(self._scale)
        logits = logits - logits[:, :1]
        total = np.where(keep, np.exp(np.minimum(logits, 0.0)), 0.0).sum(1, keepdims=True)
        return logits - np.log(np.maximum(total, 1.0))
