"""One engine's answers to many histories: `agreement` runs this module as a program.

Standard input is the JSON of a job: `bundle`, `engine`, `graph` (a file to run instead of the bundle's, or
""), `histories` (a JSON file) and `out`, an npz file that gets `queries` [n, d], `items` and `scores` [n, 10]
(−1 and NaN past the end of a list) and `ms` [n], processor time of the graph alone.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from pocketrec.bundle import Bundle
from pocketrec.engines import load_engine
from pocketrec.events import as_events
from pocketrec.ranking import distinct

K = 10


def answers(job: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays that the module's page names; an empty history has a query of zeros and no list."""
    histories = json.loads(Path(job["histories"]).read_text("utf-8"))
    with Bundle.open(job["bundle"]) as bundle:
        engine: Any = (
            _other(job["graph"], bundle) if job["graph"] else load_engine(job["engine"], bundle, threads=1)
        )
        n, table = len(histories), bundle.tables["items"]
        found: dict[str, np.ndarray] = {
            "queries": np.zeros((n, table.d), np.float32),
            "items": np.full((n, K), -1, np.int64),
            "scores": np.full((n, K), np.nan, np.float32),
            "ms": np.full(n, np.nan),
        }
        for i, history in enumerate(histories):
            known = bundle.inputs.known(as_events([tuple(event) for event in history]), bundle.catalogue)
            if not len(known):
                continue
            rows, mask = bundle.inputs.fuse(known)
            began = time.process_time()
            query = engine.run(rows, mask)
            found["ms"][i] = (time.process_time() - began) * 1e3
            items, scores = table.best(query, K, banned=distinct(known.positions))
            found["queries"][i] = query
            found["items"][i, : len(items)], found["scores"][i, : len(items)] = items, scores
        engine.close()
    return found


def _other(graph: str, bundle: Bundle) -> Any:
    from pocketrec.engine_onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(graph, bundle.manifest.graph.length, bundle.manifest.graph.dim)


if __name__ == "__main__":
    job = json.load(sys.stdin)
    arrays: dict[str, Any] = dict(answers(job))
    np.savez(job["out"], **arrays)
