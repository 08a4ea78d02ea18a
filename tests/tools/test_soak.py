"""The harness that kills: a short run holds, and it finds a history that lies."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pocketrec.history import History
from pocketrec.install_versions import installed
from pocketrec_tools.soak import page, soak
from pocketrec_tools.soak_install import VERSIONS, DeltaVictim
from pocketrec_tools.soak_law import Broken, Say
from pocketrec_tools.soak_victims import HistoryVictim, all_victims
from support import not_applicable


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if not hasattr(os, "fork"):
        not_applicable("there is no fork")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    yield
    monkeypatch.setattr("tempfile.tempdir", None)


def test_a_short_soak(tmp_path: Path) -> None:
    out = tmp_path / "soak.md"
    command = [
        sys.executable,
        "-m",
        "pocketrec_tools.soak",
        "--kills",
        "30",
        "--seed",
        "11",
        "--out",
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    counts = json.loads(done.stdout)["counts"]
    assert sum(count["kills"] for count in counts) == 30
    assert {count["victim"] for count in counts} == {victim.name for victim in all_victims()}
    assert sum(count["acknowledged"] for count in counts) >= 15  # three quarters wait for their first
    assert "30 times `kill -9`" in out.read_text("utf-8")
    assert not list(tmp_path.glob("soak-*"))


class Early(HistoryVictim):
    """Acknowledges what it keeps for later, as a cache would."""

    def work(self, chance: random.Random, say: Say) -> None:
        kept: list[str] = []
        with History(self._file) as history:
            while True:
                step = self._step("record", chance)
                say(step)
                kept += step["items"]
                if len(kept) == 5:
                    history.record_many(kept)
                    kept = []
                self._apply(step)
                say({"step": "done"})


class Twice(HistoryVictim):
    """Records once more what is there already."""

    def work(self, chance: random.Random, say: Say) -> None:
        with History(self._file) as history:
            while True:
                step = self._step("record", chance)
                say(step)
                history.record_many(step["items"] * 2)
                self._apply(step)
                say({"step": "done"})


class Hiding(HistoryVictim):
    """Deletes without erasing."""

    def work(self, chance: random.Random, say: Say) -> None:
        with History(self._file) as history:
            history._file._writer.execute("PRAGMA secure_delete = OFF")
            while True:
                step = self._step("record", chance)
                say(step)
                history.record(step["items"][0])
                say({"step": "done"})
                say({"step": "clear", "items": []})
                with history._file.writing() as db:
                    db.execute("DELETE FROM events")
                self._model = []
                self._next += 1
                say({"step": "done"})


@pytest.mark.parametrize("victim", [Early, Twice, Hiding])
def test_what_breaks_a_law_is_found(victim: type[HistoryVictim]) -> None:
    with pytest.raises(Broken, match="seed 3"):
        soak([victim("liar", {"record": 1})], kills=40, seed=3)


class Torn(DeltaVictim):
    """Writes the next version over the live one, file by file, as a program that saves copies would."""

    def work(self, chance: random.Random, say: Say) -> None:
        while True:
            number = self._live % VERSIONS + 1
            live = installed(self._into).path
            say({"step": self.name, "to": number})
            for name, data in self._files[number - 1].items():
                (live / name).write_bytes(data)
            self._live = number
            say({"step": "done"})


def test_an_installation_in_pieces_is_found() -> None:
    with pytest.raises(Broken, match="delta"):
        soak([Torn()], kills=60, seed=3)


def test_a_worker_that_ends_is_an_error() -> None:
    class Gone(HistoryVictim):
        def work(self, chance: random.Random, say: Say) -> None:
            raise RuntimeError("no more")

    with pytest.raises(Broken, match="no more"):
        soak([Gone("gone", {"record": 1})], kills=40)


def test_a_page_without_kills_is_a_page() -> None:
    assert page([], 0, 0.0).startswith("# Killed and looked at")
