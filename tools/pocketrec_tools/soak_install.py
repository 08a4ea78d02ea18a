"""What `soak` kills in the middle of an update: the live bundle is the old one or the new one, whole."""

from __future__ import annotations

import dataclasses
import random
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pocketrec.errors import PocketrecError
from pocketrec.install_versions import install, installed, open_installed
from pocketrec_export.content import TableContent
from pocketrec_export.delta import make_delta
from pocketrec_export.writer import write_bundle
from pocketrec_tools.soak_bundle import small_content, write_small_bundle
from pocketrec_tools.soak_law import Broken, Say

ITEMS = [f"item{number}" for number in range(20)]
VERSIONS = 3


class InstallVictim:
    """A directory of versions into which one of three bundles is installed, again and again, and opened.

    `longest` is one and a half times what an installation takes here, so that every part of one is killed.
    """

    name = "install"
    longest = 0.5

    def begin(self, folder: Path) -> None:
        self._into = folder / "installed"
        self._bundles = self._make(folder)
        self._files = [{path.name: path.read_bytes() for path in b.iterdir()} for b in self._bundles]
        self._answers: list[list[tuple[str, float]]] = []
        for bundle in self._bundles:
            start = time.monotonic()
            install(bundle, self._into, allow_downgrade=True, engine="numpy")
            self.longest = 1.5 * (time.monotonic() - start)
            self._answers.append(self._answer())
        self._live = VERSIONS

    def _make(self, folder: Path) -> list[Path]:
        """Bundles 1, 2, … VERSIONS, in their order."""
        return [write_small_bundle(folder / f"v{number}", ITEMS, number) for number in range(1, VERSIONS + 1)]

    def _next(self, chance: random.Random) -> tuple[int, Path]:
        """To which version the next step leads, and what is installed for it."""
        number = chance.choice([n for n in range(1, VERSIONS + 1) if n != self._live])
        return number, self._bundles[number - 1]

    def work(self, chance: random.Random, say: Say) -> None:
        while True:
            number, source = self._next(chance)
            say({"step": self.name, "to": number})
            install(source, self._into, allow_downgrade=True, again=True, engine="numpy")
            self._live = number
            say({"step": "done"})

    def check(self, said: list[dict[str, Any]]) -> str:
        before, under_way = self._live, False
        for step in said:
            if "error" in step:
                raise Broken(f"it failed: {step['error']}")
            under_way = step["step"] == self.name
            if under_way:
                before, self._live = self._live, step["to"]
        try:
            answer = self._answer()
            path = installed(self._into).path
            found = {file.name: file.read_bytes() for file in path.iterdir()}
        except PocketrecError as error:
            raise Broken(f"it does not open: {error.code}: {error}") from error
        if found not in self._files:
            raise Broken("the live version is none of the bundles, byte for byte")
        number = self._files.index(found) + 1
        if number not in ({before, self._live} if under_way else {self._live}):
            raise Broken(f"version {number} is live, not {before} or {self._live}")
        if answer != self._answers[number - 1]:
            raise Broken(f"version {number} gives another list")
        if installed(self._into).on_trial or installed(self._into).rejected:
            raise Broken("the trial is not over, or was lost")
        done = number == self._live
        self._live = number
        return f"{self.name} {'done' if done else 'not done'}" if under_way else ""

    def _answer(self) -> list[tuple[str, float]]:
        with open_installed(self._into, engine="numpy") as recommender:
            return [(r.item_id, r.score) for r in recommender.rank([ITEMS[3], ITEMS[5]], 20)]


class DeltaVictim(InstallVictim):
    """A directory of versions that deltas lead from one catalogue to the next; from the last, the first
    bundle is installed whole, and they begin anew."""

    name = "delta"

    def _make(self, folder: Path) -> list[Path]:
        bundles = []
        for number in range(1, VERSIONS + 1):
            ids = [*ITEMS, *(f"new{more}" for more in range(number - 1))]
            rows = np.random.default_rng(11).normal(size=(len(ids), 32)).astype(np.float32)
            content = dataclasses.replace(
                small_content(ITEMS, 1),
                items=TableContent("int8", rows=rows),
                item_ids=ids,
                prior=np.arange(len(ids)) * number,
                retired=ITEMS[: number - 1],
                display={"title": [f"{item}, catalogue {number}" for item in ids]},
                catalogue_version=number,
            )
            bundles.append(write_bundle(folder / f"c{number}", content=content))
        self._deltas = [
            make_delta(old, new, folder / f"to-{number}.delta")
            for number, (old, new) in enumerate(pairwise(bundles), 2)
        ]
        return bundles

    def _next(self, chance: random.Random) -> tuple[int, Path]:
        if self._live == VERSIONS:
            return 1, self._bundles[0]
        return self._live + 1, self._deltas[self._live - 1]
