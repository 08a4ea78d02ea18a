"""Versions: what is declared, what is pinned, what is installed."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import pocketrec
from support import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
DECLARED = [Requirement(text) for part in (PROJECT["dependencies"], *EXTRAS.values()) for text in part]
PHONES_HOME = Version("1.29")  # the first onnxruntime that reports usage unless told not to


def pins() -> list[Requirement]:
    """The lines of constraints.txt; a package may have one per Python version or platform."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]


def test_onnxruntime_does_not_phone_home() -> None:
    installed = Version(importlib.metadata.version("onnxruntime"))
    assert installed < PHONES_HOME, f"onnxruntime {installed} reports usage by default; take <{PHONES_HOME}"


@pytest.mark.parametrize("version", ["1.29.0", "1.29.1", "1.30.0", "2.0.0"])
def test_no_onnxruntime_that_phones_home_can_be_chosen(version: str) -> None:
    declared = [r for r in DECLARED if canonicalize_name(r.name).startswith("onnxruntime")]
    assert declared
    for requirement in declared:
        assert version not in requirement.specifier, f"{requirement} in pyproject.toml allows {version}"


@pytest.mark.parametrize("requirement", DECLARED, ids=str)
def test_every_requirement_is_pinned_and_installed(requirement: Requirement) -> None:
    name = canonicalize_name(requirement.name)
    pinned = [str(next(iter(pin.specifier)).version) for pin in pins() if canonicalize_name(pin.name) == name]
    assert pinned, f"constraints.txt does not pin {requirement}: make lock"
    for version in pinned:
        assert version in requirement.specifier, f"{version} is pinned, not {requirement}: make lock"
    installed = importlib.metadata.version(requirement.name)
    assert installed in requirement.specifier, f"{requirement.name} {installed} is installed: make setup"


def test_pins_name_exact_versions() -> None:
    for pin in pins():
        assert [s.operator for s in pin.specifier] == ["=="], f"{pin} is no exact version"
        assert pin.url is None


def test_the_version_is_the_same_everywhere() -> None:
    version = PROJECT["version"]
    assert pocketrec.__version__ == version
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    headings = re.findall(r"^## \[?(\S+?)\]?(?: |$)", changelog, flags=re.MULTILINE)
    assert version in headings, f"CHANGELOG.md says nothing of {version}, only of {headings}"
