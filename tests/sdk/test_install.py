"""Updates: whole or not at all, forwards only, and back again when the new version fails."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hostile
import pocketrec
from pocketrec.errors import BundleError, PocketrecError
from pocketrec.history import History, HistoryError
from pocketrec.install_state import STATE_NAME, locked, read_state, write_state
from pocketrec.install_versions import LONELY_ATTEMPTS
from pocketrec.recommender import Recommender
from pocketrec.signing import generate_key
from support import not_applicable
from tiny_bundle import item_id, write_tiny_bundle

Maker = Callable[..., Path]


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Bundles of model version 1 to 3, each with weights of its own."""
    root = tmp_path_factory.mktemp("versions")
    return {n: write_tiny_bundle(root / f"v{n}", seed=n, model_version=n) for n in (1, 2, 3)}


def live(into: Path) -> int:
    return pocketrec.installed(into).model_version


def names(into: Path) -> list[str]:
    return sorted(path.name.split("-")[0] for path in (into / "versions").iterdir())


def code_of(call: Callable[[], Any]) -> str:
    with pytest.raises(PocketrecError) as caught:
        call()
    return caught.value.code


def harm_answers(bundle: Path) -> Path:
    """Sound in every byte, and its golden vectors are not what it answers."""
    golden = json.loads((bundle / "golden.json").read_bytes())
    golden["cases"][0]["scores"][0] += 5
    (bundle / "golden.json").write_text(json.dumps(golden), "utf-8")
    hostile.reseal(bundle)
    return bundle


def test_installed_versions_follow_each_other(versions: dict[int, Path], tmp_path: Path) -> None:
    into = tmp_path / "bundles"
    for number in (1, 2, 3):
        answer = pocketrec.install(versions[number], into)
        assert (answer.changed, answer.on_trial, answer.model_version) == (True, True, number)
        with Recommender.open(into) as recommender, Recommender.open(versions[number]) as direct:
            assert recommender.bundle.manifest == direct.bundle.manifest
            assert recommender.rank([item_id(3)]) == direct.rank([item_id(3)])
        assert not pocketrec.installed(into).on_trial
    assert names(into) == ["2", "3"]  # the live one and the one before
    assert not pocketrec.install(versions[3], into).changed


def test_an_archive_becomes_a_directory_of_the_same_files(tmp_path: Path) -> None:
    archive = write_tiny_bundle(tmp_path / "b.zip", as_zip=True)
    answer = pocketrec.install(archive, tmp_path / "bundles")
    with Recommender.open(archive) as zipped, Recommender.open(answer.path) as copied:
        assert zipped.bundle.sizes == copied.bundle.sizes


def test_downgrades_are_refused_unless_asked_for(versions: dict[int, Path], tmp_path: Path) -> None:
    into = tmp_path / "bundles"
    pocketrec.install(versions[2], into)
    assert code_of(lambda: pocketrec.install(versions[1], into)) == "install-downgrade"
    assert live(into) == 2
    assert pocketrec.install(versions[1], into, allow_downgrade=True).model_version == 1
    assert live(into) == 1


@pytest.mark.parametrize("numbers", [(2, 1), (1, 2), (2, 2)])
def test_neither_version_may_fall_nor_stay_with_other_content(
    numbers: tuple[int, int], tmp_path: Path
) -> None:
    into = tmp_path / "bundles"
    pocketrec.install(write_tiny_bundle(tmp_path / "a", model_version=2, catalogue_version=2), into)
    model, catalogue = numbers
    other = write_tiny_bundle(tmp_path / "b", seed=9, model_version=model, catalogue_version=catalogue)
    assert code_of(lambda: pocketrec.install(other, into)) == "install-downgrade"


def test_wrong_answers_are_never_live(versions: dict[int, Path], tmp_path: Path) -> None:
    into = tmp_path / "bundles"
    pocketrec.install(versions[1], into)
    wrong = harm_answers(Path(shutil.copytree(versions[2], tmp_path / "wrong")))
    assert code_of(lambda: pocketrec.install(wrong, into)) == "install-golden"
    assert live(into) == 1
    assert names(into) == ["1"]


