"""Progress on standard error: a bar with the time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

log = logging.getLogger(__name__)
QUIET_SECONDS = 30.0


class Progress:
    """A bar over a known number of steps.

    Args:
        label: what is being done.
        total: steps in all; done: steps that an earlier run already made.
    """

    def __init__(self, label: str, total: int, done: int = 0) -> None:
        console = Console(stderr=True)
        self.label, self.total, self.done = label, total, done
        self._began, self._first, self._said = time.monotonic(), done, time.monotonic()
        self._bar: RichProgress | None = None
        if console.is_terminal:
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task(label, total=total, completed=done, note="")

    def __enter__(self) -> Progress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, steps: int = 1, **notes: float) -> None:
        """Count steps; `notes` are shown beside the bar."""
        self.done += steps
        note = "  ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in notes.items())
        if self._bar:
            self._bar.update(self._task, completed=self.done, note=note)
        elif time.monotonic() - self._said > QUIET_SECONDS:
            self._said = time.monotonic()
            left = (self.total - self.done) * (self._said - self._began) / max(1, self.done - self._first)
            log.info("%s: %d of %d, at most %.0f s left  %s", self.label, self.done, self.total, left, note)
