"""One way of making a list, in a process of its own; a script, for environments with the peers but not us.

Standard input is the JSON of a job, the last line of standard output that of what was found.

    job      {"way": name, "artifact": path, "ids": json, "task": …}   ids: the data's item ids, in its order
    task     "time"    "histories": [[item id]]       {"ready_ms", "first_ms", "ms", "cpu_ms", "peak_bytes",
                                                       "lists": [[ten item ids]]}
             "ranks"   "split": csv, "part": "test"   {"ranks": [of each user's target, from 1]}
             "fit"     "split": csv                   makes the artifact of item-kNN; what was chosen

A request begins with a list of item ids and ends with the ids of the ten best, seen items left out.
"""

from __future__ import annotations

import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

K, WARM_UP, DECAY = 10, 50, 0.7
Scores = Callable[[np.ndarray], np.ndarray]
"""Positions of a history, int64 [any], to scores float32 [items]."""


class Ours:
    """`Recommender.rank`, engine and scan by default."""

    def __init__(self, artifact: str, ids: list[str]) -> None:
        from pocketrec import Recommender

        self._recommender = Recommender.open(artifact)

    def list(self, history: Sequence[str]) -> list[str]:
        """Item ids of the ten best."""
        return [item.item_id for item in self._recommender.rank(history, K)]


class Peer(ABC):
    """What the peers share: ids to positions and back, seen items, the ten best."""

    def __init__(self, artifact: str, ids: list[str]) -> None:
        self.ids = ids
        self.position = {item: at for at, item in enumerate(ids)}

    @abstractmethod
    def scores(self, seen: np.ndarray) -> np.ndarray:
        """Scores float32 [items] for the positions of a history."""

    def list(self, history: Sequence[str]) -> list[str]:
        """Item ids of the ten best."""
        seen = np.array([self.position[item] for item in history])
        scores = self.scores(seen)
        scores[seen] = -np.inf
        best = np.argpartition(scores, -K)[-K:]
        return [self.ids[at] for at in best[np.argsort(-scores[best], kind="stable")]]


class Replay(Peer):
    """RePlay's `SasRecCompiled`: torch tensors around OpenVINO."""

    def __init__(self, artifact: str, ids: list[str]) -> None:
        super().__init__(artifact, ids)
        import torch
        from frontier_replay import padded, schema  # type: ignore[import-not-found, unused-ignore]
        from replay.models.nn.sequential.compiled import (  # type: ignore[import-not-found, unused-ignore]
            SasRecCompiled,
        )

        torch.set_num_threads(1)
        self._padded = padded
        self._model = SasRecCompiled(compiled(artifact), schema(len(ids)))
        self._length = self._model._max_seq_len

    def scores(self, seen: np.ndarray) -> np.ndarray:
        made = self._model.predict(self._padded([seen], self._length, len(self.ids)))
        return made.numpy()[0].copy()  # the tensor's memory is OpenVINO's


class OpenVino(Peer):
    """The graph of `SasRecCompiled` in OpenVINO alone: what an app without torch would write."""

    def __init__(self, artifact: str, ids: list[str]) -> None:
        super().__init__(artifact, ids)
        self._model = compiled(artifact)
        self._length = self._model.inputs[0].shape[1]
        self._request = self._model.create_infer_request()

    def scores(self, seen: np.ndarray) -> np.ndarray:
        own = seen[-self._length :]
        items = np.full((1, self._length), len(self.ids), np.int64)
        mask = np.zeros((1, self._length), bool)
        items[0, self._length - len(own) :] = own
        mask[0, self._length - len(own) :] = True
        return self._request.infer([items, mask])[0][0].copy()


def compiled(artifact: str) -> Any:
    """The graph compiled by OpenVINO for one thread, as RePlay's `_compile_openvino` does."""
    import openvino  # type: ignore[import-not-found, unused-ignore]

    core = openvino.Core()
    core.set_property("CPU", {"INFERENCE_NUM_THREADS": 1})
    names = [given.get_any_name() for given in core.read_model(artifact).inputs]
    length = json.loads(Path(artifact).with_suffix(".json").read_text())["length"]
    model = openvino.convert_model(artifact, input=[(name, [1, length]) for name in names])
    return core.compile_model(model=model, device_name="CPU")


class Implicit(Peer):
    """`implicit`'s item-kNN, asked as its users ask it: `recommend`, which leaves out seen items."""

    def __init__(self, artifact: str, ids: list[str]) -> None:
        super().__init__(artifact, ids)
        from implicit.nearest_neighbours import (  # type: ignore[import-not-found, unused-ignore]
            ItemItemRecommender,
        )
        from scipy.sparse import csr_matrix

        self._model = ItemItemRecommender.load(artifact)
        self._row = csr_matrix
        self._recency = json.loads(Path(artifact).with_suffix(".json").read_text())["recency"]

    def row(self, seen: np.ndarray) -> Any:
        """The history as a sparse row; later items first, where that is what validation liked better."""
        weights = DECAY ** np.arange(len(seen) - 1, -1, -1.0) if self._recency else np.ones(len(seen))
        return self._row((weights, seen, [0, len(seen)]), shape=(1, len(self.ids)))

    def scores(self, seen: np.ndarray) -> np.ndarray:
        return np.asarray((self.row(seen) @ self._model.similarity).todense(), np.float32)[0]

    def list(self, history: Sequence[str]) -> list[str]:
        seen = np.array([self.position[item] for item in history])
        found, _ = self._model.recommend(0, self.row(seen), N=K, filter_already_liked_items=True)
        return [self.ids[at] for at in found if at >= 0]


