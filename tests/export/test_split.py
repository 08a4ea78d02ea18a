"""Leave-one-out: what is trained on, what is held out, and that the two never meet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_data import ROWS, Row, dataset_of

from pocketrec.errors import DataError
from pocketrec_export.split import Part, Split, leave_one_out

PARTS: tuple[Part, Part] = ("validation", "test")


def described(split: Split) -> dict[str, dict[str, list[str]]]:
    """Each user's training items, histories and targets by name, free of every numbering."""
    data = split.dataset

    def names(part: slice) -> list[str]:
        return [data.item_ids[item] for item in data.items[part]]

    found = {user: {"train": names(split.train_slice(u))} for u, user in enumerate(data.user_ids)}
    for part in PARTS:
        for u in split.users_for(part):
            target = split.target(int(u), part)
            found[data.user_ids[u]][part] = names(split.history(int(u), part)) + names(
                slice(target, target + 1)
            )
    return found


def test_by_hand(tmp_path: Path) -> None:
    rows = [("a", item, time) for time, item in enumerate("vwxy")] + [
        ("b", "v", 1),
        ("b", "y", 2),
        ("c", "y", 3),
    ]
    split = leave_one_out(dataset_of(tmp_path, rows))
    assert described(split) == {
        "a": {"train": ["v", "w"], "validation": ["v", "w", "x"], "test": ["v", "w", "x", "y"]},
        "b": {"train": ["v"], "test": ["v", "y"]},
        "c": {"train": ["y"]},
    }
    assert split.users_for("validation").tolist() == [0]
    assert split.users_for("test").tolist() == [0, 1]
    assert split.users_for("test").dtype == np.int32
    assert split.train_offsets().tolist() == [[0, 2], [4, 5], [6, 7]]
    assert split.targets("test").tolist() == [3, 5]
    assert split.target_items("test").tolist() == [3, 3]
    assert dict(zip(split.dataset.item_ids, split.train_counts.tolist(), strict=True)) == {
        "v": 2,
        "w": 1,
        "x": 0,
        "y": 1,
    }
    assert split.train_counts.dtype == np.int64
    offsets, items, event_ids, timestamps = split.train_csr()
    assert offsets.tolist() == [0, 2, 3, 4]
    assert items.tolist() == [0, 1, 0, 3]
    assert event_ids.tolist() == [0, 0, 0, 0]
    assert timestamps.tolist() == [0, 1, 1, 3]


def test_a_user_without_a_target_is_named(tmp_path: Path) -> None:
    split = leave_one_out(dataset_of(tmp_path, [("ann", "v", 1), ("bob", "v", 1), ("bob", "w", 2)]))
    with pytest.raises(DataError, match=r"'ann' has 1 events and no test target.*users_for"):
        split.target(0, "test")
    with pytest.raises(DataError, match="'bob' has 2 events and no validation target"):
        split.history(1, "validation")
    with pytest.raises(DataError, match=r"no split 'train'.*validation"):
        split.users_for("train")  # type: ignore[arg-type]


@given(rows=ROWS)
def test_targets_are_never_trained_on_and_come_last(
    rows: list[Row], tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = dataset_of(tmp_path_factory.mktemp("split"), rows)
    split = leave_one_out(data)
    held_out: set[int] = set()
    for part in PARTS:
        targets = split.targets(part)
        assert len(targets) == len(split.users_for(part))
        assert not held_out & set(targets.tolist())
        held_out |= set(targets.tolist())
        for user, target in zip(split.users_for(part).tolist(), targets.tolist(), strict=True):
            history = split.history(user, part)
            assert target == split.target(user, part) == history.stop
            assert history.start == data.user_slice(user).start
            assert history.stop > history.start
            assert split.train_slice(user).stop <= history.stop
            assert (data.timestamps[history] <= data.timestamps[target]).all()
    trained = {i for first, end in split.train_offsets().tolist() for i in range(first, end)}
    assert trained == set(np.flatnonzero(split.train_mask).tolist())
    assert trained | held_out == set(range(data.num_events))
    assert not trained & held_out
    assert split.train_counts.sum() == len(trained)
    assert split.train_csr()[0][-1] == len(trained)
    # The validation history is the training range; the test history is that and the validation target.
    for user in split.users_for("validation").tolist():
        assert split.history(user, "validation") == split.train_slice(user)
        assert split.history(user, "test").stop == split.target(user, "validation") + 1


@given(rows=ROWS, data=st.data())
def test_row_order_between_users_does_not_matter(
    rows: list[Row], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # A random riffle: users interleave in another way, each keeps its own order.
    turns = data.draw(st.permutations([user for user, _, _ in rows]))
    left = {user: iter([row for row in rows if row[0] == user]) for user in set(turns)}
    riffled = [next(left[user]) for user in turns]
    directory = tmp_path_factory.mktemp("riffle")
    one = leave_one_out(dataset_of(directory / "one", rows))
    two = leave_one_out(dataset_of(directory / "two", riffled))
    assert described(one) == described(two)
    counts = [dict(zip(s.dataset.item_ids, s.train_counts.tolist(), strict=True)) for s in (one, two)]
    assert counts[0] == counts[1]
