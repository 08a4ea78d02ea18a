"""Section 4 of docs/bundle.md, vectorised, against the same section written as a loop."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pocketrec.events import Event
from pocketrec.recommender import Recommender
from tiny_bundle import DIM, EVENTS, GAP_SECONDS, ITEMS, LENGTH, item_id

times = st.one_of(
    st.none(),
    st.integers(0, 200_000),
    st.sampled_from([-(2**53) + 1, 2**53 - 1, 0, 59, 60, 61, 3600]),
)
events = st.builds(
    Event,
    st.one_of(st.integers(0, ITEMS - 1).map(item_id), st.sampled_from(["unknown", "i999"])),
    st.sampled_from([*EVENTS, "no such type"]),
    times,
)


def by_the_book(recommender: Recommender, history: list[Event]) -> tuple[np.ndarray, np.ndarray, int]:
    bundle = recommender.bundle
    inputs = bundle.tensors("inputs.safetensors")
    known = [event for event in history if bundle.catalogue.position(event.item_id) is not None]
    x = []
    for index, event in enumerate(known):
        e = EVENTS.index(event.event) if event.event in EVENTS else 0
        before = known[index - 1] if index else None
        if before is None or before.timestamp is None or event.timestamp is None:
            b = 0
        else:
            delta = max(0, event.timestamp - before.timestamp)
            b = 1 + sum(threshold <= delta for threshold in GAP_SECONDS)
        position = bundle.catalogue.position(event.item_id)
        row = bundle.tables["items"].rows(np.array([position]))[0]
        x.append((row + inputs["events"][e]) + inputs["gaps"][b])
    used = x[-LENGTH:]
    rows = np.zeros((1, LENGTH, DIM), dtype=np.float32)
    mask = np.zeros((1, LENGTH), dtype=np.float32)
    for slot, row in enumerate(used, start=LENGTH - len(used)):
        rows[0, slot] = row
        mask[0, slot] = 1
    return rows, mask, len(history) - len(known)


@given(history=st.lists(events, max_size=3 * LENGTH))
def test_rows_and_mask_are_those_of_the_book(recommender: Recommender, history: list[Event]) -> None:
    rows, mask, skipped = by_the_book(recommender, history)
    known = recommender.bundle.inputs.known(history, recommender.bundle.catalogue)
    got_rows, got_mask = recommender.bundle.inputs.fuse(known)
    assert known.skipped == skipped
    assert got_rows.dtype == np.float32
    assert got_mask.dtype == np.float32
    assert (got_rows == rows).all()
    assert (got_mask == mask).all()


def test_the_predecessor_counts_also_when_it_was_cut_off(recommender: Recommender) -> None:
    history = [Event(item_id(p), "", 1000 + 70 * p) for p in range(LENGTH + 1)]
    known = recommender.bundle.inputs.known(history, recommender.bundle.catalogue)
    with_predecessor, _ = recommender.bundle.inputs.fuse(known)
    alone = recommender.bundle.inputs.known(history[1:], recommender.bundle.catalogue)
    without, _ = recommender.bundle.inputs.fuse(alone)
    assert (with_predecessor[0, 0] != without[0, 0]).any()
    assert (with_predecessor[0, 1:] == without[0, 1:]).all()
