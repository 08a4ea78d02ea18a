"""The fuzzer: a short run holds and is the same every time; and what breaks a law, or a limit, is found."""

from __future__ import annotations

import json
import os
import random
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketrec import bundle as bundle_module
from pocketrec import history_file, signing
from pocketrec.safetensors_map import map_tensors
from pocketrec_tools import fuzz_pool
from pocketrec_tools.fuzz import MARK, document, main, marks, part, replay, write_part
from pocketrec_tools.fuzz_history import mutate_history
from pocketrec_tools.fuzz_mutate import mutate_json, mutate_tensors, read_fields, write_fields
from pocketrec_tools.fuzz_pool import Result, judge_one, run_pool
from pocketrec_tools.fuzz_targets import Case, Targets
from pocketrec_tools.fuzz_world import make_world, small_graph
from support import not_applicable

START, END = marks(MARK)


@pytest.fixture(autouse=True)
def _linux() -> None:
    if not Path("/proc/self/statm").exists():
        not_applicable("limits of memory and time are asked of Linux")


def test_a_short_run() -> None:
    result = run_pool(400, 7, 2)
    assert result.findings == {}
    assert result.finished == 400
    assert {target for target, _ in result.counts} == set(result.seconds)
    assert len(result.seconds) == 10
    outcomes = {what for _, what in result.counts}
    assert len(outcomes) >= 20  # it does not fail at one door alone
    assert sum(n for (_, what), n in result.counts.items() if what.startswith("taken")) >= 20
    assert result.warm_bytes <= result.peak_bytes < result.warm_bytes + fuzz_pool.ROOM_BYTES


def test_an_input_follows_from_seed_and_number(tmp_path: Path) -> None:
    assert run_pool(40, 7, 1).counts == run_pool(40, 7, 2).counts
    assert replay(7, 3, tmp_path) == replay(7, 3, tmp_path)
    assert list((tmp_path / "7-3").iterdir())


def test_a_reader_that_does_not_hash_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module, "_check_hashes", lambda container, manifest: None)
    found = run_pool(600, 1, 2).findings
    assert any("altered and taken" in what for what in found.values()), found


def test_a_history_that_runs_what_a_stranger_put_into_it_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path / "world")
    (tmp_path / "work").mkdir()
    targets = Targets(world, tmp_path / "work")

    def outcomes() -> set[str]:
        chance, found = random.Random(5), set()
        for _ in range(150):
            case = Case("history file", None, mutate_history(world.history, chance))
            try:
                found.add(targets.judge(case))
            except Exception:  # anything that leaves `judge` is a broken law
                found.add("broken")
        return found

    sound = outcomes()
    assert {"refused history-foreign", "refused history-corrupt", "taken: all events"} <= sound
    assert "broken" not in sound
    monkeypatch.setattr(history_file, "check_owner", lambda db, path: None)
    assert "broken" in outcomes()


def test_a_reader_that_takes_any_signature_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "verify", lambda message, signature, keys: None)
    found = run_pool(600, 1, 2).findings
    assert any("altered and taken" in what for what in found.values()), found


def _crash(targets: Targets, seed: int, run: int) -> tuple[str, str]:
    if run == 5:
        os.abort()
    return "crash", "refused x"


def _greedy(targets: Targets, seed: int, run: int) -> tuple[str, str]:
    if run == 5:
        bytearray(fuzz_pool.ROOM_BYTES + (64 << 20))
    return judge_one(targets, seed, run)


def _endless(targets: Targets, seed: int, run: int) -> tuple[str, str]:
    while run == 5:
        pass
    return "endless", "refused x"


@pytest.mark.parametrize(
    ("judge", "words"), [(_crash, "signal 6"), (_greedy, "MemoryError"), (_endless, "too long")]
)
def test_a_crash_an_allocation_and_an_endless_loop_are_found(
    judge: fuzz_pool.Judge, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz_pool, "LONGEST_SECONDS", 0.5)
    result = run_pool(12, 0, 2, judge=judge)
    assert list(result.findings) == [5]
    assert words in result.findings[5]
    assert result.finished == (12 if judge is _greedy else 11)  # it goes on behind it


def test_it_ends_when_it_is_told_to() -> None:
    assert run_pool(10**9, 0, 1, seconds=0).finished < 10**9


def test_the_command_and_its_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, records = tmp_path / "fuzz.md", [tmp_path / "one.json", tmp_path / "two.json"]
    page.write_text(f"# Before\n{START}\nstale\n{END}\nafter\n")
    for seed, record in enumerate(records):
        with pytest.raises(SystemExit) as ended:
            main(["--runs", "30", "--seed", str(seed), "--processes", "1", "--record", str(record)])
        assert not ended.value.code
        assert json.loads(capsys.readouterr().out)["inputs"] == 30
    main(["--page", str(page), "--records", *map(str, records)])
    text = page.read_text()
    assert text.startswith("# Before\n")
    assert text.endswith("\nafter\n")
    assert "**60 inputs, no law was broken.**" in text
    assert "`--seed 1 --runs 30` | 30 |" in text
    assert "stale" not in text


def test_a_broken_law_is_on_the_page() -> None:
    result = Result(findings={3: "it died"}, finished=9)
    assert "9 inputs, 1 broke a law" in part([document(result, 0, 9, 1.0, "abc")])


def test_a_page_keeps_what_stands_around(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"a\n{START}\n{END}\nb\n")
    write_part(page, "one\n")
    write_part(page, "two\n")
    assert page.read_text() == f"a\n{START}\ntwo\n{END}\nb\n"


@given(
    st.lists(
        st.tuples(st.integers(1, 30), st.just(0), st.integers(0, 2**64 - 1))
        | st.tuples(st.integers(1, 30), st.just(2), st.binary(max_size=300))
    )
)
def test_protobuf_is_written_as_it_is_read(fields: list[tuple[int, int, int | bytes]]) -> None:
    assert read_fields(write_fields(fields)) == fields


def test_a_graph_is_written_as_it_is_read() -> None:
    graph = small_graph()
    assert write_fields(read_fields(graph)) == graph


@given(st.integers(0, 10**9))
def test_mutations_of_tensors_reach_behind_the_header(number: int) -> None:
    head = json.dumps({"q": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}).encode()
    raw = struct.pack("<Q", len(head)) + head + bytes(16)
    chance = random.Random(number)
    sound = 0
    for _ in range(20):
        try:
            map_tensors(memoryview(mutate_tensors(raw, chance)), "file")
            sound += 1
        except Exception:  # refusals are what the fuzzer looks at
            continue
    assert sound


@given(st.integers(0, 10**9))
def test_a_mutation_leaves_nothing_behind(number: int) -> None:
    """What one input was made from is not what the next one is made from."""
    raw = b'{"a": [1, {"b": null}], "c": "text", "d": {}}'
    first = mutate_json(raw, random.Random(number))
    for other in range(40):
        mutate_json(raw, random.Random(other))
    assert mutate_json(raw, random.Random(number)) == first


@given(st.integers(0, 10**9))
def test_mutations_of_json_are_others(number: int) -> None:
    raw = b'{"a": [1, 2, {"b": null}], "c": "text"}'
    chance = random.Random(number)
    assert any(mutate_json(raw, chance) != raw for _ in range(5))
