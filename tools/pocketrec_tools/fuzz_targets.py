"""What is mutated, and the laws that an input is held to.

Each input is refused with one of our errors, or taken; what is taken has to work: its lists are of numbers
and of items that are there, and where what a list depends on is unaltered, it is the list of the sound
bundle. With a key pinned, nothing but the sound bytes is taken.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pocketrec import signing
from pocketrec.bundle import Bundle
from pocketrec.delta import DELTA_NAME, DELTA_SIGNATURE, Delta, is_delta
from pocketrec.engines import load_engine
from pocketrec.errors import PocketrecError
from pocketrec.golden import GOLDEN_NAME, parse_golden, replay
from pocketrec.history import History
from pocketrec.history_lines import read_lines, write_lines
from pocketrec.manifest import MANIFEST_NAME
from pocketrec.recommender import Recommender
from pocketrec.text import TextRows
from pocketrec_tools.fuzz_history import mutate_history
from pocketrec_tools.fuzz_mutate import (
    Mutator,
    mutate_bytes,
    mutate_json,
    mutate_onnx,
    mutate_tensors,
)
from pocketrec_tools.fuzz_world import HISTORY, ITEMS, World
from pocketrec_tools.fuzz_zip import mutate_zip
from pocketrec_tools.soak_law import Broken

Files = dict[str, bytes]

_RANKED_BY = ("backbone.safetensors", "items.safetensors", "inputs.safetensors", "catalogue.safetensors")
_IDLE_KEYS = (
    "bundle_id", "name", "model_version", "catalogue_version", "embedding_space", "created", "producer",
    "precision", "engines", "licences", "figures", "extra", "files",
)  # fmt: skip
MUTATORS: Mapping[str, Mutator] = {
    "safetensors": mutate_tensors,
    "json": mutate_json,
    "onnx": mutate_onnx,
    "sig": mutate_bytes,
}


@dataclass(frozen=True)
class Case:
    """One input: files of a folder, or an archive; `pinned` when a key is asked for."""

    target: str
    files: Files | None
    archive: bytes = b""
    pinned: bool = False

    def save(self, folder: Path) -> None:
        """Keep it, to look at."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in (self.files or {"input": self.archive}).items():
            (folder / name).write_bytes(data)


def reseal(files: Files) -> None:
    """Sizes, hashes and id in the manifest as the files are."""
    manifest = json.loads(files[MANIFEST_NAME])
    for name in manifest["files"]:
        digest = hashlib.sha256(files[name]).hexdigest()
        manifest["files"][name] = {"size": len(files[name]), "sha256": digest}
    manifest["bundle_id"] = _listing_id(manifest["files"])
    files[MANIFEST_NAME] = json.dumps(manifest).encode()


def _listing_id(entries: Any) -> str:
    listing = "".join(f"{name} {entries[name]['sha256']}\n" for name in sorted(entries, key=str.encode))
    return hashlib.sha256(listing.encode()).hexdigest()


