"""Tiny bundles, one a precision, made once for all tests of the runtime. They are shared: copy one to harm
it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pocketrec.recommender import Recommender
from tiny_bundle import write_tiny_bundle

PRECISIONS = ("fp32", "int8", "int4")


@pytest.fixture(scope="session")
def tiny_bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundle directories by precision."""
    root = tmp_path_factory.mktemp("bundles")
    return {precision: write_tiny_bundle(root / precision, precision) for precision in PRECISIONS}


@pytest.fixture(scope="session")
def tiny_bundle_dir(tiny_bundles: dict[str, Path]) -> Path:
    """The int8 bundle."""
    return tiny_bundles["int8"]


@pytest.fixture
def copy_bundle(tiny_bundle_dir: Path, tmp_path: Path) -> Callable[[], Path]:
    """Makes a copy of the int8 bundle that the test may change."""

    def copy() -> Path:
        return Path(shutil.copytree(tiny_bundle_dir, tmp_path / "copy"))

    return copy


@pytest.fixture(scope="session")
def recommender(tiny_bundle_dir: Path) -> Iterator[Recommender]:
    """A recommender over the int8 bundle on the numpy engine; use its pure functions only."""
    with Recommender.open(tiny_bundle_dir, engine="numpy") as opened:
        yield opened
