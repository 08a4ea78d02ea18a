"""A table of changes makes the next catalogue: rows from texts, the rest as it was, and a delta that fits."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pocketrec
from pocketrec.bundle import Bundle
from pocketrec.cli import main
from pocketrec.errors import DataError
from pocketrec.quantise import dequantise_rows_int8, quantise_rows_int8
from pocketrec.signing import generate_key
from pocketrec.text import TextRows
from pocketrec_export.catalogue_changes import is_changes, write_next
from pocketrec_export.delta import make_delta
from tiny_bundle import ITEMS, item_id, write_tiny_bundle

FIELDS = ("action", "item_id", "title", "categories", "new_id", "prior")
UNSEEN = 49  # the last of the tiny bundle's items, whose prior may be 0


def table(path: Path, *rows: dict[str, str]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module", params=["int8", "fp32", "int4"])
def old(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    seen = np.arange(ITEMS)[::-1]
    return write_tiny_bundle(
        tmp_path_factory.mktemp("old") / "bundle",
        request.param,
        prior=seen,
        renamed={"once": item_id(8)},
        retired=[item_id(9)],
    )


def test_the_next_catalogue(old: Path, tmp_path: Path) -> None:
    changes = table(
        tmp_path / "changes.csv",
        {"action": "add", "item_id": "new-1", "title": "w1 w2", "categories": "w3 w3", "prior": "7.5"},
        {"action": "add", "item_id": "new-2", "title": "w9"},
        {"action": "retire", "item_id": item_id(2)},
        {"action": "return", "item_id": item_id(9)},
        {"action": "change", "item_id": item_id(UNSEEN), "title": "w4, w5"},
        {"action": "change", "item_id": item_id(3), "title": "w6", "prior": "1"},
        {"action": "rename", "item_id": item_id(8), "new_id": "now"},
    )
    new = tmp_path / "new"
    counts = write_next(old, changes, new)
    assert counts == {"add": 2, "change": 2, "retire": 1, "return": 1, "rename": 1}
    delta = make_delta(old, new, tmp_path / "delta")
    pocketrec.install(old, tmp_path / "i")
    pocketrec.open_installed(tmp_path / "i").close()
    live = pocketrec.install(delta, tmp_path / "i").path
    with Bundle.open(old) as before, Bundle.open(live) as after:
        for name in before.sizes.keys() - {
            "manifest.json", "items.safetensors", "catalogue.safetensors", "golden.json"
        }:  # fmt: skip
            assert after.file_bytes(name) == before.file_bytes(name)
        assert after.manifest.catalogue_version == 2
        assert after.manifest.requires == ("retired", "renamed")
        assert after.manifest.embedding_space == before.manifest.embedding_space
        texts, rows = TextRows(before), after.tables["items"]
        step = 0.2 if rows.scheme == "int4" else 0.02 if rows.scheme == "int8" else 1e-6

        def check(position: int, wanted: Any) -> None:
            off = np.abs(rows.rows(np.array([position]))[0] - wanted).max()
            assert off <= step * np.abs(wanted).max()

        check(ITEMS, texts.row("w1 w2. w3 w3"))
        check(ITEMS + 1, texts.row("w9"))
        check(UNSEEN, texts.row(f"w4, w5. cat {UNSEEN % 5}"))
        taught = before.tables["items"].rows(np.array([3]))[0] - texts.row("Title 3 ünïcode. cat 3")
        check(3, texts.row("w6. cat 3") + taught)
        same = [p for p in range(ITEMS) if p not in (3, UNSEEN)]
        assert (rows.rows(np.array(same)) == before.tables["items"].rows(np.array(same))).all()
        catalogue = after.catalogue
        assert catalogue.prior[[3, ITEMS, ITEMS + 1]].tolist() == [1.0, 7.5, 0.0]
        assert catalogue.retired.tolist() == [2]
        for name in ("once", item_id(8), "now"):
            assert catalogue.position(name) == 8
    with pocketrec.open_installed(tmp_path / "i") as recommender:
        recommender.record("new-1")
        assert not recommender.recommend(5).fallback
        listed = [r.item_id for r in recommender.rank([item_id(8), "once"], 100)]
        assert len(listed) == ITEMS + 2 - 2  # the retired one, and the renamed one, which is in the history
        assert item_id(2) not in listed


@settings(max_examples=10)
@given(data=st.data())
def test_any_changes(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, old: Path) -> None:
    """What the table says is what the new bundle holds, and the delta leads to it."""
    root = tmp_path_factory.mktemp("any")
    with Bundle.open(old) as bundle:
        ids = [bundle.catalogue.item_id(p) for p in range(ITEMS)]
        titles = {item: bundle.catalogue.text("title", p) for p, item in enumerate(ids)}
        retired = {ids[p] for p in bundle.catalogue.retired.tolist()}
    names = iter(f"n{number}" for number in range(100))
    words = st.lists(st.sampled_from(["w1", "w2", "w15", "other"]), min_size=1, max_size=4).map(" ".join)
    rows = []
    for item in data.draw(st.lists(st.sampled_from(ids), unique=True, max_size=6)):
        action = data.draw(
            st.sampled_from(["change", "retire" if item not in retired else "return", "rename"])
        )
        row = {"action": action, "item_id": item}
        if action in ("retire", "return"):
            retired ^= {item}
        if action == "rename":
            row["new_id"] = next(names)
        if action == "change" or data.draw(st.booleans()):
            row["title"] = titles[item] = data.draw(words)
        if action == "rename":
            titles[row["new_id"]] = titles.pop(item)
            retired = {row["new_id"] if one == item else one for one in retired}
        rows.append(row)
    for _ in range(data.draw(st.integers(1, 3))):
        rows.append({"action": "add", "item_id": next(names), "title": data.draw(words)})
        titles[rows[-1]["item_id"]] = rows[-1]["title"]
    data.draw(st.randoms()).shuffle(rows)
    write_next(old, table(root / "changes.csv", *rows), root / "new")
    delta = make_delta(old, root / "new", root / "delta")
    pocketrec.install(old, root / "i", engine="numpy")
    live = pocketrec.install(delta, root / "i", engine="numpy").path
    with Bundle.open(live) as bundle:
        catalogue = bundle.catalogue
        found = [catalogue.item_id(p) for p in range(catalogue.n)]
        assert {item: catalogue.text("title", p) for p, item in enumerate(found)} == titles
        assert {found[p] for p in catalogue.retired.tolist()} == retired
        for row in rows:
            assert catalogue.position(row["item_id"]) is not None  # renamed ones too
    shutil.rmtree(root)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"action": "sell", "item_id": item_id(1)}, "no action 'sell'"),
        ({"action": "change", "item_id": "nobody"}, "Add it first"),
        ({"action": "change", "item_id": "once"}, f"It is {item_id(8)!r} now"),
        ({"action": "add", "item_id": item_id(1), "title": "w1"}, "in the catalogue"),
        ({"action": "add", "item_id": item_id(9), "title": "w1"}, "`return` it"),
        ({"action": "add", "item_id": "once", "title": "w1"}, "in the catalogue, or was"),
        ({"action": "add", "item_id": "new"}, "no text"),
        ({"action": "add", "item_id": "", "title": "w1"}, "empty"),
        ({"action": "retire", "item_id": item_id(9)}, "is so already"),
        ({"action": "return", "item_id": item_id(1)}, "is so already"),
        ({"action": "rename", "item_id": item_id(1)}, "A rename has one"),
        ({"action": "change", "item_id": item_id(1), "new_id": "x"}, "nothing else has"),
        ({"action": "rename", "item_id": item_id(1), "new_id": item_id(2)}, "Take another id"),
        ({"action": "rename", "item_id": item_id(1), "new_id": "once"}, "Take another id"),
        ({"action": "change", "item_id": item_id(1), "prior": "-1"}, "no number from 0 on"),
        ({"action": "change", "item_id": item_id(1), "prior": "many"}, "no number from 0 on"),
        ({"action": "change", "item_id": item_id(1), "prior": "nan"}, "no number from 0 on"),
    ],
)
def test_a_row_that_cannot_be_is_refused(row: dict[str, str], words: str, old: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        write_next(old, table(tmp_path / "c.csv", row), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_rows_twice_and_unknown_columns_are_refused(old: Path, tmp_path: Path) -> None:
    twice = table(tmp_path / "c.csv", *[{"action": "change", "item_id": item_id(1), "title": "w1"}] * 2)
    with pytest.raises(DataError, match=r"row 2 .line 3.: .* has a row above"):
        write_next(old, twice, tmp_path / "new")
    (tmp_path / "d.csv").write_text("action,item_id,price\nchange,x,5\n")
    with pytest.raises(DataError, match="no column 'price'"):
        write_next(old, tmp_path / "d.csv", tmp_path / "new")
    with pytest.raises(DataError, match="no column 'price'"):
        write_next(old, twice, tmp_path / "new", text_columns=["price"])


def test_a_name_may_come_back(old: Path, tmp_path: Path) -> None:
    row = {"action": "rename", "item_id": item_id(8), "new_id": "once"}
    write_next(old, table(tmp_path / "c.csv", row), tmp_path / "new")
    with Bundle.open(tmp_path / "new") as bundle:
        assert bundle.catalogue.item_id(8) == "once"
        assert bundle.catalogue.position(item_id(8)) == 8


def test_text_columns_can_be_chosen(old: Path, tmp_path: Path) -> None:
    row = {"action": "add", "item_id": "new", "title": "w1", "categories": "w2"}
    write_next(old, table(tmp_path / "c.csv", row), tmp_path / "new", text_columns=["categories"])
    with Bundle.open(tmp_path / "new") as bundle:
        row_there = bundle.tables["items"].rows(np.array([ITEMS]))[0]
        wanted = TextRows(bundle).row("w2")
        if bundle.tables["items"].scheme == "int8":
            wanted = dequantise_rows_int8(*quantise_rows_int8(wanted[None]))[0]
        assert (
            np.abs(row_there - wanted).max() <= (0.1 if bundle.tables["items"].scheme == "int4" else 1e-6) * 4
        )


def test_the_command(old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = generate_key()
    (tmp_path / "key.pem").write_bytes(keys.private_pem)
    changes = table(tmp_path / "c.csv", {"action": "retire", "item_id": item_id(1)})
    command = ["delta", "make", str(old), str(changes), str(tmp_path / "delta")]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 2
    capsys.readouterr()
    command += ["--bundle", str(tmp_path / "new"), "--sign-key", str(tmp_path / "key.pem"), "--json"]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert not ended.value.code
    answer = json.loads(capsys.readouterr().out)
    assert answer["changes"]["retire"] == 1
    assert answer["bytes"] == (tmp_path / "delta").stat().st_size
    Bundle.open(tmp_path / "new", [keys.raw_public]).close()


def test_a_table_is_told_by_its_name() -> None:
    assert is_changes("a/changes.csv")
    assert is_changes("CHANGES.CSV.gz")
    assert not is_changes("bundle")
