"""Items that are gone from the shelves, and items that changed their names."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostile_base import edit_manifest, edit_tensors
from pocketrec.bundle import Bundle
from pocketrec.errors import BundleError, DataError
from pocketrec.recommender import Recommender
from pocketrec.verify import verify
from pocketrec_export.writer import write_bundle
from tiny_bundle import ITEMS, item_id, tiny_content, write_tiny_bundle

IDS = [item_id(p) for p in range(ITEMS)]
HISTORY = [item_id(3), item_id(9), item_id(21)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with Recommender.open(write_tiny_bundle(tmp_path_factory.mktemp("plain") / "b")) as recommender:
        yield recommender


def test_retired_items_are_read_and_never_ranked(plain: Recommender, tmp_path: Path) -> None:
    gone = {item_id(3), *[r.item_id for r in plain.rank(HISTORY, 5)][::2]}
    path = write_tiny_bundle(tmp_path / "b", retired=sorted(gone))
    assert verify(path).ok
    with Recommender.open(path) as recommender:
        wanted = [r for r in plain.rank(HISTORY, ITEMS) if r.item_id not in gone]
        assert recommender.rank(HISTORY, ITEMS) == wanted  # the same scores: the row of item 3 was read
        assert recommender.rank(HISTORY, 7) == wanted[:7]
        assert recommender.rank(HISTORY).skipped == 0
        assert not gone & {r.item_id for r in recommender.rank([], ITEMS)}  # the fallback
        assert not gone & {r.item_id for r in recommender.similar_items(item_id(3), ITEMS)}
        assert recommender.similar_items(item_id(3), 3)
        some = [*gone, item_id(5)]
        assert [r.item_id for r in recommender.rank(HISTORY, candidates=some)] == [item_id(5)]


def test_a_former_name_stands_for_the_item(plain: Recommender, tmp_path: Path) -> None:
    path = write_tiny_bundle(tmp_path / "b", renamed={"once": item_id(3), "twice": item_id(3)})
    assert verify(path).ok
    with Recommender.open(path, history=tmp_path / "me.db") as recommender:
        for former in ("once", "twice"):
            history = [former if item == item_id(3) else item for item in HISTORY]
            assert recommender.rank(history, ITEMS) == plain.rank(HISTORY, ITEMS)
        recommender.record("once", "view", 5)
        assert recommender.recommend(ITEMS) == plain.rank([(item_id(3), "view", 5)], ITEMS)
        assert recommender.similar_items("once") == plain.similar_items(item_id(3))
        assert item_id(3) not in [r.item_id for r in recommender.rank(HISTORY[1:], ITEMS, exclude=["once"])]
        many = ["once", *IDS, "unknown"]  # enough for the search of many at once
        assert recommender.bundle.catalogue.positions(many).tolist() == [3, *range(ITEMS), -1]


@settings(max_examples=15)
@given(gone=st.sets(st.sampled_from(IDS), max_size=ITEMS - 1))
def test_retiring_is_leaving_out(plain: Recommender, tmp_path_factory: Any, gone: set[str]) -> None:
    path = write_tiny_bundle(tmp_path_factory.mktemp("r") / "b", retired=sorted(gone), golden=())
    with Recommender.open(path, engine="numpy") as recommender:
        assert recommender.rank(HISTORY, 9) == plain.rank(HISTORY, 9, exclude=gone)


@pytest.mark.parametrize(
    "change",
    [
        {"retired": ["nobody"]},
        {"renamed": {"once": "nobody"}},
        {"renamed": {item_id(1): item_id(2)}},
    ],
)
def test_the_writer_refuses_what_makes_no_sense(change: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError):
        write_bundle(tmp_path / "b", content=dataclasses.replace(tiny_content(), **change))


def test_the_reader_refuses_it_too(tmp_path: Path) -> None:
    def code_of(path: Path) -> str:
        with pytest.raises(BundleError) as caught:
            Bundle.open(path)
        return caught.value.code

    def flag(header: dict[str, Any], data: bytearray) -> None:
        data[header["retired.flags"]["data_offsets"][0]] = 2

    def former(header: dict[str, Any], data: bytearray) -> None:
        start, end = header["renamed.old.bytes"]["data_offsets"]
        data[start:end] = item_id(1).encode()[: end - start]

    def latter(header: dict[str, Any], data: bytearray) -> None:
        start, end = header["renamed.new.bytes"]["data_offsets"]
        data[start:end] = b"x" * (end - start)

    assert item_id(1).isascii()
    for number, change in enumerate((flag, former, latter)):
        path = write_tiny_bundle(tmp_path / str(number), retired=[item_id(1)], renamed={"zzz": item_id(1)})
        edit_tensors(path, "catalogue.safetensors", change)
        assert code_of(path) == "catalogue-invalid"
    path = write_tiny_bundle(tmp_path / "unsaid", retired=[item_id(1)])
    edit_manifest(path, lambda manifest: manifest.update(requires=[]))
    assert code_of(path) == "tensors-invalid"
    path = write_tiny_bundle(tmp_path / "said")
    edit_manifest(path, lambda manifest: manifest.update(requires=["retired"]))
    assert code_of(path) == "tensors-invalid"


def test_a_bundle_without_either_is_what_it_was(tmp_path: Path) -> None:
    path = write_tiny_bundle(tmp_path / "b")
    with Bundle.open(path) as bundle:
        assert bundle.manifest.requires == ()
        assert not len(bundle.catalogue.retired)
        np.testing.assert_array_equal(bundle.catalogue.with_retired(np.array([3, 5])), [3, 5])
