"""A replay against `evaluate`, against the pure function, and against itself when killed or spread out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tiny_data import tiny_rows, write_rows

from pocketrec import DataError, Recommender
from pocketrec.cli import main
from pocketrec_tools.evaluate import evaluate
from pocketrec_tools.simulate import SimulationReport, simulate
from pocketrec_tools.simulate_settings import Conditions, Policies, Settings, checked
from tiny_bundle import ITEMS, item_id, write_tiny_bundle

ROWS = tiny_rows(users=70)
PLAIN = Settings(engine="numpy")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bundles over one data directory."""
    root = tmp_path_factory.mktemp("simulate")
    write_tiny_bundle(root / "a")
    write_tiny_bundle(root / "b", seed=1)
    write_rows(root / "data", ROWS)
    return root


@pytest.fixture(scope="module")
def report(root: Path) -> SimulationReport:
    """Both bundles, everybody, in this process."""
    return run(root, "run", against=[root / "b"], plots=True)


def run(root: Path, out: str, **changes: Any) -> SimulationReport:
    arguments: dict[str, Any] = {"settings": PLAIN, "processes": 1, "plots": False, "progress": False}
    return simulate(root / "a", root / "data", root / out, **{**arguments, **changes})


def steps(report: SimulationReport, arm: int = 0) -> pl.DataFrame:
    return pl.read_parquet(report.out / "steps.parquet").filter(pl.col("arm") == arm)


def names(report: SimulationReport) -> list[str]:
    return pl.read_parquet(report.out / "items.parquet")["item_id"].to_list()


def own_events() -> dict[str, list[tuple[str, str, int]]]:
    found: dict[str, list[tuple[str, str, int]]] = {}
    for user, item, when, kind in sorted(ROWS, key=lambda row: row[2]):
        found.setdefault(user, []).append((item, kind, when))
    return found


def test_the_last_step_is_evaluate_to_the_last_digit(root: Path, report: SimulationReport) -> None:
    wanted = evaluate(root / "a", root / "data", engine="numpy", progress=False).to_dict()
    found = report.to_dict()["final"]
    assert set(found) == set(wanted)
    measured = {"ms_per_list", "seconds"}
    assert {k: v for k, v in found.items() if k not in measured} == {
        k: v for k, v in wanted.items() if k not in measured
    }
    assert 0 < found["ndcg@10"] < found["hr@10"] < 1
    second = evaluate(root / "b", root / "data", engine="numpy", progress=False)
    (test,) = (row for row in report.document["arms"][1]["slices"]["part"] if row["value"] == "test")
    assert (test["users"], test["hr@10"]) == (second.users, second.metrics.hr)
    assert test["ndcg@10"] == pytest.approx(second.metrics.ndcg, abs=1e-12)


def test_a_sample_is_the_sample_of_evaluate(root: Path) -> None:
    settings = Settings(engine="numpy", users=13, seed=5)
    found = run(root, "sample", settings=settings).document["final"]
    wanted = evaluate(root / "a", root / "data", engine="numpy", users=13, seed=5, progress=False)
    assert (found["hr@10"], found["ndcg@10"]) == (wanted.metrics.hr, wanted.metrics.ndcg)
    assert found["popularity"]["ndcg@10"] == wanted.popularity.ndcg


def test_every_list_is_that_of_rank(root: Path, report: SimulationReport) -> None:
    """What the phones showed, with histories that grew event by event, is the pure function of the events."""
    users = pl.read_parquet(report.out / "users.parquet")
    user_of = dict(zip(users["row"].to_list(), users["user_id"].to_list(), strict=True))
    events, ids = own_events(), names(report)
    table = steps(report)
    assert len(table) == sum(len(events[user]) for user in user_of.values())
    with Recommender.open(root / "a", engine="numpy") as recommender:
        for row in table.iter_rows(named=True):
            own = events[user_of[row["user"]]]
            before = own[: row["step"]]
            wanted = recommender.rank(before, 10)
            assert [ids[place] for place in row["list"]] == [r.item_id for r in wanted]
            assert (row["fallback"], row["skipped"]) == (wanted.fallback, wanted.skipped)
            target = own[row["step"]][0]
            scores = {r.item_id: r.score for r in recommender.rank(before, ITEMS)}
            rank = sum(score >= scores[target] for score in scores.values()) if target in scores else 99
            assert row["rank"] == (rank if rank <= 10 else 0)
            assert row["repeat"] == (target in {item for item, _, _ in before})


def test_many_processes_find_the_same(root: Path, report: SimulationReport) -> None:
    other = run(root, "many", against=[root / "b"], processes=2, plots=True)
    for name in ("report.json", "report.md", "report.html", "steps.parquet"):
        assert (other.out / name).read_bytes() == (report.out / name).read_bytes(), name