WAYS: dict[str, Any] = {
    "pocketrec": Ours,
    "RePlay SasRecCompiled": Replay,
    "the same in OpenVINO alone": OpenVino,
    "implicit item-kNN": Implicit,
}


def clocked(way: str, artifact: str, ids_file: str, histories: list[list[str]]) -> dict[str, Any]:
    """The answer to "time"."""
    began = time.perf_counter()
    model = WAYS[way](artifact, json.loads(Path(ids_file).read_text()))
    ready = time.perf_counter()
    model.list(histories[0])
    first = time.perf_counter()
    for history in histories[:WARM_UP]:
        model.list(history)
    ms, lists = [], []
    processor = time.process_time()
    for history in histories:
        start = time.perf_counter()
        best = model.list(history)
        ms.append((time.perf_counter() - start) * 1e3)
        lists.append(best)
    return {
        "ready_ms": (ready - began) * 1e3,
        "first_ms": (first - ready) * 1e3,
        "ms": ms,
        "cpu_ms": (time.process_time() - processor) * 1e3 / len(histories),
        "peak_bytes": peak(),
        "lists": lists,
    }


def held_out(split: str, part: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Histories and targets, by position, of the users who have a target in the part."""
    rows = np.genfromtxt(split, delimiter=",", skip_header=1, dtype=None, encoding="utf-8")
    users, items, parts = rows["f0"], rows["f1"].astype(np.int64), rows["f3"]
    starts = np.flatnonzero(np.diff(users, prepend=-1))
    histories, targets = [], []
    for start, end in zip(starts, [*starts[1:], len(users)], strict=True):
        for at in start + np.flatnonzero(parts[start:end] == part):
            histories.append(items[start:at])
            targets.append(items[at])
    return histories, np.array(targets)


def ranks(scores: Scores, histories: list[np.ndarray], targets: np.ndarray) -> list[int]:
    """The rank of each target among all items, seen ones left out, ties against it; a seen target is last."""
    found = []
    for seen, target in zip(histories, targets, strict=True):
        given = scores(seen)
        own = given[target]
        given[seen] = -np.inf
        found.append(len(given) + 1 if target in seen else int((given >= own).sum()))
    return found


def fit(split: str, artifact: str, items: int) -> dict[str, Any]:
    """Make item-kNN on the training events: the kind, number of neighbours and weights that do best on
    validation."""
    from implicit import nearest_neighbours as kinds  # type: ignore[import-not-found, unused-ignore]
    from scipy.sparse import csr_matrix

    rows = np.genfromtxt(split, delimiter=",", skip_header=1, dtype=None, encoding="utf-8")
    train = rows[rows["f3"] == "train"]
    met = csr_matrix(
        (np.ones(len(train)), (train["f0"], train["f1"])), shape=(int(rows["f0"].max()) + 1, items)
    )
    met.data[:] = 1
    histories, targets = held_out(split, "validation")
    best: dict[str, Any] = {"ndcg@10": -1.0}
    for kind in ("CosineRecommender", "TFIDFRecommender", "BM25Recommender"):
        for neighbours in (20, 100, 400):
            model = getattr(kinds, kind)(K=neighbours, num_threads=1)
            model.fit(met, show_progress=False)
            model.save(artifact)
            for recency in (False, True):
                tried = {"kind": kind, "neighbours": neighbours, "recency": recency}
                Path(artifact).with_suffix(".json").write_text(json.dumps(tried))
                asked = Implicit(artifact, [str(at) for at in range(items)])
                got = np.array(ranks(asked.scores, histories, targets))
                value = float(np.where(got <= K, 1 / np.log2(1 + got), 0).mean())
                sys.stderr.write(f"{tried}: NDCG@10 on validation {value:.4f}\n")
                if value > best["ndcg@10"]:
                    best = tried | {"ndcg@10": value}
    model = getattr(kinds, best["kind"])(K=best["neighbours"], num_threads=1)
    model.fit(met, show_progress=False)
    model.save(artifact)
    Path(artifact).with_suffix(".json").write_text(json.dumps(best))
    return best


def peak() -> int:
    """Bytes of memory that this process held at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def main() -> None:
    """Do the job on standard input."""
    job = json.load(sys.stdin)
    if job["task"] == "time":
        answer = clocked(job["way"], job["artifact"], job["ids"], job["histories"])
    elif job["task"] == "fit":
        answer = fit(job["split"], job["artifact"], len(json.loads(Path(job["ids"]).read_text())))
    else:
        model = WAYS[job["way"]](job["artifact"], json.loads(Path(job["ids"]).read_text()))
        answer = {"ranks": ranks(model.scores, *held_out(job["split"], job["part"]))}
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
