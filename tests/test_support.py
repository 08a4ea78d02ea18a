"""A skip for want of something fails in continuous integration, and only there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT

CASES = """
import pytest
from support import not_applicable, require_package, require_tool, shared_data

def test_tool(): require_tool("no-such-command", "there is none")
def test_package(): require_package("no_such_package")
@pytest.mark.skip(reason="some day")
def test_mark(): pass
def test_data(): shared_data("no-such-data")
def test_platform(): not_applicable("other planets only")
@pytest.mark.xfail(reason="known", strict=True)
def test_known(): assert False
def test_fixture(shared_data): shared_data("no-such-data")
"""


@pytest.mark.parametrize(
    ("ci", "closing"),
    [("1", "2 failed, 3 skipped, 1 xfailed, 2 errors"), ("", "7 skipped, 1 xfailed")],
    ids=["ci", "desk"],
)
def test_skips_in_ci(tmp_path: Path, ci: str, closing: str) -> None:
    for name in ("conftest.py", "support.py"):
        shutil.copy(ROOT / "tests" / name, tmp_path)
    (tmp_path / "test_cases.py").write_text(CASES)
    (tmp_path / "test_module.py").write_text("import pytest\npytest.importorskip('no_such_package')\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    options = "-q -p no:cacheprovider -p no:xdist --continue-on-collection-errors"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options.split()],
        check=False,
        cwd=tmp_path,
        env={**os.environ, "POCKETREC_CI": ci, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert closing in run.stdout.splitlines()[-1], run.stdout + run.stderr
    assert (run.returncode != 0) == (ci == "1")