KILLED = """
import sys
from pathlib import Path
from pocketrec_tools.simulate import simulate
from pocketrec_tools.simulate_settings import Settings
import pocketrec_tools.simulate_work as work
root = Path(sys.argv[1])
replay, done = work.Fleet.replay, []
def slowly(self, chunk):
    if done:
        print("second", flush=True)
        sys.stdin.read()
    replay(self, chunk)
    done.append(chunk)
work.Fleet.replay = slowly
simulate(root / "a", root / "data", root / "killed", against=[root / "b"], processes=1, progress=False,
         settings=Settings(engine="numpy"))
"""


def test_killed_halfway_and_resumed_the_report_is_the_same(root: Path, report: SimulationReport) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"second\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    chunks = root / "killed" / "chunks"
    kept = {file.name: file.stat().st_mtime_ns for file in chunks.glob("*.steps.parquet")}
    assert len(kept) == 1
    assert not (root / "killed" / "report.json").exists()
    (chunks / ".000001.steps.parquet.part").write_bytes(b"half")
    resumed = run(root, "killed", against=[root / "b"], plots=True)
    assert {name: (chunks / name).stat().st_mtime_ns for name in kept} == kept
    assert len(list(chunks.glob("*.steps.parquet"))) == 2
    for name in ("report.json", "report.md", "report.html", "steps.parquet"):
        assert (resumed.out / name).read_bytes() == (report.out / name).read_bytes(), name
    assert not [name for name in os.listdir(chunks) if name.startswith(".")]


def test_another_run_is_not_let_into_the_folder(root: Path, report: SimulationReport, tmp_path: Path) -> None:
    others: list[dict[str, Any]] = [
        {"settings": Settings(engine="numpy", seed=1)},
        {"against": []},
        {"plain": True},
    ]
    for changes in others:
        with pytest.raises(DataError) as refused:
            run(root, "run", **{"against": [root / "b"], **changes})
        assert refused.value.code == "run-exists"
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError) as refused:
        simulate(root / "a", root / "data", tmp_path, progress=False)
    assert refused.value.code == "run-exists"


def test_a_window_makes_history_of_what_came_before(root: Path, report: SimulationReport) -> None:
    whole = steps(report)
    low, high = 1_600_100_000, 1_600_200_000
    part = steps(run(root, "window", settings=Settings(engine="numpy", start=low, end=high)))
    wanted = whole.filter((pl.col("time") >= low) & (pl.col("time") < high))
    assert 0 < len(part) < len(whole)
    columns = ["user", "step", "time", "item", "rank", "list", "repeat", "stored", "calibration"]
    assert part.select(columns).equals(wanted.select(columns))
    with pytest.raises(DataError) as refused:
        run(root, "never", settings=Settings(engine="numpy", start=2_000_000_000))
    assert refused.value.code == "argument-invalid"


def test_the_last_events_alone_are_the_same_lists(root: Path, report: SimulationReport) -> None:
    made = run(root, "last", settings=Settings(engine="numpy", last=2))
    table, whole = steps(made), steps(report)
    assert table["list"].to_list() == whole.group_by("user", maintain_order=True).tail(2)["list"].to_list()
    assert {row["value"] for row in made.document["arms"][0]["slices"]["part"]} <= {
        "training",  # of users with two events, the first
        "validation",
        "test",
    }
    assert made.document["final"] == report.document["final"]


def test_opt_outs_and_limits_are_those_of_the_history(root: Path) -> None:
    conditions = Conditions(opt_outs=0.5, keep_events=2)
    made = run(root, "limits", conditions=conditions, plain=True)
    limited, plain = steps(made), steps(made, 1)
    assert limited["stored"].max() == 2
    assert plain["stored"].to_list() == plain["step"].to_list()
    silent = limited.group_by("user").agg(pl.col("stored").max()).filter(pl.col("stored") == 0)
    people = limited.filter(pl.col("step") > 0)["user"].n_unique()
    assert len(silent) == round(0.5 * people)
    opted = limited.filter(pl.col("user").is_in(silent["user"].implode()))
    assert opted["fallback"].all()
    both = limited.join(plain, on=["user", "step"], suffix="_plain", maintain_order="left")
    kept_all = both.filter((pl.col("step") <= 2) & ~pl.col("user").is_in(silent["user"].implode()))
    assert kept_all["list"].to_list() == kept_all["list_plain"].to_list()
    assert {row["theirs"] for row in made.document["differences"]} == {"A, plain"}
    assert {row["over"] for row in made.document["differences"]} == {"last events", "held-out events"}


def test_the_last_events_alone_are_compared_once(root: Path) -> None:
    made = run(root, "last one", against=[root / "b"], settings=PLAIN.model_copy(update={"last": 1}))
    assert {row["over"] for row in made.document["differences"]} == {"last events"}


def test_days_are_those_of_the_phones_clock(root: Path) -> None:
    made = run(root, "days", conditions=Conditions(keep_days=0.5))
    events = own_events()
    users = pl.read_parquet(made.out / "users.parquet")
    user_of = dict(zip(users["row"].to_list(), users["user_id"].to_list(), strict=True))
    shorter = 0
    for row in steps(made).filter(pl.col("step") > 0).iter_rows(named=True):
        own = [when for _, _, when in events[user_of[row["user"]]][: row["step"]]]
        young = sum(when >= own[-1] - 43_200 for when in own)
        assert young - 2 <= row["stored"] <= young  # a sixteenth of the age goes with what is too old
        shorter += row["stored"] < row["step"]
    assert shorter > 10


