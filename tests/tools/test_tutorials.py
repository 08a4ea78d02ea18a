"""The tutorials are run as they are read: files written, commands called, code executed, in one directory."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pocketrec.cli import main
from support import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
PAGES = ("build", "embed", "simulate")
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the three pages are followed, one after the other."""
    return tmp_path_factory.mktemp("tutorials")


def command(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a line at the terminal prints; ours are called in this process, which is quicker."""
    words = shlex.split(line)
    if words[0] == "pocketrec":
        with pytest.raises(SystemExit) as left:
            main(words[1:])
        found = capsys.readouterr()
        assert not left.value.code, f"{line}\n{found.err}"
        return found.out
    words[0] = sys.executable if words[0] == "python" else str(shutil.which(words[0]))
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("page", PAGES)
def test_what_the_page_says_works(
    page: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if page != "build" and not (here / "bundle").exists():
        pytest.fail("the page before it did not build the bundle; run the whole file")
    monkeypatch.chdir(here)
    text = (ROOT / "docs" / "tutorials" / f"{page}.md").read_text(encoding="utf-8")
    blocks = BLOCK.findall(text)
    assert len(blocks) == text.count("```") // 2 > 2
    for kind, name, body in blocks:
        if kind == "console":
            for line in body.splitlines():
                assert line.startswith("$ ")
                command(line[2:], capsys)
        elif kind == "python":
            exec(compile(body, f"{page}.md", "exec"), {})
        else:
            assert (kind, name) == ("toml", "recipe.toml")
            (here / name).write_text(body, encoding="utf-8")


def test_what_the_pages_promise_is_there(here: Path) -> None:
    for name in ("bundle/manifest.json", "me.db", "mine.jsonl", "replay/report.html", "diverse/report.md"):
        assert (here / name).exists(), f"{name}: run the whole file"
    assert "A, plain" in (here / "private" / "report.md").read_text(encoding="utf-8")
