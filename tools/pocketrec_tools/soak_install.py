"""What `soak` kills in the middle of an update: the live bundle is the old one or the new one, whole."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from pocketrec.errors import PocketrecError
from pocketrec.install_versions import install, installed, open_installed
from pocketrec_tools.soak_bundle import write_small_bundle
from pocketrec_tools.soak_law import Broken, Say

ITEMS = [f"item{number}" for number in range(20)]
VERSIONS = 3


class InstallVictim:
    """A directory of versions into which one of three bundles is installed, again and again, and opened."""

    name = "install"
    longest = 0.5  # an installation flushes a dozen files

    def begin(self, folder: Path) -> None:
        self._into = folder / "installed"
        self._bundles = [
            write_small_bundle(folder / f"v{number}", ITEMS, number) for number in range(1, VERSIONS + 1)
        ]
        self._answers: dict[int, list[tuple[str, float]]] = {}
        for number, bundle in enumerate(self._bundles, 1):
            install(bundle, self._into, allow_downgrade=True, engine="numpy")
            self._answers[number] = self._answer()
        self._live = VERSIONS

    def work(self, chance: random.Random, say: Say) -> None:
        while True:
            number = chance.choice([n for n in range(1, VERSIONS + 1) if n != self._live])
            say({"step": "install", "to": number})
            install(self._bundles[number - 1], self._into, allow_downgrade=True, again=True, engine="numpy")
            self._live = number
            say({"step": "done"})

    def check(self, said: list[dict[str, Any]]) -> str:
        before, under_way = self._live, False
        for step in said:
            if "error" in step:
                raise Broken(f"it failed: {step['error']}")
            under_way = step["step"] == "install"
            if under_way:
                before, self._live = self._live, step["to"]
        try:
            found = installed(self._into).model_version
            answer = self._answer()
        except PocketrecError as error:
            raise Broken(f"it does not open: {error.code}: {error}") from error
        if found not in ({before, self._live} if under_way else {self._live}):
            raise Broken(f"version {found} is live, not {before} or {self._live}")
        if answer != self._answers[found]:
            raise Broken(f"version {found} gives the list of no version")
        if installed(self._into).on_trial or installed(self._into).rejected:
            raise Broken("the trial is not over, or was lost")
        done = found == self._live
        self._live = found
        return f"install {'done' if done else 'not done'}" if under_way else ""

    def _answer(self) -> list[tuple[str, float]]:
        with open_installed(self._into, engine="numpy") as recommender:
            return [(r.item_id, r.score) for r in recommender.rank([ITEMS[3], ITEMS[5]], 20)]
