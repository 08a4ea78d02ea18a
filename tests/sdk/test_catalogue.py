"""Ids are found whatever bytes they are made of; a catalogue that breaks its own rules is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketrec import catalogue as module
from pocketrec.catalogue import Catalogue
from pocketrec.errors import BundleError
from tiny_bundle import tiny_content

# NUL and the highest characters matter: numpy pads with NUL, and UTF-8 orders like code points.
ids = st.text(st.sampled_from("\x00\x01aAé\u07ff\uffff\U0010ffff"), min_size=1, max_size=6)
catalogues = st.lists(ids, min_size=1, max_size=40, unique=True)


def tensors_of(item_ids: list[str], **display: list[str]) -> dict[str, Any]:
    n = len(item_ids)
    prior = np.arange(n, dtype=np.float32)
    return tiny_content(item_ids=item_ids, prior=prior, display=display).catalogue_tensors()


@given(
    item_ids=catalogues,
    others=st.lists(ids, max_size=30),
    fences=st.sampled_from([1, 2, 3, 1024]),
    few=st.sampled_from([0, 192]),
)
def test_positions_are_found(item_ids: list[str], others: list[str], fences: int, few: int) -> None:
    """One by one and in the vectorised search, with few fences and with one for each item."""
    catalogue = Catalogue(tensors_of(item_ids), len(item_ids), ())
    wanted = item_ids + others
    expected = [item_ids.index(item_id) if item_id in item_ids else -1 for item_id in wanted]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_FENCES", fences)
        patch.setattr(module, "_FEW", few)
        assert catalogue.positions(wanted).tolist() == expected
        assert catalogue.positions(wanted * 3).tolist() == expected * 3  # remembered
    one_by_one = [catalogue.position(item_id) for item_id in wanted]
    assert [-1 if found is None else found for found in one_by_one] == expected
    assert [catalogue.item_id(position) for position in range(len(item_ids))] == item_ids


def test_a_large_catalogue() -> None:
    item_ids = [f"{(i * 7919) % 100_003:x}" for i in range(20_000)]
    catalogue = Catalogue(tensors_of(item_ids), len(item_ids), ())
    assert catalogue.positions(item_ids).tolist() == list(range(20_000))
    assert catalogue.positions(["", "x" * 600, "é" * 300, *item_ids[:9]]).tolist() == [-1, -1, -1, *range(9)]


def test_text_columns() -> None:
    tensors = tensors_of(["b", "a", "c"], title=["", "zwei ☃", "\ud800 lone"], brand=["x", "y", ""])
    catalogue = Catalogue(tensors, 3, ("title", "brand"))
    assert [catalogue.text("title", i) for i in range(3)] == ["", "zwei ☃", "\ufffd lone"]
    assert [catalogue.text("brand", i) for i in range(3)] == ["x", "y", ""]


def damaged(name: str, position: int, value: float) -> dict[str, Any]:
    tensors = tensors_of(["b", "aé", "c"], title=["x", "é", "z"])
    array = np.array(tensors[name])
    array[position] = value
    return tensors | {name: array}


@pytest.mark.parametrize(
    ("tensors", "code"),
    [
        (damaged("item_id.order", 0, 0), "catalogue-invalid"),  # not sorted
        (damaged("item_id.order", 0, 2), "catalogue-invalid"),  # a position twice
        (damaged("item_id.order", 0, 3), "catalogue-invalid"),  # out of range
        (damaged("item_id.order", 0, -1), "catalogue-invalid"),
        (damaged("item_id.offsets", 1, 0), "catalogue-invalid"),  # an empty id
        (damaged("item_id.offsets", 0, 1), "catalogue-invalid"),  # does not start at 0
        (damaged("item_id.offsets", 3, 4), "catalogue-invalid"),  # does not end at the total
        (damaged("item_id.offsets", 1, 2**40), "catalogue-invalid"),  # falls again
        (damaged("title.bytes", 0, 0xFF), "catalogue-invalid"),  # no UTF-8
        (damaged("title.offsets", 2, 2), "catalogue-invalid"),  # cuts a character in two
        (damaged("prior", 1, np.nan), "values-invalid"),
        (damaged("prior", 1, -1), "values-invalid"),
    ],
)
def test_a_broken_catalogue_is_refused(tensors: dict[str, Any], code: str) -> None:
    with pytest.raises(BundleError) as caught:
        Catalogue(tensors, 3, ("title",))
    assert caught.value.code == code


def test_ids_that_are_there_twice_are_refused() -> None:
    tensors = tensors_of(["b", "a", "c"])
    tensors["item_id.bytes"] = np.frombuffer(b"bab", dtype=np.uint8)
    for order in ([1, 0, 2], [1, 2, 0]):
        with pytest.raises(BundleError, match="not unique"):
            Catalogue(tensors | {"item_id.order": np.array(order, dtype=np.int32)}, 3, ())


def test_missing_surplus_and_misshaped_tensors_are_refused() -> None:
    good = tensors_of(["b", "a", "c"])
    bad = [
        {name: good[name] for name in good if name != "seen"},
        good | {"extra": np.zeros(3, dtype=np.float32)},
        good | {"prior": good["prior"][:2]},
        good | {"prior": good["prior"].astype(np.float16)},
        good | {"item_id.offsets": good["item_id.offsets"].astype(np.int32)},
    ]
    for tensors in bad:
        with pytest.raises(BundleError) as caught:
            Catalogue(tensors, 3, ())
        assert caught.value.code == "tensors-invalid"


@pytest.mark.parametrize("room", [1, 3, 100])
def test_remembered_positions_are_those_of_the_table(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", room)
    item_ids = [f"item {i}" for i in range(50)]
    catalogue = Catalogue(tensors_of(item_ids), 50, ())
    rng = np.random.default_rng(0)
    for _ in range(60):
        asked = [f"item {i}" for i in rng.integers(0, 60, rng.integers(0, 15))]
        expected = [item_ids.index(item_id) if item_id in item_ids else -1 for item_id in asked]
        assert catalogue.positions(asked).tolist() == expected
        assert len(catalogue._known) <= room