class Targets:
    """Makes and judges inputs; one object in each process, which has the folder `work` to itself."""

    def __init__(self, world: World, work: Path) -> None:
        self._world, self._work = world, work
        self._sound = {path.name: path.read_bytes() for path in world.bundle.iterdir()}
        self._next = {path.name: path.read_bytes() for path in world.following.iterdir()}
        self._keys = [world.key.raw_public]
        self._stranger = signing.generate_key().private_pem
        self._base = Bundle.open(world.bundle)
        self._manifest = json.loads(self._sound[MANIFEST_NAME])
        self._folder = work / "folder"
        shutil.copytree(world.bundle, self._folder)
        self._there = dict(self._sound)
        with Recommender.open(world.bundle, engine="numpy") as recommender:
            self._lists = self._ask(recommender)
        makers: dict[str, tuple[int, Callable[[random.Random], Case], Callable[[Case], str]]] = {
            "archive": (14, self._archive, self._judge_bundle),
            "zip structure": (14, self._structure, self._judge_bundle),
            "manifest": (12, self._altered_manifest, self._judge_bundle),
            "tensor file": (16, lambda c: self._altered(c, ".safetensors"), self._judge_bundle),
            "golden vectors": (4, lambda c: self._altered(c, GOLDEN_NAME), self._judge_bundle),
            "tokenizer": (4, lambda c: self._altered(c, "tokenizer.json"), self._judge_bundle),
            "graph": (14, lambda c: self._altered(c, "model.onnx"), self._judge_bundle),
            "delta": (14, self._delta, self._judge_delta),
            "history file": (3, self._history, self._judge_history),
            "history lines": (3, self._lines, self._judge_lines),
        }
        self._makers = makers
        self.names = list(makers)
        self._weights = [weight for weight, _, _ in makers.values()]

    def make(self, seed: int, run: int) -> Case:
        """The input of this number; the same on every machine."""
        chance = random.Random(f"{seed}-{run}")
        name = chance.choices(self.names, self._weights)[0]
        return self._makers[name][1](chance)

    def judge(self, case: Case) -> str:
        """What became of it, in a word or two.

        Raises:
            Broken: a law does not hold. Anything else that is raised breaks one as well.
        """
        try:
            return self._makers[case.target][2](case)
        except PocketrecError as error:
            return f"refused {error.code}"

    def close(self) -> None:
        """Let go of the base."""
        self._base.close()

    # What is made.

    def _archive(self, chance: random.Random) -> Case:
        return Case("archive", None, mutate_bytes(self._world.archive, chance), chance.random() < 0.3)

    def _structure(self, chance: random.Random) -> Case:
        files = self._world.delta if chance.random() < 0.1 else self._sound
        return Case("zip structure", None, mutate_zip(dict(files), chance), chance.random() < 0.3)

    def _altered_manifest(self, chance: random.Random) -> Case:
        files = dict(self._sound)
        files[MANIFEST_NAME] = mutate_json(files[MANIFEST_NAME], chance)
        if chance.random() < 0.5:
            try:
                manifest = json.loads(files[MANIFEST_NAME])
                manifest["bundle_id"] = _listing_id(manifest["files"])
                files[MANIFEST_NAME] = json.dumps(manifest).encode()
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                pass
        return Case("manifest", files, pinned=chance.random() < 0.1)

    def _altered(self, chance: random.Random, end: str) -> Case:
        files = dict(self._sound)
        name = chance.choice(sorted(name for name in files if name.endswith(end)))
        files[name] = MUTATORS[name.rpartition(".")[2]](files[name], chance)
        reseal(files)
        pinned = chance.random() < 0.05
        if chance.random() < 0.5:
            files["manifest.sig"] = signing.sign(files[MANIFEST_NAME], self._stranger)
        target = {"model.onnx": "graph", GOLDEN_NAME: "golden vectors", "tokenizer.json": "tokenizer"}
        return Case(target.get(name, "tensor file"), files, pinned=pinned)

    def _delta(self, chance: random.Random) -> Case:
        pinned = chance.random() < 0.5
        if chance.random() < 0.2:
            return Case("delta", None, mutate_bytes(self._world.delta_archive, chance), pinned)
        files = dict(self._world.delta)
        name = chance.choice((*sorted(files), "changes.safetensors", "changes.safetensors"))
        files[name] = MUTATORS[name.rpartition(".")[2]](files[name], chance)
        if chance.random() < 0.8 and name != DELTA_NAME:
            about = json.loads(files[DELTA_NAME])
            for listed in about["files"]:
                digest = hashlib.sha256(files[listed]).hexdigest()
                about["files"][listed] = {"size": len(files[listed]), "sha256": digest}
            files[DELTA_NAME] = json.dumps(about).encode()
        if chance.random() < 0.7:  # as a builder with a fault would sign it
            files[DELTA_SIGNATURE] = signing.sign(files[DELTA_NAME], self._world.key.private_pem)
        return Case("delta", files, pinned=pinned)

    def _history(self, chance: random.Random) -> Case:
        return Case("history file", None, mutate_history(self._world.history, chance))

    def _lines(self, chance: random.Random) -> Case:
        lines = self._world.lines.splitlines(keepends=True)
        at = chance.randrange(len(lines))
        lines[at] = mutate_json(lines[at], chance) + b"\n" * (chance.random() < 0.9)
        return Case("history lines", None, b"".join(lines))

    # What it is held to.

    def _judge_bundle(self, case: Case) -> str:
        path = self._placed(case)
        keys = self._keys if case.pinned else ()
        if case.target in _BY_ITSELF and not case.pinned:
            with Bundle.open(path) as opened:
                _BY_ITSELF[case.target](opened)
            return "taken"
        with Recommender.open(path, engine="numpy", public_keys=keys) as recommender:
            bundle = recommender.bundle
            files = {name: bundle.file_bytes(name) for name in bundle.sizes}
            if case.pinned:
                _same(files, self._sound)
                return "taken: unaltered"
            return self._use(recommender, files)

    def _use(self, recommender: Recommender, files: Files) -> str:
        """A bundle that opened: everything in it is made use of."""
        bundle, outcomes = recommender.bundle, set()
        for position in range(bundle.catalogue.n):
            if bundle.catalogue.position(bundle.catalogue.item_id(position)) != position:
                raise Broken(f"the item at {position} is not found by its id")
        lists = self._ask(recommender)
        if self._ranks_alike(files):
            if lists != self._lists:
                raise Broken("what lists depend on is unaltered, and a list is another")
            outcomes.add("the same lists")
        else:
            outcomes.add("other lists")
        if files[GOLDEN_NAME] != self._sound[GOLDEN_NAME]:
            outcomes.add(
                "vectors hold"
                if not replay(recommender, parse_golden(files[GOLDEN_NAME]))
                else "vectors differ"
            )
        return "taken: " + ", ".join(sorted(outcomes))

    def _ranks_alike(self, files: Files) -> bool:
        if any(files[name] != self._sound[name] for name in _RANKED_BY):
            return False
        if files[MANIFEST_NAME] == self._sound[MANIFEST_NAME]:
            return True
        there = json.loads(files[MANIFEST_NAME])
        return all(there[key] == value for key, value in self._manifest.items() if key not in _IDLE_KEYS)

    def _ask(self, recommender: Recommender) -> list[list[tuple[str, float]]]:
        n = recommender.bundle.catalogue.n
        item = recommender.bundle.catalogue.item_id(n // 2)
        answers: list[Sequence[Any]] = [
            recommender.rank(HISTORY, 50),
            recommender.rank([("item3", "", 5), ("item8", "view", 3)], 3, filter_seen=False),
            recommender.rank([], 3, exclude=["item19"]),
            recommender.similar_items(item, 5),
        ]
        lists = [[(r.item_id, r.score) for r in answer] for answer in answers]
        for found in lists:
            if len({item for item, _ in found}) != len(found) or len(found) > n:
                raise Broken("an item is there twice")
            if not all(math.isfinite(score) for _, score in found):
                raise Broken("a score is not finite")
        return lists

    def _judge_delta(self, case: Case) -> str:
        path, out = self._placed(case), self._emptied("out")
        void(is_delta(path))
        keys = self._keys if case.pinned else ()
        with Delta(path, keys) as delta:
            raw = bytes(delta._container.view(MANIFEST_NAME))
            delta.apply(self._base, out)
        with Recommender.open(out, engine="numpy", public_keys=keys) as recommender:
            bundle = recommender.bundle
            files = {name: bundle.file_bytes(name) for name in bundle.sizes}
            if case.pinned or raw == self._next[MANIFEST_NAME]:
                idle = () if case.pinned else ("manifest.sig",)  # which nobody asked for
                _same(_without(files, idle), _without(self._next, idle))
                return "taken: leads to the next bundle"
            self._ask(recommender)
            return "taken: another manifest"

    def _judge_history(self, case: Case) -> str:
        folder = self._emptied("history")
        file = folder / "me.db"
        file.write_bytes(case.archive)
        try:
            history = History(file)
        except PocketrecError:
            if file.read_bytes() != case.archive:
                raise Broken("a history that is refused was changed") from None
            raise
        with history:
            events = history.events()
            made = [] if history.record(_SECRET, "view") is None else [_SECRET]
            if [e.item_id for e in history.events()] != [*(e.item_id for e in events), *made]:
                raise Broken("what was recorded is not there")
            history.forget(_SECRET)
            pending = history.erasure_pending
        if not pending and any(_SECRET.encode() in path.read_bytes() for path in folder.iterdir()):
            raise Broken("what was forgotten is still there")
        return "taken: " + ("all events" if [e.item_id for e in events] == list(ITEMS) else "others")

    def _judge_lines(self, case: Case) -> str:
        file, again = self._work / "lines", self._work / "again"
        file.write_bytes(case.archive)
        events = read_lines(file)
        write_lines(again, events)
        if read_lines(again) != events:
            raise Broken("an export of what was imported is another history")
        return "taken"

    def _placed(self, case: Case) -> Path:
        if case.files is None:
            path = self._work / "input.zip"
            path.write_bytes(case.archive)
            return path
        for name in self._there.keys() - case.files.keys():
            (self._folder / name).unlink()
        for name, data in case.files.items():
            if self._there.get(name) != data:
                (self._folder / name).write_bytes(data)
        self._there = dict(case.files)
        return self._folder

    def _emptied(self, name: str) -> Path:
        folder = self._work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder


_SECRET = "recorded by the fuzzer"


def _same(found: Files, wanted: Files) -> None:
    differing = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    if differing:
        raise Broken(f"altered and taken: {differing}")


def _without(files: Files, names: Sequence[str]) -> Files:
    return {name: data for name, data in files.items() if name not in names}


def _finite(numbers: Any, width: int) -> None:
    if numbers.shape != (width,) or not np.isfinite(numbers).all():
        raise Broken(f"{numbers.shape} numbers, or not finite")


def _run_graph(bundle: Bundle) -> None:
    engine = load_engine("onnxruntime", bundle)
    graph = bundle.manifest.graph
    rows = np.random.default_rng(0).normal(size=(1, graph.length, graph.dim)).astype(np.float32)
    _finite(engine.run(rows, np.ones((1, graph.length), np.float32)), graph.dim)
    engine.close()


def _encode(bundle: Bundle) -> None:
    rows = TextRows(bundle)
    for text in ("w1 w2 É w1", "", "w3" * 50, "\ufffd\0 \U0001f600"):
        _finite(rows.row(text), bundle.tables["words"].d)


# What is read without a list being made.
_BY_ITSELF: dict[str, Callable[[Bundle], None]] = {"graph": _run_graph, "tokenizer": _encode}


def void(_: object) -> None:
    """Nothing."""
