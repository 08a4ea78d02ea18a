"""What lets calls into a recommender, counts them, and waits for them when it closes.

unloaded ──▶ loading ──▶ ready ──▶ closed
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from pocketrec.errors import PocketrecError

State = Literal["unloaded", "loading", "ready", "closed"]


class StoppedError(PocketrecError):
    """A call that ended early because its caller said so: `deadline-exceeded` or `cancelled`."""

    default_code = "cancelled"


@dataclass(frozen=True, slots=True)
class Calls:
    """How many calls there were, at one moment.

    Attributes:
        active: under way. finished: came back with an answer. failed: raised. stopped: of those, at a
            deadline or by cancelling. Refused calls (before `ready`, after `close`) are in none of them.
    """

    active: int
    finished: int
    failed: int
    stopped: int


class Gate:
    """The state of a recommender, and its calls. Thread-safe.

    Args:
        on_state: called with each state when it is reached, in the thread that made it so.
    """

    def __init__(self, on_state: Callable[[State], None] | None = None) -> None:
        self._state: State = "unloaded"
        self._on_state = on_state
        self._changed = threading.Condition()
        self._active = self._finished = self._failed = self._stopped = 0
        self._released = False

    @property
    def state(self) -> State:
        """The state now."""
        return self._state

    @property
    def calls(self) -> Calls:
        """The counts now, of one moment."""
        with self._changed:
            return Calls(self._active, self._finished, self._failed, self._stopped)

    def move(self, state: State) -> None:
        """Go to the next state."""
        with self._changed:
            self._state = state
        if self._on_state is not None:
            self._on_state(state)

    @contextmanager
    def call(self) -> Iterator[None]:
        """One call, counted in and out.

        Raises:
            PocketrecError: `closed`, the state is not `ready`.
        """
        with self._changed:
            if self._state != "ready":
                raise PocketrecError(
                    f"the recommender is {self._state}.", code="closed", remedy="Open the bundle again."
                )
            self._active += 1
        failed = stopped = 0
        try:
            yield
        except BaseException as error:
            failed, stopped = 1, int(isinstance(error, StoppedError))
            raise
        finally:
            with self._changed:
                self._active -= 1
                self._finished += 1 - failed
                self._failed += failed
                self._stopped += stopped
                self._changed.notify_all()

    def close(self, release: Callable[[], None]) -> None:
        """Refuse further calls, wait for those under way, then `release`; one time only.

        Whoever else closes meanwhile waits until that is done, too.
        """
        with self._changed:
            if self._state == "closed":
                self._changed.wait_for(lambda: self._released)
                return
            was_ready, self._state = self._state == "ready", "closed"
            self._changed.wait_for(lambda: self._active == 0)
        try:
            if was_ready:
                release()
        finally:
            with self._changed:
                self._released = True
                self._changed.notify_all()
        if self._on_state is not None:
            self._on_state("closed")


class Stop:
    """When a call has to end early. Asked between its stages, so that it ends within the longest of them.

    Args:
        deadline: seconds from now; None: no limit; 0 or less has passed already.
        cancel: set from any thread to end the call; may end many calls.
    """

    def __init__(self, deadline: float | None = None, cancel: threading.Event | None = None) -> None:
        self._deadline = deadline
        self._until = None if deadline is None else time.monotonic() + deadline
        self._cancel = cancel

    def check(self) -> None:
        """Raise StoppedError when it is time."""
        if self._cancel is not None and self._cancel.is_set():
            raise StoppedError("the call was cancelled.", code="cancelled")
        if self._until is not None and time.monotonic() >= self._until:
            raise StoppedError(
                f"the call took longer than its deadline of {self._deadline} seconds.",
                code="deadline-exceeded",
                remedy="Give it more time, or rank fewer candidates.",
            )