def test_an_update_changes_the_bundle_and_keeps_the_history(root: Path, report: SimulationReport) -> None:
    at = 1_600_150_000
    made = run(root, "update", conditions=Conditions(update=root / "b", update_at=at))
    table = steps(made)
    before, after = (steps(report, arm) for arm in (0, 1))
    assert table["version"].to_list() == [int(when >= at) for when in table["time"].to_list()]
    for version, wanted in ((0, before), (1, after)):
        own = table.filter(pl.col("version") == version)
        other = wanted.filter((pl.col("time") >= at) == bool(version))
        assert len(own) > 20
        assert own["list"].to_list() == other["list"].to_list()
    assert [row["value"] for row in made.document["arms"][0]["slices"]["update"]] == [
        "before the update",
        "after the update",
    ]


def test_policies_act_on_what_is_shown(root: Path, report: SimulationReport) -> None:
    filters = Policies(only=(("categories", "cat 1"),), without=(("title", "Title 1 ünïcode"),))
    filtered = steps(run(root, "filtered", conditions=Conditions(policies=filters)))
    shown = set(filtered["list"].explode().to_list())
    assert shown == {place for place in range(ITEMS) if place % 5 == 1 and place != 1}
    diverse = run(root, "diverse", conditions=Conditions(policies=Policies(mmr=0.3)), plain=True)
    ours, plain = (diverse.document["arms"][arm]["all"]["diversity"] for arm in (0, 1))
    assert ours > plain == report.document["arms"][0]["all"]["diversity"]
    bold = run(root, "bold", conditions=Conditions(policies=Policies(explore=0.5)))
    again = run(root, "again", conditions=Conditions(policies=Policies(explore=0.5)), processes=2)
    assert (bold.out / "report.json").read_bytes() == (again.out / "report.json").read_bytes()
    changed = [
        len(set(a) - set(b))
        for a, b in zip(steps(bold)["list"].to_list(), steps(report)["list"].to_list(), strict=True)
    ]
    assert 3 < sum(changed) / len(changed) < 5


def test_files_are_histories_on_disk(root: Path, report: SimulationReport) -> None:
    settings = Settings(engine="numpy", users=6, files=True)
    made = run(root, "files", settings=settings)
    sizes = made.timing["arms"][0]["history_bytes"]
    assert 4096 <= sizes["median"] <= sizes["max"] < 1_000_000
    assert report.timing["arms"][0]["history_bytes"] is None
    assert not list((made.out / "chunks").glob("**/*.db"))


@pytest.mark.parametrize(
    "values",
    [{"policies": {"mmr": 2}}, {"update": "b"}, {"opt_outs": -1}, {"keep_events": 0}, {"no": 1}],
)
def test_conditions_that_make_no_sense_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(DataError) as refused:
        checked(Conditions, values)
    assert refused.value.code == "argument-invalid"


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        main(["simulate", *map(str, arguments)])
    return int(left.value.code or 0), capsys.readouterr().out


def test_the_command(root: Path, report: SimulationReport, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    arguments = (
        root / "a",
        root / "data",
        "--out",
        root / "run",
        "--against",
        root / "b",
        "--engine",
        "numpy",
    )
    status, out = call(capsys, *arguments, "--processes", "1", "--json")
    found = json.loads(out)
    assert status == 0
    assert found["final"]["hr@10"] == report.document["final"]["hr@10"]
    assert found["timing"]["seconds"] <= time.monotonic() - began
    status, out = call(capsys, *arguments)
    assert status == 0
    for text in ("A − B", "validation", "ms a list", "report.html"):
        assert text in out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), "argument-invalid"),
        (("--out", "r", "--only", "nothing"), "argument-invalid"),
        (("--out", "r", "--only", "colour=red"), "argument-invalid"),
        (("--out", "r", "--only", "categories=no such"), "argument-invalid"),
        (("--out", "r", "--from", "yesterday"), "argument-invalid"),
        (("--out", "r", "--device", "mine:0:1:1"), "argument-invalid"),
        (("--out", "r", "--users", "0"), "argument-invalid"),
        (("--out", "r", "--against", "no-such-bundle"), "bundle-missing"),
    ],
)
def test_bad_arguments_are_typed_errors(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...], code: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    status, out = call(capsys, root / "a", root / "data", *arguments, "--processes", "1", "--json")
    assert status == 2
    assert json.loads(out)["error"]["code"] == code


def test_items_of_the_data_that_no_bundle_has_are_misses(report: SimulationReport) -> None:
    ids = names(report)
    assert ids[:ITEMS] == [item_id(position) for position in range(ITEMS)]
    table = steps(report).filter(pl.col("item") == ids.index("not-in-the-bundle"))
    assert len(table) == 2
    assert not table["known"].any()
    assert table["rank"].to_list() == [0, 0]
