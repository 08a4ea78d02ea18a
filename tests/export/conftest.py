"""What the tests of the build side share: a small shop, and a student of it."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from small_data import GOOD, Content

from pocketrec_export.config import BuildConfig
from pocketrec_tools.demo_data import make_demo_data


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory of 150 users and 120 items."""
    return make_demo_data(tmp_path_factory.mktemp("shop") / "data", seed=3, users=150, items=120)


@pytest.fixture(scope="session")
def quick() -> BuildConfig:
    """A recipe that takes seconds."""
    return BuildConfig.model_validate(
        {
            "seed": 5,
            "student": {"size": "tiny", "length": 8},
            "training": {"epochs": 2, "positions": 256, "warmup_steps": 5, "mixed_precision": "no"},
            "teacher": {"size": "tiny", "dropouts": [0.1, 0.3], "top_k": 30},
        }
    )


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """`write(interactions, items, **files)`: a data directory; items_csv_gz and the like name other files."""

    def put(interactions: Content | None = GOOD, items: Content | None = None, **files: Content) -> Path:
        everything: dict[str, Content | None] = {"interactions.csv": interactions, "items.csv": items}
        everything |= {name.replace("_", "."): content for name, content in files.items()}
        for name, content in everything.items():
            if isinstance(content, pl.DataFrame):
                content.write_parquet(tmp_path / name)
            elif content is not None:
                raw = content.encode() if isinstance(content, str) else content
                (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
        return tmp_path

    return put
