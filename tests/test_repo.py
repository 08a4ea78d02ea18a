"""The files of the repository: text that opens anywhere, links that resolve, nothing of one machine."""

from __future__ import annotations

import functools
import re
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest

from support import ROOT, require_tool

MOST_LINES = 400
SOURCES = {".py", ".kt", ".kts", ".java", ".js", ".ts", ".css", ".sh"}
BINARY = {
    ".png", ".jpg", ".gif", ".webp", ".jar", ".gz", ".zip", ".parquet", ".bin", ".npz", ".pte", ".onnx",
    ".safetensors",
}  # fmt: skip

# Written in pieces, so that this file does not match itself.
OF_ONE_MACHINE = [
    "/" + "work/", "/" + "tmp/", "/" + "root/", "/" + "home/", "/" + "Users/", "/" + "opt/",
    "index" + "-url", "pythonhosted" + ".org", "pypi" + ".org/simple", "registry" + ".npmjs",
    "repo1" + ".maven", "trusted" + "-host",
]  # fmt: skip
SAID_ON_PURPOSE = {
    # (file, pattern): the option that keeps the index out of the constraints.
    ("Makefile", "index" + "-url"),
}


@functools.cache
def tracked() -> tuple[Path, ...]:
    """The files under version control that exist in the working tree."""
    git = require_tool("git", "apt-get install git")
    if not (ROOT / ".git").exists():
        pytest.skip(f"{ROOT} is no git checkout")
    command = [str(git), "-c", f"safe.directory={ROOT}", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return tuple(path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file())


def texts() -> list[tuple[str, str]]:
    """(name relative to the root, contents) of the tracked text files; fails on one that is no UTF-8."""
    found = []
    for path in tracked():
        if path.suffix not in BINARY:
            name = path.relative_to(ROOT).as_posix()
            try:
                found.append((name, path.read_bytes().decode("utf-8")))
            except UnicodeDecodeError as error:
                pytest.fail(f"{name} is no UTF-8: {error}")
    assert found
    return found


def test_text_is_utf8_with_plain_line_ends() -> None:
    wrong = [name for name, text in texts() if "\r" in text or text.startswith("\ufeff")]
    assert not wrong, f"carriage returns or a byte-order mark in {wrong}"


def test_text_ends_with_one_newline() -> None:
    wrong = [name for name, text in texts() if text and (not text.endswith("\n") or text.endswith("\n\n"))]
    assert not wrong, f"no newline, or more than one, at the end of {wrong}"


def test_nothing_of_one_machine() -> None:
    wrong = [
        f"{name}:{number} has {pattern}"
        for name, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        for pattern in OF_ONE_MACHINE
        if pattern in line and (name, pattern) not in SAID_ON_PURPOSE
    ]
    assert not wrong, "\n".join(wrong)


def test_source_files_stay_short() -> None:
    lines = {name: text.count("\n") for name, text in texts() if Path(name).suffix in SOURCES}
    long = {name: count for name, count in lines.items() if count > MOST_LINES}
    assert not long, f"over {MOST_LINES} lines, to be split: {long}"


LINK = re.compile(
    r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|^\s*\[[^\]]+\]:\s*(\S+)", re.MULTILINE
)
CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """The fragments that headings of a Markdown page get, as GitHub makes them."""
    prose = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#{1,6}\s+(.+?)\s*#*$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_in_the_pages_resolve() -> None:
    pages = {name: text for name, text in texts() if name.endswith(".md")}
    assert "README.md" in pages
    wrong = []
    for name, text in pages.items():
        for match in LINK.finditer(CODE.sub("", text)):
            target = match[1] or match[2]
            if re.match(r"[a-z][a-z0-9+.-]*:", target):  # http:, mailto:
                continue
            file, _, fragment = unquote(target).partition("#")
            path = (ROOT / name).parent / file if file else ROOT / name
            if not path.exists():
                wrong.append(f"{name} links to {target}, which is not there")
            elif fragment and path.suffix == ".md" and fragment not in anchors(path.read_text("utf-8")):
                wrong.append(f"{name} links to {target}, which has no such heading")
    assert not wrong, "\n".join(wrong)
