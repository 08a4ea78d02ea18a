"""The generated pages say what the code says; `make docs` writes them anew."""

from __future__ import annotations

import re
from pathlib import Path

import pocketrec
from pocketrec.cli import VERBS
from pocketrec_tools.reference import api_page, cli_page, write
from support import ROOT

STALE = "the page is stale: run make docs"


def test_the_command_line_page_is_that_of_today() -> None:
    assert (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8") == cli_page(), STALE


def test_the_page_of_python_names_is_that_of_today() -> None:
    assert (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8") == api_page(), STALE


def test_every_verb_option_and_name_is_there() -> None:
    cli, api = cli_page(), api_page()
    for name in VERBS:
        assert f"\n## `{name}`\n" in cli
    for option in ("`--from DATE`", "`-k N`", "`--json`", "`--split test\\|validation`", "`BUNDLE\\|RUN`"):
        assert option in cli
    assert "Default: `0`" in cli
    for name in set(pocketrec.__all__) - {"__version__"}:
        assert f"\n## `{name}`\n" in api
    for line in ("### `Recommender.recommend`", "path: str | Path = ':memory:'", "- `k`: at least 1;"):
        assert line in api
    assert not re.search(r"<(function|object|built-in)", api)


def test_writing_leaves_whole_files(tmp_path: Path) -> None:
    made = write(tmp_path / "new" / "reference")
    assert {file.name for file in made} == {file.name for file in (tmp_path / "new" / "reference").iterdir()}
