"""What the tests of DuoKD draw from, and the loss of a whole small world."""

from __future__ import annotations

import torch
from duokd_world import (
    ITEMS,
    World,
)
from hypothesis import strategies as st
from torch import Tensor

from pocketrec_export.config import DuoKDConfig
from pocketrec_export.duokd import DuoKDTerms, duokd_loss
from pocketrec_export.extraction import Extraction, Negatives
from pocketrec_export.student_ranks import student_ranks

SEEDS = st.integers(0, 2**32 - 1)
CONFIGS = st.builds(
    DuoKDConfig,
    positives=st.sampled_from(["ranking", "list"]),
    top_k=st.integers(1, 3),
    negatives=st.integers(0, 12),
    student_top=st.integers(1, ITEMS),
    beta=st.floats(0.2, 5),
    beta_negative=st.floats(0.2, 3),
    gamma_position=st.sampled_from([0.0, 0.3]),
    gamma_confidence=st.sampled_from([0.0, 0.5]),
    gamma_overlap=st.sampled_from([0.0, 0.1]),
    epsilon=st.floats(0.01, 2),
    margin=st.floats(0, 1),
    margin_cap=st.floats(0, 3),
    guard=st.sampled_from([0.0, 0.3, 2.0]),
    lambda_positive=st.floats(0, 1),
    lambda_negative=st.floats(0, 1),
    reliability=st.booleans(),
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def extract(world: World, config: DuoKDConfig) -> Extraction:
    ranks = student_ranks(
        world.candidates, world.known, world.users, world.teacher.index, max(config.student_top, config.top_k)
    )
    return Extraction(world.candidates, world.teacher, world.known, world.users, ranks, config)


def loss_of(world: World, config: DuoKDConfig, seed: int = 0) -> DuoKDTerms:
    return duokd_loss(world.candidates, world.teacher, world.known, world.users, config, seeded(seed))


def chosen_items(world: World, negatives: Negatives, p: int) -> list[int]:
    return world.items_of(negatives.columns[p][negatives.mask[p]])


SCORES = st.floats(-30, 30, width=32)


@st.composite
def one_position(draw: st.DrawFn) -> dict[str, Tensor]:
    """Scores, weights, masks and margins of one position, as [1, …]."""
    width, m = draw(st.integers(1, 5)), draw(st.integers(0, 6))

    def floats(n: int, strategy: st.SearchStrategy[float]) -> Tensor:
        return torch.tensor(draw(st.lists(strategy, min_size=n, max_size=n))).reshape(1, n)

    mask = floats(width, st.booleans()).bool()
    mask[0, 0] = True
    weights = floats(width, st.floats(1 / 64, 1, width=32)) * mask
    return {
        "scores": floats(width, SCORES),
        "weights": weights / weights.sum(),
        "mask": mask,
        "negatives": floats(m, SCORES),
        "negative_mask": floats(m, st.booleans()).bool(),
        "margins": floats(m, st.floats(0, 2, width=32)),
    }
