"""Golden vectors: histories with the lists that every runtime must give (docs/bundle.md, section 8)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import FailFast, Field, ValidationError, model_validator

from pocketrec.errors import BundleError
from pocketrec.events import HistoryItem, as_events
from pocketrec.manifest import Part, describe_faults, load_json

if TYPE_CHECKING:
    from pocketrec.ranking import Ranking
    from pocketrec.recommender import Recommender

GOLDEN_NAME = "golden.json"
MAX_GOLDEN_BYTES = 16 << 20
MAX_VALUES = 1 << 21
MAX_CASES = 1_000
"""A build writes 32. Each is a run of the graph and a scan, and a stranger chooses how many there are."""

MAX_CASE_EVENTS = 16_384
"""In the history of one case: four times the longest window."""

REPLAY_SECONDS = 120.0
"""What an installation gives the golden vectors: the 32 of amazon-beauty take 0.06 s of a desktop core."""

DEFAULT_TOLERANCE = 0.02


class _First(FailFast):
    """At the first fault, so that a million are not all collected. Hashable, as unions want it."""

    __hash__ = object.__hash__


_Texts = Annotated[tuple[str, ...], _First()]


class Request(Part):
    """What is asked of a runtime in one case."""

    history: Annotated[tuple[tuple[str, str, int | None], ...], _First()]
    k: int = Field(default=10, ge=1, lt=2**31)
    filter_seen: bool = True
    exclude: _Texts = ()
    candidates: _Texts | None = None


class Case(Request):
    """A request and the answer of the `numpy` engine."""

    k: int = Field(ge=1, lt=2**31)
    filter_seen: bool
    exclude: _Texts
    candidates: _Texts | None
    fallback: bool
    items: _Texts
    scores: Annotated[tuple[float, ...], _First()]

    @model_validator(mode="after")
    def _pairs(self) -> Case:
        if len(self.items) != len(self.scores) or len(self.items) > self.k:
            raise ValueError("items and scores must be as many as each other, and at most k")
        return self


class Golden(Part):
    """The whole of `golden.json`."""

    tolerance: float = Field(ge=0, lt=1e6)
    cases: Annotated[tuple[Case, ...], _First()]


@dataclass(frozen=True)
class Mismatch:
    """One way in which a runtime disagrees with a case.

    Attributes:
        case: index of the case.
        reason: `error` (it raised), `fallback`, `count`, `score` (of a rank) or `item` (one that is not near
            the expected last score).
        detail: what was expected and what came.
    """

    case: int
    reason: Literal["error", "fallback", "count", "score", "item"]
    detail: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def parse_golden(data: bytes) -> Golden:
    """The golden vectors in `data`.

    Raises:
        BundleError: `golden-invalid`, they are not what section 8 says; `too-large`, they go beyond a limit
            of section 1; `json-invalid`.
    """
    if len(data) > MAX_GOLDEN_BYTES:
        raise BundleError(
            f"{GOLDEN_NAME} has {len(data)} bytes; at most {MAX_GOLDEN_BYTES} are allowed.", code="too-large"
        )
    # Stricter than pydantic: no duplicate keys. And thriftier: a key too few or too many is found here, since
    # pydantic keeps a copy of the object for each.
    found = load_json(data, GOLDEN_NAME, values=MAX_VALUES)
    _check_keys(found, Golden)
    cases = found["cases"] if isinstance(found["cases"], list) else []
    if len(cases) > MAX_CASES:
        raise _too_large(f"{len(cases)} cases", MAX_CASES)
    for case in cases:
        _check_keys(case, Case)
        if isinstance(case["history"], list) and len(case["history"]) > MAX_CASE_EVENTS:
            raise _too_large(f"a history of {len(case['history'])} events", MAX_CASE_EVENTS)
    try:
        return Golden.model_validate_json(data)
    except ValidationError as error:
        raise _invalid(describe_faults(error, data=data)) from None


def _check_keys(found: object, model: type[Part]) -> None:
    wanted = set(model.model_fields)
    if not isinstance(found, dict) or set(found) != wanted:
        raise _invalid(f"a {model.__name__.lower()} must be an object of {', '.join(sorted(wanted))}")


def _too_large(what: str, limit: int) -> BundleError:
    return BundleError(
        f"{GOLDEN_NAME} holds {what}; at most {limit} are allowed.",
        code="too-large",
        remedy="Build the bundle with fewer.",
    )


def _invalid(what: str) -> BundleError:
    return BundleError(
        f"{GOLDEN_NAME} is invalid: {what}.", code="golden-invalid", remedy="Build the bundle again."
    )


def as_request(history: Iterable[HistoryItem] | Request) -> Request:
    """A request for the ten best of a plain history; a `Request` stays what it is."""
    if isinstance(history, Request):
        return history
    return Request(history=tuple((e.item_id, e.event, e.timestamp) for e in as_events(history)))


def compute_cases(
    recommender: Recommender, requests: Iterable[Iterable[HistoryItem] | Request]
) -> list[Case]:
    """What this recommender answers to each request, as cases; meant for one that runs the `numpy` engine."""
    cases = []
    for request in map(as_request, requests):
        answer = ask(recommender, request)
        cases.append(
            Case(
                **request.model_dump(),
                fallback=answer.fallback,
                items=tuple(item.item_id for item in answer),
                scores=tuple(item.score for item in answer),
            )
        )
    return cases


def largest_difference(recommender: Recommender, cases: Iterable[Case]) -> float:
    """By how much a score is off the expected one of the same rank, at most; infinite where a list is of
    another length, or a fallback when it should not be."""
    largest = 0.0
    for case in cases:
        answer = ask(recommender, case)
        if len(answer) != len(case.items) or answer.fallback != case.fallback:
            return float("inf")
        off = (abs(item.score - want) for item, want in zip(answer, case.scores, strict=True))
        largest = max(largest, *off, 0.0)
    return largest


def ask(
    recommender: Recommender, request: Request, k: int | None = None, deadline: float | None = None
) -> Ranking:
    """The ranking for a request; of `k` items instead of `request.k`; see `Recommender.rank`."""
    return recommender.rank(
        request.history,
        request.k if k is None else k,
        candidates=request.candidates,
        exclude=request.exclude,
        filter_seen=request.filter_seen,
        deadline=deadline,
    )


def replay(recommender: Recommender, golden: Golden, seconds: float | None = None) -> list[Mismatch]:
    """Every way in which the recommender disagrees with the golden vectors; empty when it agrees with all.

    A case that raises is a mismatch too: a runtime that stops is no runtime that agrees.

    Args:
        seconds: that it may take in all; looked at as the deadline of `Recommender.rank` is, so that it may
            end late by one run of the graph. None: no limit.

    Raises:
        StoppedError: `deadline-exceeded`.
    """
    from pocketrec.errors import PocketrecError
    from pocketrec.gate import StoppedError

    found: list[Mismatch] = []
    until = None if seconds is None else time.monotonic() + seconds
    for index, case in enumerate(golden.cases):
        try:
            # One item more than expected tells a list that is too long, and a stranger's `k` makes none of a
            # million.
            k = min(case.k, len(case.items) + 1)
            answer = ask(recommender, case, k, None if until is None else until - time.monotonic())
        except StoppedError:
            raise StoppedError(
                f"{index} of {len(golden.cases)} golden vectors were replayed in {seconds:g} seconds.",
                code="deadline-exceeded",
                remedy="Give them more time, or use a faster engine.",
            ) from None
        except PocketrecError as error:
            found.append(Mismatch(index, "error", f"{error.code}: {error}"))
            continue
        if answer.fallback != case.fallback:
            found.append(Mismatch(index, "fallback", f"expected {case.fallback}, got {answer.fallback}"))
        ranked = [(item.item_id, item.score) for item in answer]
        found += [Mismatch(index, *fault) for fault in disagreements(case, ranked, golden.tolerance)]
    return found


def disagreements(
    case: Case, ranked: Sequence[tuple[str, float]], tolerance: float
) -> list[tuple[Literal["count", "score", "item"], str]]:
    """The agreement rule of section 8 for one list of (item id, score), best first."""
    if len(ranked) != len(case.items):
        more = " or more" if len(ranked) == len(case.items) + 1 else ""  # `replay` asks for no more
        return [("count", f"expected {len(case.items)} items, got {len(ranked)}{more}")]
    found: list[tuple[Literal["count", "score", "item"], str]] = []
    expected = set(case.items)
    for rank, ((item, score), want) in enumerate(zip(ranked, case.scores, strict=True)):
        if not abs(score - want) <= tolerance:
            found.append(("score", f"rank {rank + 1}: expected {want:.6g}, got {score:.6g} ({item})"))
        if item not in expected and not abs(score - case.scores[-1]) <= tolerance:
            found.append(
                (
                    "item",
                    f"rank {rank + 1}: {item} ({score:.6g}) is not among the expected, whose last has "
                    f"{case.scores[-1]:.6g}",
                )
            )
    return found
