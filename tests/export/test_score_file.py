"""A file of anybody's scores: what is read of it, what is counted, and the lists that come of it."""

from __future__ import annotations

import math
import random
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from score_worlds import SCORES, ScoreRow, expected, list_of, usable, world, write_scores
from small_data import dataset_of

from pocketrec.errors import DataError
from pocketrec_export import score_file
from pocketrec_export.cache import TeacherCache
from pocketrec_export.model import Material
from pocketrec_export.score_config import ScoresConfig
from pocketrec_export.score_file import open_score_teacher
from pocketrec_export.score_teacher import ScoresTeacher
from pocketrec_export.teachers import Lists, Positions, held_out_ranks, write_cache

WORLD = world(Path(tempfile.mkdtemp(prefix="pocketrec-scores-")))
ALWAYS: list[ScoreRow] = [("a", "w", 0.3, None), ("a", "x", 0.2, None)]
"""So that something is said about a training position."""

GOOD: list[ScoreRow] = [
    *[("a", item, 1.0 - place / 10, None) for place, item in enumerate("stuvwxy")],
    *[("b", item, 5.0 - place, 2) for place, item in enumerate("pstu")],
    *[("c", item, 9.0 - place, 1) for place, item in enumerate("xyv")],
]


def opened(
    rows: list[ScoreRow], config: ScoresConfig | None = None, name: str = "s.parquet"
) -> ScoresTeacher:
    with tempfile.TemporaryDirectory() as directory:
        return open_score_teacher(write_scores(Path(directory) / name, rows), WORLD, config)


def training_lists(teacher: ScoresTeacher, k: int = 8) -> tuple[Positions, Lists]:
    positions = Positions.all(WORLD.histories, 4)
    return positions, teacher.lists(positions, k)


def same(one: Lists, other: Lists, tolerance: float = 1e-5) -> None:
    assert np.array_equal(one.ids, other.ids)
    assert np.array_equal(one.target_rank, other.target_rank)
    assert np.allclose(one.log_probs, other.log_probs, atol=tolerance)
    assert np.allclose(one.target_log_prob, other.target_log_prob, atol=tolerance)


def dataset_event(index: int) -> int:
    """The event of the dataset that an event of the training histories is."""
    return int(np.flatnonzero(WORLD.split.train_mask)[index])


@settings(max_examples=25, deadline=None)
@given(
    SCORES,
    st.sampled_from(["logits", "rank"]),
    st.sampled_from([0.5, 1.0, 3.0]),
    st.integers(1, 9),
    st.integers(1, 6),
)
def test_lists_are_what_a_loop_finds(
    rows: list[ScoreRow], scores: str, temperature: float, length: int, k: int
) -> None:
    rows = rows + ALWAYS
    config = ScoresConfig.model_validate(
        {"scores": scores, "temperature": temperature, "list_length": length}
    )
    teacher = opened(rows, config)
    positions, said = training_lists(teacher, k)
    for row, index in enumerate(positions.index.tolist()):
        items, log_probs, rank = expected(rows, WORLD, dataset_event(index), config, k)
        n = len(items)
        assert said.ids[row].tolist() == items + [-1] * (k - n)
        assert np.allclose(said.log_probs[row, :n], log_probs[:n], atol=1e-5)
        assert np.isneginf(said.log_probs[row, n:]).all()
        assert said.target_rank[row] == rank
        target = int(positions.targets[row])
        if target in items:
            assert math.isclose(said.target_log_prob[row], log_probs[items.index(target)], abs_tol=1e-5)
        elif 0 < len(log_probs) < rank:
            assert said.target_log_prob[row] < log_probs[-1]
    # Held-out positions see the lists that were made for them.
    for part in ("validation", "test"):
        held = Positions.held_out(WORLD.ranker.histories, WORLD.split, part, WORLD.split.users_for(part), 4)
        ranks = teacher.lists(held, k).target_rank
        assert ranks.tolist() == [expected(rows, WORLD, i, config, k)[2] for i in held.index.tolist()]


@settings(max_examples=25, deadline=None)
@given(SCORES, st.integers(1, 4))
def test_every_row_is_counted_once(rows: list[ScoreRow], length: int) -> None:
    rows = rows + ALWAYS
    report = opened(rows, ScoresConfig(list_length=length)).report
    said = report.to_dict()
    reasons = (
        "used_rows blank_ids bad_scores bad_after unknown_user_rows unknown_item_rows duplicate_rows "
        "cut_rows beyond_rows"
    )
    assert report.rows == len(rows) == sum(said[name] for name in reasons.split())
    assert report.bad_scores == sum(not math.isfinite(row[2]) for row in rows)
    fine = [row for row in rows if math.isfinite(row[2]) and (row[3] is None or row[3] >= 1)]
    assert report.bad_after + report.bad_scores == len(rows) - len(fine)
    assert report.unknown_user_rows == sum(row[0] == "z" for row in fine)
    assert report.unknown_item_rows == sum(row[1] == "Z" and row[0] != "z" for row in fine)
    pairs = Counter((row[0], row[1], row[3]) for row in rows if usable(row, WORLD))
    assert report.duplicate_rows == sum(pairs.values()) - len(pairs)
    events = dict(zip(WORLD.dataset.user_ids, np.diff(WORLD.dataset.offsets).tolist(), strict=True))
    lists = {(user, after) for user, _, after in pairs}
    in_use = [(user, after) for user, after in lists if (after or 0) < events[user]]
    assert (report.lists, report.beyond_lists) == (len(in_use), len(lists) - len(in_use))
    assert report.used_rows == sum(len(list_of(rows, WORLD, user, after, length)) for user, after in in_use)


