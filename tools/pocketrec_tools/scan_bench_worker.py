"""One way of finding the ten best of a table, measured in a process of its own.

A script, for an environment that has the peers and not us, too: standard input is the JSON of a job, the last
line of standard output that of what was found.

    job      {"way": name, "q": npy, "scale": npy, "queries": npy, "rounds": n}
    tables   q int8 [n, d] and scale float32 [n]; for int4, q uint8 [n, d/2] and scale float16 [n, d/32]
    answer   {"prepare_ms", "ms": [one for each query and round], "held_bytes", "best": [[10 rows] a query]}

`held_bytes` is what the memory of the process grew by, less the pages of files, which the system may drop.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Search = Callable[[np.ndarray], Any]
K = 10
_BLOCK = 1 << 16


def read(q: np.ndarray, scale: np.ndarray) -> Search:
    """No search: every byte of the integers once, in the widest form that numpy reads in."""
    words = q.reshape(-1).view(np.int64)
    words.max()
    return lambda query: words.max() and None


def ours(scheme: str, scan: str) -> Callable[[np.ndarray, np.ndarray], Search]:
    """`Table.best`, with one of its scans."""

    def prepare(q: np.ndarray, scale: np.ndarray) -> Search:
        from pocketrec.manifest import TableSpec
        from pocketrec.tables import Table

        d = q.shape[1] * (2 if scheme == "int4" else 1)
        spec = TableSpec.model_validate({"file": "items", "rows": len(q), "dim": d, "scheme": scheme})
        if scan == "numpy":
            from pocketrec import scan as module

            module.find_simsimd = lambda: None
        table = Table(spec, {"q": q, "scale": scale})
        table.use("packed" if scan == "packed" else "mapped")
        return lambda query: table.best(query, K)[0]

    return prepare


def floats(q: np.ndarray, scale: np.ndarray) -> Any:
    """The rows as float32, a block at a time."""
    for start in range(0, len(q), _BLOCK):
        yield q[start : start + _BLOCK].astype(np.float32) * scale[start : start + _BLOCK, None]


def numpy_float(q: np.ndarray, scale: np.ndarray) -> Search:
    """A matrix times a vector, and `argpartition`."""
    rows = np.empty(q.shape, np.float32)
    start = 0
    for block in floats(q, scale):
        rows[start : start + len(block)] = block
        start += len(block)

    def search(query: np.ndarray) -> np.ndarray:
        scores = rows @ query
        best = np.argpartition(scores, -K)[-K:]
        return np.asarray(best[np.argsort(-scores[best], kind="stable")])

    return search


def faiss_index(kind: str) -> Callable[[np.ndarray, np.ndarray], Search]:
    """faiss, exact over floats or over 8-bit codes."""

    def prepare(q: np.ndarray, scale: np.ndarray) -> Search:
        import faiss  # type: ignore[import-not-found, unused-ignore]

        faiss.omp_set_num_threads(1)
        d = q.shape[1]
        if kind == "flat":
            index = faiss.IndexFlatIP(d)
        else:
            index = faiss.IndexScalarQuantizer(d, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
        for block in floats(q, scale):
            if not index.is_trained:
                index.train(block)
            index.add(block)
        return lambda query: index.search(query[None], K)[1][0]

    return prepare


def usearch_exact(q: np.ndarray, scale: np.ndarray) -> Search:
    """usearch over the integers as they lie; it knows no scale for each row."""
    from usearch.index import (  # type: ignore[import-not-found, unused-ignore]
        MetricKind,
        search,
    )

    def run(query: np.ndarray) -> Any:
        u = np.rint(query / np.abs(query).max() * 127).astype(np.int8)
        return search(q, u, K, MetricKind.IP, exact=True, threads=1).keys

    return run


WAYS: dict[str, Callable[[np.ndarray, np.ndarray], Search]] = {
    "read": read,
    "int8 packed": ours("int8", "packed"),
    "int8 mapped, simsimd": ours("int8", "simsimd"),
    "int8 mapped, numpy": ours("int8", "numpy"),
    "int4 packed": ours("int4", "packed"),
    "int4 mapped": ours("int4", "numpy"),
    "numpy float32": numpy_float,
    "faiss flat": faiss_index("flat"),
    "faiss SQ8": faiss_index("SQ8"),
    "usearch int8": usearch_exact,
}


def held() -> int:
    """Bytes of memory that are this process's own: resident, but not pages of files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """The answer to a job."""
    q, scale = np.load(job["q"], mmap_mode="r"), np.load(job["scale"], mmap_mode="r")
    queries = np.load(job["queries"])
    q.reshape(-1).view(np.int64).max()  # into the page cache, for everybody
    before = held()
    began = time.perf_counter()
    search = WAYS[job["way"]](q, scale)
    prepare_ms = (time.perf_counter() - began) * 1e3
    best = [search(query) for query in queries]
    ms = []
    for _ in range(job["rounds"]):
        for query in queries:
            began = time.perf_counter()
            search(query)
            ms.append((time.perf_counter() - began) * 1e3)
    return {
        "prepare_ms": prepare_ms,
        "ms": ms,
        "held_bytes": max(0, held() - before),
        "best": [] if job["way"] == "read" else [np.asarray(rows).reshape(-1).tolist() for rows in best],
    }


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(measure(json.load(sys.stdin))) + "\n")
