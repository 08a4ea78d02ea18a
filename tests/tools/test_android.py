"""The Kotlin engine, by Maven, on bundles made here: golden vectors, hostile corpus, its own tests, pages."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from android_bundles import EVENTS, write_all
from android_snippets import write_snippets
from pocketrec.events import Event
from pocketrec.history import History
from pocketrec.history_schema import MIGRATIONS
from support import ROOT, require_tool

SCHEMA = sorted(sql for statements in MIGRATIONS for sql in statements if sql.startswith("CREATE"))


@pytest.mark.timeout(1200)  # two compilations of Kotlin, on a machine that may be busy
def test_kotlin_gives_the_answers_that_bundles_ask_for(tmp_path: Path) -> None:
    mvn = require_tool("mvn", "apt-get install maven openjdk-17-jdk-headless")
    write_all(tmp_path / "bundles")
    assert write_snippets(tmp_path / "snippets") >= 3
    command = [
        str(mvn), "--batch-mode", "-Dstyle.color=never", "-Dkotlin.compiler.daemon=false",
        f"-Dpocketrec.bundles={tmp_path / 'bundles'}", "-Psnippets",
        f"-Dpocketrec.snippets={tmp_path / 'snippets'}", "test",
    ]  # fmt: skip
    environment = {**os.environ, "MAVEN_OPTS": "-Xmx1g -XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}
    ran = subprocess.run(
        command, cwd=ROOT / "android_demo", env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
    totals = re.findall(r"Tests run: (\d+), Failures: 0, Errors: 0, Skipped: (\d+)\n", ran.stdout)
    assert sum(int(count) for count, _ in totals) > 100, ran.stdout[-2000:]
    assert all(skipped == "0" for _, skipped in totals), ran.stdout[-4000:]
    check_histories(tmp_path / "bundles" / "history" / "kotlin")


def check_histories(folder: Path) -> None:
    """What HistoryTest.kt made of the files that Python wrote, and a file of its own."""
    added = Event("from Kotlin", "buy", 7)
    for name in ("version-1.db", "version-2.db", "opted-out.db", "new.db"):
        before = (folder / name).read_bytes()
        assert EVENTS[0].item_id.encode() not in before or name == "new.db"
        with History(folder / name, create=False) as history:
            assert history.events() == (list(EVENTS) if name == "new.db" else [*EVENTS[1:], added]), name
            assert history.recording
            assert not history.erasure_pending
            with closing(sqlite3.connect(folder / name)) as db:
                schema = [row[0] for row in db.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL")]
                assert sorted(sql for sql in schema if "sqlite_sequence" not in sql) == SCHEMA


@pytest.mark.parametrize(
    ("page", "test"), [("android_demo/README.md", "ReadmeTest.kt"), ("docs/android.md", "UpdateTest.kt")]
)
def test_what_the_pages_show_is_what_is_run(page: str, test: str) -> None:
    """Some block of Kotlin of the page stands in the test, line by line."""
    blocks = (ROOT / page).read_text("utf-8").split("```kotlin\n")[1:]
    source = (ROOT / "android_demo/engine/src/test/kotlin/pocketrec" / test).read_text("utf-8")
    lines = {line.strip() for line in source.splitlines()}
    shown = [[line.strip() for line in block.split("```")[0].splitlines()] for block in blocks]
    assert any(len(block) >= 3 and lines.issuperset(block) for block in shown)
