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

# All that a bare install brings, looked at for telemetry. A new name fails a test until somebody has looked.
SILENT = {
    "annotated-doc", "annotated-types", "cffi", "charset-normalizer", "cryptography", "filelock",
    "flatbuffers", "fsspec", "idna", "markdown-it-py", "mdurl", "numpy", "onnxruntime", "packaging",
    "protobuf", "pycparser", "pydantic", "pydantic-core", "pygments", "pyyaml", "rich", "safetensors",
    "shellingham", "tokenizers", "tqdm", "typer", "typing-extensions", "typing-inspection", "colorama",
    "mpmath", "sympy", "coloredlogs", "humanfriendly",
}  # fmt: skip
# These talk to hubs when they are used. `tokenizers` asks for them; the runtime never loads them, which
# tests/sdk/test_nothing_leaves.py watches.
NEVER_LOADED = {
    "certifi",
    "hf-xet",
    "huggingface-hub",
    "requests",
    "urllib3",
    "httpx",
    "httpcore",
    "anyio",
    "h11",
}


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


def test_every_package_of_a_bare_install_was_looked_at_for_telemetry() -> None:
    found: set[str] = set()
    todo = [canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]]
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        for text in importlib.metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                todo.append(canonicalize_name(requirement.name))
    assert {"numpy", "onnxruntime", "huggingface-hub"} <= found
    assert found <= SILENT | NEVER_LOADED, f"look whether these report usage: {found - SILENT - NEVER_LOADED}"


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