@settings(max_examples=12, deadline=None)
@given(SCORES, st.sampled_from([1e-4, 0.3, 7.0, 1e5]), st.floats(-50, 50), st.randoms(use_true_random=False))
def test_scale_and_order_of_rows_do_not_matter(
    rows: list[ScoreRow], scale: float, shift: float, rng: random.Random
) -> None:
    rows = rows + ALWAYS
    moved = [(user, item, score * scale + shift * scale, after) for user, item, score, after in rows]
    rng.shuffle(moved)
    same(training_lists(opened(rows))[1], training_lists(opened(moved))[1], 1e-3)


@settings(max_examples=8, deadline=None)
@given(SCORES)
def test_of_ranks_only_the_order_matters(rows: list[ScoreRow]) -> None:
    rows, config = rows + ALWAYS, ScoresConfig(scores="rank")
    bent = [(user, item, math.exp(3 * score), after) for user, item, score, after in rows]
    same(training_lists(opened(rows, config))[1], training_lists(opened(bent, config))[1])


def test_probabilities_and_their_logarithms_are_one_teacher() -> None:
    rows = [(user, item, 2.0**-score, after) for user, item, score, after in GOOD]
    logs = [(user, item, math.log(score), after) for user, item, score, after in rows]
    probabilities = training_lists(opened(rows, ScoresConfig(scores="probabilities")))[1]
    same(probabilities, training_lists(opened(logs, ScoresConfig(scores="logits")))[1])
    zero = opened([*rows, ("a", "p", 0.0, None)], ScoresConfig(scores="probabilities"))
    assert np.isfinite(training_lists(zero)[1].target_log_prob).all()


def test_formats_parts_and_passes_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = training_lists(opened(GOOD))[1]
    for name in ("s.csv", "s.csv.gz"):
        same(wanted, training_lists(opened(GOOD, name=name))[1])
    (tmp_path / "parts").mkdir()
    for number in range(3):
        write_scores(tmp_path / "parts" / f"part-{number}.parquet", GOOD[number::3])
    same(wanted, training_lists(open_score_teacher(tmp_path / "parts", WORLD))[1])
    monkeypatch.setattr(score_file, "ROWS_AT_ONCE", 3)
    in_passes = opened(GOOD)
    same(wanted, training_lists(in_passes)[1])
    assert in_passes.report.to_dict() | {"path": ""} == opened(GOOD).report.to_dict() | {"path": ""}


def test_a_cache_of_it(tmp_path: Path) -> None:
    teacher = opened(GOOD)
    write_cache(teacher, WORLD.histories, tmp_path / "cache", 6, 4)
    cache = TeacherCache.open(tmp_path / "cache", teacher.key)
    positions = Positions.all(WORLD.histories, 4)
    said = cache.batch(positions.index)
    report = teacher.report
    assert int((said.target_rank > 0).sum()) == report.positions - report.positions_without_list == 4
    assert (report.users, report.users_without_list) == (2, 0)
    # What comes after one event of b is said by nobody; the list after two is there.
    of_b = said.target_rank[positions.users == 1].tolist()
    assert of_b[0] == 0 < of_b[1]
    lacking = (said.target_rank > 6).numpy()
    assert lacking.any()
    last = said.log_probs.masked_fill(said.ids < 0, np.inf).amin(1).numpy()
    assert (said.target_log_prob.numpy()[lacking] < last[lacking]).all()  # float16 of the list included


def test_lists_made_from_held_out_events_never_reach_training() -> None:
    late: list[ScoreRow] = [("a", "p", 9.0, 4), ("a", "y", 9.0, 5), ("b", "u", 1.0, 3), ("b", "y", 0.5, 3)]
    without, with_late = opened(GOOD), opened([*GOOD, *late])
    same(training_lists(without)[1], training_lists(with_late)[1])
    assert (without.report.held_out_lists, with_late.report.held_out_lists) == (1, 4)
    histories, split = WORLD.ranker.histories, WORLD.split
    ranks = held_out_ranks(with_late, histories, split, "test", 4)
    assert ranks.tolist() == [11] * 4  # a had it before; about b, c and d nothing is said there
    # All that the list of a names was met; that of b lacks the target; that of c has it last.
    assert held_out_ranks(with_late, histories, split, "validation", 4).tolist() == [11, 10, 3]