def test_answers_that_take_too_long_are_never_live(versions: dict[int, Path], tmp_path: Path) -> None:
    pocketrec.install(versions[1], tmp_path)
    assert code_of(lambda: pocketrec.install(versions[2], tmp_path, seconds=0)) == "install-slow"
    assert (live(tmp_path), names(tmp_path)) == (1, ["1"])


def test_nothing_hostile_is_installed(versions: dict[int, Path], tmp_path: Path) -> None:
    into = tmp_path / "bundles"
    pocketrec.install(versions[1], into)
    for case in (case for case in hostile.CASES[::9] if case.stage == "open" and not case.keys):
        bundle = Path(shutil.copytree(versions[2], tmp_path / case.name / "bundle"))
        with pytest.raises(BundleError) as caught:
            pocketrec.install(case.make(bundle), into)
        assert caught.value.code == case.code
    assert live(into) == 1
    assert names(into) == ["1"]


def test_keys_are_asked_for_at_the_installation_and_at_every_opening(tmp_path: Path) -> None:
    into, ours, theirs = tmp_path / "bundles", generate_key(), generate_key()
    first = write_tiny_bundle(tmp_path / "a", sign_key=ours.private_pem)
    second = write_tiny_bundle(tmp_path / "b", sign_key=theirs.private_pem, model_version=2)
    pocketrec.install(first, into, public_keys=[ours.raw_public])
    assert (
        code_of(lambda: pocketrec.install(second, into, public_keys=[ours.raw_public])) == "signature-invalid"
    )
    pocketrec.open_installed(into, public_keys=[ours.raw_public]).close()
    pocketrec.install(second, into, public_keys=[theirs.raw_public])
    # The caller's keys are no fault of the version: nothing is rolled back.
    opening = lambda: pocketrec.open_installed(into, public_keys=[ours.raw_public])  # noqa: E731
    assert code_of(opening) == "signature-invalid"
    assert live(into) == 2


def test_the_version_before_is_live_again_when_the_first_use_fails(
    versions: dict[int, Path], tmp_path: Path
) -> None:
    into = tmp_path / "bundles"
    pocketrec.install(versions[1], into)
    pocketrec.open_installed(into).close()
    answer = pocketrec.install(versions[2], into)
    (answer.path / "items.safetensors").write_bytes(b"the disk forgot")
    with pocketrec.open_installed(into) as recommender:
        assert recommender.bundle.manifest.model_version == 1
    found = pocketrec.installed(into)
    assert (found.model_version, found.on_trial, found.previous) == (1, False, None)
    assert [(r.model_version, r.reason.split(":")[0]) for r in found.rejected] == [(2, "size-mismatch")]
    # It is not tried again by itself; by hand it is.
    assert code_of(lambda: pocketrec.install(versions[2], into)) == "install-rejected"
    assert pocketrec.install(versions[2], into, again=True).model_version == 2
    with pocketrec.open_installed(into) as recommender:
        assert recommender.bundle.manifest.model_version == 2
    assert not pocketrec.installed(into).rejected


def _die_in_first_use(into: Path) -> None:
    from pocketrec import install_versions

    install_versions.__dict__["first_use"] = lambda recommender: os.kill(os.getpid(), signal.SIGKILL)
    install_versions.open_installed(into)


def _run(target: Callable[..., None], *arguments: Any) -> int | None:
    if not hasattr(os, "fork"):
        not_applicable("there is no fork")
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    process.join(60)
    return process.exitcode


def test_a_crash_in_the_first_use_brings_the_version_before_back(
    versions: dict[int, Path], tmp_path: Path
) -> None:
    into = tmp_path / "bundles"
    pocketrec.install(versions[1], into)
    pocketrec.open_installed(into).close()
    pocketrec.install(versions[2], into)
    assert _run(_die_in_first_use, into) == -signal.SIGKILL
    assert read_state(into).trial == "started"
    with pocketrec.open_installed(into) as recommender:
        assert recommender.bundle.manifest.model_version == 1
    assert "died" in pocketrec.installed(into).rejected[0].reason


