"""A blend is the weighted sum of log-probabilities, and fitting finds who knows what."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pocketrec_export.batches import Histories
from pocketrec_export.ensemble import Ensemble, Evidence, fit_weights, gather_evidence
from pocketrec_export.metrics import Metrics, pessimistic_rank
from pocketrec_export.teachers import Positions

ITEMS, USERS = 60, 300


class Noisy:
    """Knows the target of some of the users, and otherwise says what its seed says."""

    def __init__(self, name: str, seed: int, knows: float) -> None:
        self.name, self.items = name, ITEMS
        rng = np.random.default_rng(seed)
        self._scores = rng.normal(size=(USERS, ITEMS)).astype(np.float32)
        self._lift = (rng.random(USERS) < knows) * 3.0

    def log_probs(self, positions: Positions) -> Tensor:
        """float32 [m, items]."""
        scores = self._scores[positions.users].copy()
        scores[np.arange(len(positions)), positions.targets] += self._lift[positions.users]
        return torch.log_softmax(torch.from_numpy(scores), 1)


@pytest.fixture(scope="module")
def positions() -> Positions:
    rng = np.random.default_rng(0)
    items = np.concatenate([rng.choice(ITEMS, 4, replace=False) for _ in range(USERS)])
    offsets = np.arange(USERS + 1) * 4
    zeros = np.zeros(len(items), np.int64)
    histories = Histories(offsets, items.astype(np.int32), zeros, zeros)
    three = np.full(USERS, 3)
    return Positions(histories, offsets[:-1], three, three - 1)


def ranks(ensemble: Ensemble, positions: Positions) -> np.ndarray:
    seen = [positions.histories.items[s : s + 3] for s in positions.start]
    return pessimistic_rank(ensemble.log_probs(positions).numpy(), positions.targets, seen)


def test_a_blend_is_the_weighted_sum(positions: Positions) -> None:
    one, two = Noisy("one", 1, 0.5), Noisy("two", 2, 0.5)
    said = Ensemble([one, two], [0.7, 1.9]).log_probs(positions)
    wanted = torch.log_softmax(0.7 * one.log_probs(positions) + 1.9 * two.log_probs(positions), 1)
    assert torch.allclose(said, wanted, atol=1e-5)
    alone = Ensemble([one, two], [1.0, 0.0])
    assert torch.allclose(alone.log_probs(positions), one.log_probs(positions), atol=1e-5)
    assert alone.name == "1 one"


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0], [1.0, -0.1]])
def test_weights_that_make_no_sense(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        Ensemble([Noisy("one", 1, 0.5), Noisy("two", 2, 0.5)], weights)


def test_evidence_gives_the_metrics_of_the_whole_catalogue(positions: Positions) -> None:
    rankers = [Noisy("one", 1, 0.4), Noisy("two", 2, 0.6)]
    evidence = gather_evidence(rankers, positions)
    for weights in ([1.0, 0.0], [0.3, 0.9]):
        truth = Metrics.from_ranks(ranks(Ensemble(rankers, weights), positions))
        assert evidence.metrics(weights).ndcg == pytest.approx(truth.ndcg, abs=1e-12)
        assert evidence.metrics(weights).hr == truth.hr


def test_evidence_comes_in_chunks_of_any_size(positions: Positions, monkeypatch: pytest.MonkeyPatch) -> None:
    rankers = [Noisy("one", 1, 0.4), Noisy("two", 2, 0.6)]
    whole = gather_evidence(rankers, positions)
    monkeypatch.setattr("pocketrec_export.ensemble.CHUNK_BYTES", 4 * ITEMS * 3 * 7)
    parts = gather_evidence(rankers, positions)
    assert parts.metrics([1.0, 2.0]) == whole.metrics([1.0, 2.0])
    assert parts.loss([1.0, 2.0]) == pytest.approx(whole.loss([1.0, 2.0]))


def test_fitting_beats_every_member_and_leaves_out_who_knows_nothing(positions: Positions) -> None:
    rankers = [Noisy("some", 1, 0.5), Noisy("others", 2, 0.5), Noisy("nothing", 3, 0.0)]
    evidence = gather_evidence(rankers, positions)
    weights = fit_weights(evidence)
    blended = evidence.metrics(weights).ndcg
    assert all(blended > 1.1 * evidence.metrics(np.eye(3)[i]).ndcg for i in range(3))
    assert weights[2] < 0.3 * min(weights[0], weights[1])
    # The scale is the likelihood's: neither sharper nor flatter would fit better.
    assert evidence.loss(weights) <= min(evidence.loss(weights * 1.1), evidence.loss(weights * 0.9)) + 1e-6


def test_a_target_that_was_met_is_no_evidence(positions: Positions) -> None:
    histories = positions.histories
    items = histories.items.copy()
    items[3] = items[0]
    repeated = Histories(histories.offsets, items, histories.events, histories.gaps)
    again = Positions(repeated, positions.start, positions.size, positions.skip)
    evidence: Evidence = gather_evidence([Noisy("one", 1, 0.5)], again)
    assert evidence.log_count.shape[0] == USERS - 1


def test_the_likelihood_is_that_over_the_whole_catalogue(
    positions: Positions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where most of the catalogue is in no head; else fitted probabilities would be far too flat."""
    monkeypatch.setattr("pocketrec_export.ensemble.HEAD", 5)
    rankers = [Noisy("one", 1, 0.4), Noisy("two", 2, 0.6)]
    evidence = gather_evidence(rankers, positions)
    met = np.zeros((USERS, ITEMS), bool)
    met[positions.met()] = True
    for weights in ([1.0, 0.5], [0.1, 3.0]):
        blended = sum(w * r.log_probs(positions) for w, r in zip(weights, rankers, strict=True))
        assert isinstance(blended, Tensor)
        scores = blended.masked_fill(torch.from_numpy(met), -torch.inf)
        truth = torch.log_softmax(scores, 1)[torch.arange(USERS), torch.from_numpy(positions.targets)]
        assert evidence.loss(weights) == pytest.approx(-float(truth.mean()), rel=0.01)


def test_the_scale_is_found_again(positions: Positions) -> None:
    """Targets drawn from a ranker's own probabilities: its weight is 1."""
    rng = np.random.default_rng(5)
    scores = rng.normal(scale=2, size=(USERS, ITEMS))

    class Sure:
        name, items = "sure", ITEMS

        def log_probs(self, positions: Positions) -> Tensor:
            """float32 [m, items]."""
            return torch.log_softmax(torch.from_numpy(scores[positions.users]).float(), 1)

    items = positions.histories.items.copy()
    for user in range(USERS):
        free = np.setdiff1d(np.arange(ITEMS), items[4 * user : 4 * user + 3])
        share = np.exp(scores[user, free])
        items[4 * user + 3] = rng.choice(free, p=share / share.sum())
    histories = Histories(positions.histories.offsets, items, positions.histories.events, items * 0)
    drawn = Positions(histories, positions.start, positions.size, positions.skip)
    weights = fit_weights(gather_evidence([Sure()], drawn))
    assert weights[0] == pytest.approx(1.0, abs=0.15)
