"""What a simulation is asked for: whose events, which arms, under which conditions."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pocketrec.errors import DataError
from pocketrec.history import MAX_EVENTS

DAY = 86_400


class Policies(BaseModel):
    """What an app may do with a list before it shows it; the default does nothing.

    Attributes:
        mmr: weight of relevance in a re-rank by maximal marginal relevance, 0 to 1; None: no re-rank.
        explore: chance that a slot shows a random unseen item instead.
        only: (column, value) pairs of display columns; an item has to match each.
        without: (column, value) pairs; an item that matches one is never shown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mmr: float | None = Field(None, ge=0, le=1)
    explore: float = Field(0.0, ge=0, le=1)
    only: tuple[tuple[str, str], ...] = ()
    without: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        return self != Policies()


class Conditions(BaseModel):
    """How one arm's phones differ from plain ones; the default is a plain phone.

    Attributes:
        policies: applied to every list.
        update: a bundle that replaces the first one at `update_at`, Unix seconds; the history stays.
        keep_events: how many events a phone stores.
        keep_days: for how many days it stores them, by the phone's own clock; None: without end.
        opt_outs: share of people who do not let their phone record.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    policies: Policies = Policies()
    update: Path | None = None
    update_at: int | None = None
    keep_events: int = Field(MAX_EVENTS, ge=1)
    keep_days: float | None = Field(None, gt=0)
    opt_outs: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _update_is_whole(self) -> Conditions:
        if (self.update is None) != (self.update_at is None):
            raise ValueError("an update needs a bundle and a date: give --update and --update-at")
        return self

    def key(self) -> dict[str, Any]:
        """All that results depend on, but the path of the update."""
        return self.model_dump(mode="json", exclude={"update"})


class Settings(BaseModel):
    """What all arms share.

    Attributes:
        users: at most so many, drawn as `evaluate` draws them; None: everybody with two events or more.
        seed: draws users, people who opt out, and what is explored.
        k: length of the lists that are shown.
        engine: what runs the graph; None: the runtime's default.
        start, end: events from `start` on and before `end` are replayed, Unix seconds; what came before is
            history.
        last: of each user at most so many of these, the last ones; those before them are history, too.
        session_minutes: a pause so long begins a new session.
        column: display column with the categories, for calibration; None: `categories` or `category`, if the
            bundle has one.
        files: each phone's history is a file while it is replayed, not memory: slower, and its bytes are
            measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    users: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0)
    k: int = Field(10, ge=1, le=1000)
    engine: str | None = None
    start: int | None = None
    end: int | None = None
    last: int | None = Field(None, ge=1)
    session_minutes: float = Field(30.0, gt=0)
    column: str | None = None
    files: bool = False

    def inside(self, time: int) -> bool:
        """Whether an event of this time is replayed."""
        return (self.start is None or time >= self.start) and (self.end is None or time < self.end)


class Arm(BaseModel):
    """One bundle under one set of conditions, replayed beside others over the same events."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    bundle: Path
    conditions: Conditions = Conditions()


def checked(kind: type[BaseModel], values: dict[str, Any]) -> Any:
    """The model of these values.

    Raises:
        DataError: `argument-invalid`, naming the first value that is wrong.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise DataError(
            f"{name + ': ' if name else ''}{first['msg'].removeprefix('Value error, ')}.",
            code="argument-invalid",
            remedy="See pocketrec simulate --help.",
        ) from None


def unix_time(text: str | None) -> int | None:
    """Unix seconds of an ISO 8601 date or time (UTC when it names no zone), or of a whole number.

    Raises:
        DataError: `argument-invalid`.
    """
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        pass
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise DataError(
            f"{text!r} is no date.", code="argument-invalid", remedy="Write 2026-01-31, or Unix seconds."
        ) from None
    zoned = when if when.tzinfo else when.replace(tzinfo=datetime.UTC)
    return int(zoned.timestamp())


def pairs(texts: list[str] | None) -> tuple[tuple[str, str], ...]:
    """("column", "value") of each "column=value".

    Raises:
        DataError: `argument-invalid`.
    """
    found = []
    for text in texts or []:
        column, sign, value = text.partition("=")
        if not sign or not column or not value:
            raise DataError(f"{text!r} is no filter.", code="argument-invalid", remedy="Write column=value.")
        found.append((column, value))
    return tuple(found)