def test_the_only_version_is_tried_a_few_times(versions: dict[int, Path], tmp_path: Path) -> None:
    into = tmp_path / "bundles"
    pocketrec.install(versions[1], into)
    for _ in range(LONELY_ATTEMPTS - 1):
        assert _run(_die_in_first_use, into) == -signal.SIGKILL
    with pocketrec.open_installed(into):
        pass
    pocketrec.install(versions[1], into, again=True)
    state = read_state(into)
    write_state(
        into, state.model_copy(update={"previous": None, "trial": "started", "attempts": LONELY_ATTEMPTS})
    )
    assert code_of(lambda: pocketrec.open_installed(into)) == "install-trial"
    pocketrec.install(versions[2], into)
    with pocketrec.open_installed(into) as recommender:
        assert recommender.bundle.manifest.model_version == 2


def test_a_version_never_used_is_not_what_one_goes_back_to(versions: dict[int, Path], tmp_path: Path) -> None:
    into = tmp_path / "bundles"
    pocketrec.install(versions[1], into)
    pocketrec.open_installed(into).close()
    pocketrec.install(versions[2], into)  # never opened
    answer = pocketrec.install(versions[3], into)
    (answer.path / "golden.json").unlink()
    with pocketrec.open_installed(into) as recommender:
        assert recommender.bundle.manifest.model_version == 1


def test_a_history_that_cannot_be_used_is_not_the_versions_fault(
    versions: dict[int, Path], tmp_path: Path
) -> None:
    into, file = tmp_path / "bundles", tmp_path / "me.db"
    for number in (1, 2):
        pocketrec.install(versions[number], into)
        if number == 1:
            pocketrec.open_installed(into).close()
    file.write_bytes(b"no database at all" * 100)
    with pytest.raises(HistoryError):
        pocketrec.open_installed(into, history=file)
    assert live(into) == 2
    assert pocketrec.installed(into).on_trial
    assert code_of(lambda: pocketrec.open_installed(into, engine="tea")) == "engine-unavailable"
    assert live(into) == 2


@pytest.mark.parametrize("given", ["path", "object"])
def test_the_history_goes_through_updates_and_back(
    versions: dict[int, Path], tmp_path: Path, given: str
) -> None:
    """Events are kept by item id, and one whose item is gone is skipped, counted, and there again later."""
    into, file = tmp_path / "bundles", tmp_path / "me.db"
    pocketrec.install(versions[1], into)
    with pocketrec.open_installed(into, history=file) as recommender:
        recommender.record(item_id(3), "view", 10)
        recommender.record("of another catalogue", "view", 20)
        assert recommender.recommend(3).skipped == 1
        before = recommender.events()
    answer = pocketrec.install(versions[2], into)
    (answer.path / "golden.json").write_bytes(b"{}")
    history = History(file) if given == "object" else file
    with pocketrec.open_installed(into, history=history) as recommender:
        assert recommender.bundle.manifest.model_version == 1
        assert recommender.events() == before
        recommender.record(item_id(4))
        assert recommender.recommend(3)


def test_roll_back_by_hand(versions: dict[int, Path], tmp_path: Path) -> None:
    into = tmp_path / "bundles"
    pocketrec.install(versions[1], into)
    assert code_of(lambda: pocketrec.roll_back(into)) == "install-trial"
    pocketrec.open_installed(into).close()
    assert code_of(lambda: pocketrec.roll_back(into)) == "install-no-previous"
    pocketrec.install(versions[2], into)
    found = pocketrec.roll_back(into, "worse in the field")
    assert (found.model_version, found.rejected[0].reason) == (1, "worse in the field")


