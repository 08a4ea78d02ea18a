"""What the tests of the build side share: a small shop, and a student of it."""

from __future__ import annotations

from pathlib import Path

import pytest

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
            "teacher": {"dim": 64, "layers": 1, "heads": 2, "top_k": 30},
        }
    )