def test_key_depends_on_contents_data_and_settings(tmp_path: Path) -> None:
    key = opened(GOOD).key
    assert opened(GOOD).key == key
    assert opened(GOOD[:-1]).key != key
    assert opened(GOOD, ScoresConfig(temperature=2)).key != key
    other = Material(dataset_of(tmp_path / "other", [("a", x, t) for t, x in enumerate("stuvw")]), 64)
    assert open_score_teacher(write_scores(tmp_path / "s.parquet", GOOD), other).key != key


def test_report_says_what_is_odd(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(
        "user_id,item_id,score,after,model\n"
        "a,s,0.5,,m\na,t,0.4,,m\na,s,0.1,,m\n"  # a pair twice
        "z1,s,1,,m\nz2,s,1,,m\na,Z,1,,m\n"  # unknown
        "a,u,lots,,m\na,v,,,m\na,w,inf,,m\n,w,1,,m\na,x,1,1.5,m\na,y,1,soon,m\n"
        "a,x,1,6,m\na,x,1,4,m\n"
    )
    teacher = open_score_teacher(tmp_path / "s.csv", WORLD)
    said = teacher.report.to_dict()
    wanted = {
        "rows": 14, "used_rows": 3, "duplicate_rows": 1, "unknown_user_rows": 2, "unknown_users": 2,
        "unknown_item_rows": 1, "bad_scores": 3, "blank_ids": 1, "bad_after": 2, "beyond_rows": 1,
        "beyond_lists": 1, "held_out_lists": 1, "lists": 2, "positions": 5, "positions_without_list": 2,
        "users": 2, "users_without_list": 1, "unknown_user_sample": ["z1", "z2"], "unused_columns": ["model"],
    }  # fmt: skip
    assert {name: said[name] for name in wanted} == wanted
    text = str(teacher.report)
    for phrase in ("3 of 14 rows", "3 of 5", "'z1', 'z2'", "'model'", "1 of 2 users have no list"):
        assert phrase in text


BAD_FRAMES = {
    "scores-missing-column": pl.DataFrame({"user": ["a"], "item_id": ["p"], "score": [1.0]}),
    "scores-type": pl.DataFrame({"user_id": ["a"], "item_id": ["p"], "score": ["high"]}),
    "scores-empty": pl.DataFrame({"user_id": ["nobody"], "item_id": ["p"], "score": [1.0]}),
    "scores-invalid": pl.DataFrame({"user_id": ["a"], "item_id": ["p"], "score": [-1.0]}),
}


@pytest.mark.parametrize("code", BAD_FRAMES)
def test_tables_of_no_use_are_refused(code: str, tmp_path: Path) -> None:
    BAD_FRAMES[code].write_parquet(tmp_path / "s.parquet")
    config = ScoresConfig(scores="probabilities")
    with pytest.raises(DataError, match=r"s\.parquet") as raised:
        open_score_teacher(tmp_path / "s.parquet", WORLD, config)
    assert raised.value.code == code
    assert raised.value.remedy


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("s.parquet", b"PAR1 but no more", "scores-damaged"),
        ("s.csv", b"user_id,item_id,score\na,\xff,1\n", "scores-damaged"),
        ("s.csv", b"user_id,item_id,score\na,p,1,2,3\n", "scores-damaged"),
        ("s.csv", b"", "scores-damaged"),
        ("s.csv", b"user_id,item_id,score\n", "scores-empty"),
        ("s.csv.gz", b"\x1f\x8bnot quite", "scores-damaged"),
        ("s.json", b"{}", "scores-missing"),
    ],
)
def test_files_of_no_use_are_refused(name: str, content: bytes, code: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name) as raised:
        open_score_teacher(tmp_path / name, WORLD)
    assert raised.value.code == code
    assert raised.value.remedy


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.parquet", tmp_path):
        with pytest.raises(DataError) as raised:
            open_score_teacher(path, WORLD)
        assert raised.value.code == "scores-missing"


def test_whole_numbers_as_ids(tmp_path: Path) -> None:
    events = [(str(user), str(item), item) for user in range(3) for item in range(user, user + 5)]
    material = Material(dataset_of(tmp_path / "data", events), 64)
    frame = pl.DataFrame({"user_id": [0, 0, 1], "item_id": [5, 6, 6], "score": [2, 1, 1]})
    frame.write_parquet(tmp_path / "s.parquet")
    report = open_score_teacher(tmp_path / "s.parquet", material).report
    assert (report.used_rows, report.users_without_list, report.positions_without_list) == (3, 1, 2)