def test_who_reads_keeps_what_was_opened(versions: dict[int, Path], tmp_path: Path) -> None:
    into = tmp_path / "bundles"
    pocketrec.install(versions[1], into)
    with pocketrec.open_installed(into) as old, Recommender.open(versions[1]) as direct:
        for number in (2, 3):
            pocketrec.install(versions[number], into)
            pocketrec.open_installed(into).close()
        assert names(into) == ["2", "3"]
        assert old.rank([item_id(3)], 20) == direct.rank([item_id(3)], 20)


def test_readers_never_see_a_mix(versions: dict[int, Path], tmp_path: Path) -> None:
    """Threads open and rank while versions are swapped: each answer is one version's own."""
    into = tmp_path / "bundles"
    expected = {}
    for number, path in versions.items():
        with Recommender.open(path) as direct:
            expected[number] = direct.rank([item_id(3)], 20)
    pocketrec.install(versions[1], into)
    stop, faults, seen = threading.Event(), [], set()

    def read() -> None:
        while not stop.is_set():
            try:
                with pocketrec.open_installed(into) as recommender:
                    number = recommender.bundle.manifest.model_version
                    seen.add(number)
                    if recommender.rank([item_id(3)], 20) != expected[number]:
                        faults.append(f"a mix in version {number}")
            except BaseException as error:
                faults.append(repr(error))
                return

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(8):
        pocketrec.install(versions[2 + turn % 2], into, allow_downgrade=True)
    stop.set()
    for thread in threads:
        thread.join()
    assert not faults
    assert seen & {2, 3}


def _install_many(into: Path, bundles: list[Path]) -> None:
    for bundle in bundles * 3:
        pocketrec.install(bundle, into, allow_downgrade=True)
        pocketrec.open_installed(into).close()


def test_processes_install_side_by_side(versions: dict[int, Path], tmp_path: Path) -> None:
    into = tmp_path / "bundles"
    if not hasattr(os, "fork"):
        not_applicable("there is no fork")
    context = multiprocessing.get_context("fork")
    pairs = ([versions[1], versions[2]], [versions[2], versions[3]])
    processes = [context.Process(target=_install_many, args=(into, pair)) for pair in pairs]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    with pocketrec.open_installed(into):
        pass
    assert len(names(into)) <= 2
    assert not pocketrec.installed(into).rejected


def test_what_a_killed_installation_left_is_removed(versions: dict[int, Path], tmp_path: Path) -> None:
    into = tmp_path / "bundles"
    pocketrec.install(versions[1], into)
    (into / "versions" / ".new-dead").mkdir()
    (into / f".{STATE_NAME}-dead").write_bytes(b"{")
    pocketrec.install(versions[2], into)
    assert names(into) == ["1", "2"]
    assert not list(into.glob(f".{STATE_NAME}-*"))


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b'{"format": "pocketrec-installed"}',
        b" " * (2 << 20),
        b'{"format":"pocketrec-installed","live":{"name":"../../etc","bundle_id":"","model_version":1,'
        b'"catalogue_version":1}}',
    ],
)
def test_a_damaged_state_is_an_error_and_an_installation_mends_it(
    versions: dict[int, Path], tmp_path: Path, damage: bytes
) -> None:
    into = tmp_path / "bundles"
    pocketrec.install(versions[1], into)
    (into / STATE_NAME).write_bytes(damage)
    assert code_of(lambda: pocketrec.open_installed(into)) == "install-damaged"
    pocketrec.install(versions[1], into)
    pocketrec.open_installed(into).close()


def test_nothing_installed(tmp_path: Path) -> None:
    assert code_of(lambda: pocketrec.installed(tmp_path)) == "install-missing"
    assert code_of(lambda: pocketrec.open_installed(tmp_path)) == "install-missing"
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_an_error(versions: dict[int, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert code_of(lambda: pocketrec.install(versions[1], tmp_path / "file")) == "install-failed"


def test_a_lock_waits_for_its_holder(tmp_path: Path) -> None:
    order: list[str] = []

    def other() -> None:
        with locked(tmp_path):
            order.append("other")

    with locked(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "other"] or os.name == "nt"
