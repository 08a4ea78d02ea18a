"""What tests share: where data and tools are, and how a test says that it cannot run here.

A test that cannot run is skipped at a desk and fails in continuous integration (`POCKETREC_CI=1`), where
everything it could want is installed by the repository's own files. Two skips are accepted there: the
research data beside the checkout is absent, or the test makes no sense on this platform.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = Path(os.environ.get("POCKETREC_SHARED_DATA") or ROOT.parent / "shared" / "data")
IN_CI = os.environ.get("POCKETREC_CI", "") not in ("", "0")


class AcceptedSkip(pytest.skip.Exception):  # type: ignore[name-defined]
    """A skip that stays a skip in continuous integration."""


def shared_data(name: str) -> Path:
    """The data directory `name` (such as `ml-100k`) of the research data; skips when it is absent."""
    path = SHARED_DATA / name
    if not path.is_dir():
        raise AcceptedSkip(f"the data set {path} is absent; POCKETREC_SHARED_DATA names another folder")
    return path


def not_applicable(reason: str) -> None:
    """Skip, in continuous integration too: the test makes no sense here, whatever one installs."""
    raise AcceptedSkip(f"not applicable: {reason}")


def require_tool(name: str, how_to_install: str) -> Path:
    """The path of the command `name`; skips (in continuous integration: fails) when it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"the command {name} is missing; {how_to_install}")
    return Path(found)


def require_package(name: str, how_to_install: str = "make setup") -> None:
    """Skip (in continuous integration: fail) when the Python package `name` is not installed."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"the package {name} is missing; {how_to_install}")


def refused_in_ci(excinfo: pytest.ExceptionInfo[BaseException] | None) -> bool:
    """Whether what ended a test is a skip that continuous integration must not pass over."""
    if not IN_CI or excinfo is None:
        return False
    return isinstance(excinfo.value, pytest.skip.Exception) and not isinstance(excinfo.value, AcceptedSkip)
