"""What a victim of `soak` is, and what it means that a law is broken."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

Say = Callable[[dict[str, Any]], None]
"""Tells the harness of a step: `{"step": NAME, …}` before it begins, `{"step": "done"}` afterwards."""


class Broken(Exception):
    """A law does not hold: what it is, and what was found."""


class Victim(Protocol):
    """What is killed. One object lives through all kills; `work` runs in a fork of it."""

    name: str

    def begin(self, folder: Path) -> None:
        """An empty folder to work in from now on."""

    def work(self, chance: random.Random, say: Say) -> None:
        """Work without end; `say` each step before it begins and when it is acknowledged."""

    def check(self, said: list[dict[str, Any]]) -> str:
        """Hold what is on the disk against what was said; remember it. What became of the step under way, in
        a word.

        Raises:
            Broken: a law does not hold.
        """
