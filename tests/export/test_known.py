"""What a user is known to have had, against sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pocketrec.errors import DataError
from pocketrec_export.known import KnownItems

ITEMS = 6
HISTORIES = st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=8), min_size=1, max_size=6)


def known_of(histories: list[list[int]]) -> KnownItems:
    offsets = np.cumsum([0, *map(len, histories)])
    items = np.array([item for history in histories for item in history], np.int32)
    return KnownItems.from_histories(offsets, items, ITEMS)


@given(histories=HISTORIES)
def test_membership_at_any_time_and_by_an_event(histories: list[list[int]]) -> None:
    known = known_of(histories)
    events = [(user, n) for user, history in enumerate(histories) for n in range(len(history))]
    index = torch.arange(len(events))
    users = known.users_of(index)
    assert users.tolist() == [user for user, _ in events]
    asked = torch.arange(-1, ITEMS).expand(len(events), -1)
    contains, before = known.contains(users, asked), known.before(users, asked, index)
    for row, (user, n) in enumerate(events):
        assert contains[row].tolist() == [item in histories[user] for item in range(-1, ITEMS)]
        assert before[row].tolist() == [item in histories[user][: n + 1] for item in range(-1, ITEMS)]
    pairs = list(zip(*(tensor.tolist() for tensor in known.pairs_before(users, index)), strict=True))
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == {
        (row, item) for row, (user, n) in enumerate(events) for item in histories[user][: n + 1]
    }


def test_keys_of_large_catalogues_do_not_overflow() -> None:
    users, items = 3, 2**31 - 1
    known = KnownItems.from_histories(np.arange(users + 1), np.full(users, items - 1, np.int32), items)
    assert known.contains(torch.arange(users), torch.full((users, 1), items - 1)).all()
    assert not known.contains(torch.arange(users), torch.zeros(users, 1, dtype=torch.int64)).any()


def test_items_of_another_catalogue_are_refused() -> None:
    with pytest.raises(DataError, match="2 … 6 of a catalogue of 6"):
        KnownItems.from_histories([0, 2], [2, ITEMS], ITEMS)
