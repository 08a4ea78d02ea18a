"""A small world for tests of DuoKD, and the whole loss again, in loops over plain numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from pocketrec_export.cache import TeacherBatch
from pocketrec_export.config import DuoKDConfig
from pocketrec_export.known import KnownItems
from pocketrec_export.losses import Candidates

ITEMS, CACHED = 20, 7


@dataclass
class World:
    """Users with repeats in their histories, a student's scores and a teacher's lists, all at random."""

    offsets: np.ndarray
    events: np.ndarray
    index: np.ndarray
    scores: dict[tuple[int, int], float]
    scored: list[int]
    drawn: list[int]
    candidates: Candidates
    teacher: TeacherBatch
    known: KnownItems
    users: torch.Tensor

    @property
    def positions(self) -> range:
        return range(len(self.index))

    def user(self, p: int) -> int:
        return next(u for u in range(len(self.offsets)) if self.index[p] < self.offsets[u + 1])

    def target(self, p: int) -> int:
        return int(self.events[self.index[p] + 1])

    def had(self, p: int) -> set[int]:
        return set(self.events[self.offsets[self.user(p)] : self.index[p] + 1].tolist())

    def trained(self, p: int) -> set[int]:
        user = self.user(p)
        return set(self.events[self.offsets[user] : self.offsets[user + 1]].tolist())

    def teacher_list(self, p: int) -> list[int]:
        return [item for item in self.teacher.ids[p].tolist() if item >= 0]

    def items_of(self, columns: torch.Tensor) -> list[int]:
        return self.candidates.items[columns].tolist()


def make_world(seed: int, complete: bool = True, requires_grad: bool = False) -> World:
    """A world of three users; with `complete` every item is scored, else some of them."""
    rng = np.random.default_rng(seed)
    offsets = np.r_[0, np.cumsum(rng.integers(2, 7, 3))]
    events = rng.integers(0, ITEMS, offsets[-1])
    index = np.setdiff1d(np.arange(len(events)), offsets[1:] - 1)
    rng.shuffle(index)
    users = np.searchsorted(offsets, index, side="right") - 1
    targets = events[index + 1]

    ids = np.full((len(index), CACHED), -1)
    log_probs = np.zeros((len(index), CACHED), np.float32)
    rank, target_log_prob = np.zeros(len(index), np.int64), np.zeros(len(index), np.float32)
    for p, event in enumerate(index):
        if rng.random() < 0.1:
            continue  # a teacher may have nothing to say
        logit = rng.normal(0, 2, ITEMS)
        filtered = np.setdiff1d(events[offsets[users[p]] : event + 1], targets[p])
        if rng.random() < 0.2:
            filtered = filtered[:0]  # a careless teacher's lists hold what the user had
        logit[filtered] = -np.inf
        log_prob = logit - np.log(np.exp(logit).sum())
        order = np.argsort(-log_prob)[: min(int(rng.integers(1, CACHED + 1)), ITEMS - len(filtered))]
        ids[p, : len(order)], log_probs[p, : len(order)] = order, log_prob[order].astype(np.float16)
        rank[p] = 1 + (log_prob > log_prob[targets[p]]).sum()
        target_log_prob[p] = log_prob[targets[p]]
    teacher = TeacherBatch(*(torch.from_numpy(a) for a in (index, ids, log_probs, rank, target_log_prob)))

    drawn = np.arange(ITEMS) if complete else rng.integers(0, ITEMS, 6)
    scored = np.unique(np.concatenate([drawn, targets, events[index], ids[ids >= 0]]))
    if not complete and rng.random() < 0.5:  # items beyond the K that take part may be absent
        scored = np.unique(np.concatenate([drawn, targets, events[index], ids[:, :3][ids[:, :3] >= 0]]))
    values = rng.normal(0, 2, (len(index), len(scored))).astype(np.float32)
    candidates = Candidates(
        items=torch.from_numpy(scored),
        scores=torch.from_numpy(values.copy()).requires_grad_(requires_grad),
        targets=torch.from_numpy(np.searchsorted(scored, targets)),
        negatives=torch.from_numpy(np.searchsorted(scored, drawn)),
        complete=complete,
    )
    scores = {(p, int(i)): float(values[p, c]) for p in range(len(index)) for c, i in enumerate(scored)}
    return World(
        offsets, events, index, scores, scored.tolist(), drawn.tolist(), candidates, teacher,
        KnownItems.from_histories(offsets, events, ITEMS), torch.from_numpy(users),
    )  # fmt: skip


def student_order(world: World, p: int) -> list[int]:
    """Scored items that are not filtered, best first."""
    left = [i for i in world.scored if i == world.target(p) or i not in world.had(p)]
    return sorted(left, key=lambda item: -world.scores[p, item])


def student_rank(world: World, p: int, item: int) -> int:
    """Its place among the scored items, or what the uniform draws say, whichever is larger."""
    better = student_order(world, p)
    better = better[: better.index(item)]
    hits = sum(drawn in better for drawn in world.drawn)
    return 1 + max(len(better), round(ITEMS / len(world.drawn) * hits))


def teacher_rank(world: World, p: int, item: int) -> int:
    named = world.teacher_list(p)
    return named.index(item) + 1 if item in named else CACHED + 1


def teacher_log_prob(world: World, p: int, item: int) -> float:
    named = world.teacher_list(p)
    if not named:
        return 0.0
    return float(world.teacher.log_probs[p, named.index(item) if item in named else len(named) - 1])


def target_log_prob(world: World, p: int) -> float:
    if world.target(p) in world.teacher_list(p):
        return teacher_log_prob(world, p, world.target(p))
    return float(world.teacher.target_log_prob[p])


def rho(world: World, p: int, config: DuoKDConfig) -> float:
    r_t = int(world.teacher.target_rank[p])
    r_s = student_rank(world, p, world.target(p))
    if r_t == 0:
        return 0.0
    if not config.reliability:
        return 1.0
    if r_s > r_t:
        return min(max(1 + (r_s - r_t) / max(r_t, 1), 0), 2)
    return min(max(1 - (r_t - r_s) / max(r_s, 1), 0), 2)


def positives(world: World, p: int, config: DuoKDConfig) -> list[int]:
    top = world.teacher_list(p)[: config.top_k]
    target = world.target(p)
    return [target] + [i for i in top if i != target and i not in world.had(p)]


def positive_weights(world: World, p: int, config: DuoKDConfig) -> list[float]:
    chosen, target = positives(world, p, config), world.target(p)
    liked = [i for i in student_order(world, p)[: config.top_k] if student_rank(world, p, i) <= config.top_k]
    log_prob = [target_log_prob(world, p) if i == target else teacher_log_prob(world, p, i) for i in chosen]
    mass = sum(math.exp(value) for value in log_prob)
    weights = []
    for item, value in zip(chosen, log_prob, strict=True):
        rank = int(world.teacher.target_rank[p]) if item == target else teacher_rank(world, p, item)
        weights.append(
            config.gamma_position * math.exp(-rank / config.beta)
            + config.gamma_confidence * math.exp(value) / mass
            + config.gamma_overlap * (item in liked)
        )
    total = sum(weights)
    return [w / total for w in weights] if total > 0 else [1 / len(weights)] * len(weights)


def may_be_negative(world: World, p: int, item: int, config: DuoKDConfig) -> bool:
    named = world.teacher_list(p)
    near = item in named and teacher_log_prob(world, p, item) > target_log_prob(world, p) - config.guard
    return (
        item not in world.trained(p)
        and item != world.target(p)
        and item not in named[: config.top_k]
        and not near
    )


def overrated(world: World, p: int, config: DuoKDConfig) -> set[int]:
    """Every item that may be drawn as over-rated."""
    liked = student_order(world, p)[: config.student_top]
    return {
        i
        for i in liked
        if may_be_negative(world, p, i, config) and teacher_rank(world, p, i) > student_rank(world, p, i)
    }


def losses(world: World, p: int, negatives: list[int], config: DuoKDConfig) -> tuple[float, float]:
    """(L_pos, L_neg) with these negatives."""
    z = {i: world.scores[p, i] for i in world.scored}
    chosen, target = positives(world, p, config), world.target(p)
    positive = 0.0
    for k, weight in enumerate(positive_weights(world, p, config)):
        below = sum(math.exp(z[i]) for i in chosen[k:]) + sum(math.exp(z[n]) for n in negatives)
        if config.positives == "list":
            below = sum(math.exp(value) for value in z.values())
        positive -= weight * (z[chosen[k]] - math.log(below))
    total = 1.0
    for n in negatives:
        gap = target_log_prob(world, p) - teacher_log_prob(world, p, n)
        margin = config.margin * min(max(gap, 0), config.margin_cap)
        total += math.exp(config.beta_negative * (z[n] - z[target] + margin))
    return positive, math.log(total)
