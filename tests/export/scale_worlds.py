"""A world in which the next item is certain, and a small student of it, for tests of training at scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pocketrec_export.config import TrainingConfig
from pocketrec_export.data import load_dataset
from pocketrec_export.model import Material
from pocketrec_export.student import Shape, Student
from pocketrec_export.training import TrainingResult, train

SHAPE = Shape(dim=32, layers=1, heads=2, kv_heads=1, intermediate=64, vocab=100)
ITEMS = 40


def circle(directory: Path, users: int = 120, items: int = ITEMS) -> Material:
    """Users who walk round a circle of items, each from a place of their own."""
    lines = ["user_id,item_id,timestamp"]
    lines += [
        f"u{u},i{(u * 7 + t) % items},{1_600_000_000 + t * 90}" for u in range(users) for t in range(12)
    ]
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "interactions.csv").write_text("\n".join(lines) + "\n")
    return Material(load_dataset(directory), 100)


def settings(**changes: object) -> TrainingConfig:
    """A recipe that takes seconds."""
    values = {"epochs": 2, "positions": 256, "warmup_steps": 5, "mixed_precision": "no", **changes}
    return TrainingConfig.model_validate(values)


def student_of(material: Material, dropout: float = 0.1) -> Student:
    return material.model(
        SHAPE, length=8, seed=0, kappa=2.0, recency_heads=4, input_dropout=dropout, hidden_dropout=dropout
    )


def trained(
    material: Material, config: TrainingConfig, state: Path, *, dropout: float = 0.1, **options: Any
) -> tuple[dict[str, torch.Tensor], TrainingResult]:
    """The weights after training, and its result."""
    model = student_of(material, dropout)
    histories, ranker = material.histories, material.ranker
    result = train(model, histories, ranker, config, seed=0, state_file=state, label="test", **options)
    return model.state_dict(), result
