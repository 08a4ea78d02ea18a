"""`evaluate` against the same figures computed one user at a time through `Recommender.rank`."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_data import held_out_by_hand, tiny_rows, write_rows

import pocketrec_tools.evaluate as module
from pocketrec import Recommender
from pocketrec.cli import main
from pocketrec.errors import BundleError, DataError, PocketrecError
from pocketrec_export.data import load_dataset
from pocketrec_export.metrics import popularity_metrics
from pocketrec_export.split import Part, leave_one_out
from pocketrec_tools.evaluate import evaluate
from support import ROOT
from tiny_bundle import ITEMS, item_id, write_tiny_bundle

ROWS = tiny_rows()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "b")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data"), ROWS)


def ranks_by_hand(bundle: Path, split: str) -> dict[str, int]:
    """Rank of each user's target in the full list that the runtime returns, ties against it."""
    ranks = {}
    with Recommender.open(bundle, engine="numpy") as recommender:
        for user, (history, target) in held_out_by_hand(ROWS, split).items():
            scores = {r.item_id: r.score for r in recommender.rank(history, k=ITEMS)}
            if target not in scores:
                ranks[user] = ITEMS + 1
            else:
                ranks[user] = sum(score >= scores[target] for score in scores.values())
    return ranks


@pytest.mark.parametrize("split", ["test", "validation"])
def test_equals_the_lists_of_rank_for_every_user(
    bundle: Path, data: Path, split: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = ranks_by_hand(bundle, split)
    monkeypatch.setattr(module, "CHUNK_BYTES", 4 * ITEMS * 7)  # several chunks, the last one not full
    report = evaluate(bundle, data, split=split, engine="numpy", progress=False)
    assert report.ranks.tolist() == list(wanted.values())
    assert report.users == report.users_available == len(wanted) > 30
    hits = [rank for rank in wanted.values() if rank <= 10]
    assert 0 < len(hits) < len(wanted)
    assert report.metrics.hr == pytest.approx(len(hits) / len(wanted))
    assert report.metrics.ndcg == pytest.approx(sum(1 / math.log2(1 + rank) for rank in hits) / len(wanted))
    assert report.metrics.mrr == pytest.approx(sum(1 / rank for rank in hits) / len(wanted))


def test_popularity_is_that_of_the_training_events(bundle: Path, data: Path) -> None:
    dataset = load_dataset(data)
    split = leave_one_out(dataset)
    report = evaluate(bundle, data, engine="numpy", progress=False)
    assert report.popularity == popularity_metrics(dataset, split, "test")


def test_odd_cases_are_counted(bundle: Path, data: Path) -> None:
    report = evaluate(bundle, data, engine="numpy", progress=False)
    lists = held_out_by_hand(ROWS, "test")
    known = {item_id(position) for position in range(ITEMS)}
    assert report.unknown_targets == 1
    assert report.repeated_targets == sum(
        target in [item for item, _, _ in history] for history, target in lists.values()
    )
    assert report.skipped_events == 1
    assert report.fallback_users == 1
    used = {row[1] for row in ROWS}
    assert report.unknown_items == len(used - known) == 1
    assert report.items_without_data == len(known - used)
    assert Counter(report.ranks.tolist())[ITEMS + 1] == report.unknown_targets + report.repeated_targets


def test_a_sample_of_users_is_a_part_of_all(bundle: Path, data: Path) -> None:
    everybody = evaluate(bundle, data, engine="numpy", progress=False)
    some = evaluate(bundle, data, engine="numpy", users=11, seed=3, progress=False)
    again = evaluate(bundle, data, engine="numpy", users=11, seed=3, progress=False)
    other = evaluate(bundle, data, engine="numpy", users=11, seed=4, progress=False)
    assert (some.users, some.users_available) == (11, everybody.users)
    assert some.ranks.tolist() == again.ranks.tolist()
    assert some.ranks.tolist() != other.ranks.tolist()
    assert not Counter(some.ranks.tolist()) - Counter(everybody.ranks.tolist())
    assert some.popularity.users == 11
    capped = evaluate(bundle, data, engine="numpy", users=10_000, progress=False)
    assert np.array_equal(capped.ranks, everybody.ranks)


def test_an_engine_agrees_with_itself(bundle: Path, data: Path) -> None:
    report = evaluate(bundle, data, engine="numpy", against="numpy", progress=False)
    assert report.overlap is not None
    assert report.overlap.users == report.users
    assert (report.overlap.mean, report.overlap.same_items, report.overlap.same_lists) == (1.0, 1.0, 1.0)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of the command line."""
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    captured = capsys.readouterr()
    return int(left.value.code or 0), captured.out, captured.err


def test_json_contract(bundle: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("evaluate", str(bundle), str(data), "--engine", "numpy", "--users", "20", "--json")
    status, out, _ = run(capsys, *arguments, "--against", "numpy")
    found: dict[str, Any] = json.loads(out)
    assert status == 0
    assert found["users"] == 20
    assert found["items"] == ITEMS
    assert found["engine"] == "numpy"
    assert found["precision"] == "int8"
    assert found["bundle_bytes"] == sum(file.stat().st_size for file in bundle.iterdir())
    assert set(found["popularity"]) == {"hr@10", "ndcg@10", "mrr@10"}
    for key in ("hr@10", "ndcg@10", "mrr@10"):
        assert 0 <= found[key] <= 1
        assert 0 <= found["popularity"][key] <= 1
    for phrase in ("leave-one-out", f"{ITEMS} items", "20 users drawn by seed 0", "ties", "numpy"):
        assert phrase in found["protocol"]
    assert (found["split"], found["seed"]) == ("test", 0)
    assert found["ms_per_list"] > 0
    assert found["overlap@10"] == 1.0
    status, out, _ = run(capsys, *arguments)
    assert status == 0
    assert "overlap@10" not in json.loads(out)


def test_the_page_describes_every_key(bundle: Path, data: Path) -> None:
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    report = evaluate(bundle, data, engine="numpy", users=5, against="numpy", progress=False)
    missing = [key for key in report.to_dict() if f"`{key}`" not in page]
    assert not missing


def test_text_names_figures_and_what_was_odd(
    bundle: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capsys, "evaluate", str(bundle), str(data), "--engine", "numpy")
    report = evaluate(bundle, data, engine="numpy", progress=False)
    assert status == 0
    assert f"{report.metrics.ndcg:.4f}" in out
    assert f"{report.popularity.ndcg:.4f}" in out
    assert "1 targets are not in the catalogue" in out
    assert "users" in err  # what was read


def test_refuses_data_of_another_catalogue(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(f"u{n}", f"other{n % 9}", n, "") for n in range(60)]
    rows += [("u1", item_id(3), 99, ""), ("u1", item_id(4), 100, "")]
    data = write_rows(tmp_path / "other", rows)
    with pytest.raises(DataError) as refused:
        evaluate(bundle, data, engine="numpy", progress=False)
    assert refused.value.code == "catalogue-mismatch"
    for phrase in ("9 of the 11 items", "'other0'", repr(item_id(0)), "built from"):
        assert phrase in str(refused.value)
    status, out, err = run(capsys, "evaluate", str(bundle), str(data), "--json")
    assert status == 2
    assert json.loads(out)["error"]["code"] == "catalogue-mismatch"
    assert err.startswith("error: ")


def test_refuses_data_without_targets(bundle: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "d", [("a", item_id(1), 1, ""), ("a", item_id(2), 2, "")])
    assert evaluate(bundle, data, engine="numpy", progress=False).users == 1
    with pytest.raises(DataError, match=r"no user has a validation target.*3 events") as refused:
        evaluate(bundle, data, split="validation", engine="numpy", progress=False)
    assert refused.value.code == "data-no-target"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["BUNDLE", "nowhere"], "nowhere"),
        (["nowhere", "DATA"], "nowhere"),
        (["BUNDLE", "DATA", "--engine", "abacus"], "abacus"),
        (["BUNDLE", "DATA", "--against", "executorch"], "executorch"),
        (["BUNDLE", "DATA", "--users", "0"], "0 users"),
        (["BUNDLE", "DATA", "--split", "train"], "train"),
    ],
)
def test_bad_input_exits_with_2_and_says_what(
    bundle: Path, data: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    given = [{"BUNDLE": str(bundle), "DATA": str(data)}.get(word, word) for word in arguments]
    status, out, err = run(capsys, "evaluate", *given)
    assert status == 2
    assert out == ""
    assert said in err


def test_functions_raise_typed_errors(bundle: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        evaluate(tmp_path / "none", data)
    with pytest.raises(PocketrecError) as refused:
        evaluate(bundle, data, engine="abacus")
    assert refused.value.code == "engine-unavailable"
    with pytest.raises(DataError) as few:
        evaluate(bundle, data, users=0)
    assert few.value.code == "users-invalid"
