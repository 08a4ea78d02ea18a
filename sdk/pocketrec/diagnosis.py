"""What is probably wrong with a graph that disagrees with the numpy engine, and what to do about it.

An export goes wrong in few ways, and each leaves a trace in the queries: dropout left in answers twice the
same differently, padding on the wrong side spares histories that fill the window, another weight spares none.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pocketrec.bundle import Bundle
from pocketrec.engines import Engine, FloatArray, load_engine
from pocketrec.errors import PocketrecError

CLOSE = 0.1
"""Queries of correct runtimes differ by a few percents of their length at most, of wrong graphs by tens."""

NUMPY_DISAGREES = (
    "The numpy engine is the definition, so the golden vectors were made with other tables or weights: a "
    "table was transposed, reordered or taken from another build. Build the bundle again, all of it."
)
NOT_THE_GRAPH = (
    "Its queries are those of the numpy engine, so the graph is right: the tables or the catalogue changed "
    "after the golden vectors were made. Build the bundle again, all of it."
)
RANDOM = (
    "It answers the same history differently each time: dropout, or another random operator, was left in the "
    "graph. Export it in evaluation mode (model.eval())."
)
PADDING = (
    "It is right where a history fills the window and wrong where there is padding: the graph masks the "
    "wrong side, or not at all. Rows stand at the end, with mask 1 (docs/bundle.md, section 4). Export it "
    "again with left padding."
)
WEIGHTS = (
    "It is wrong for histories of every length: its weights are not those of backbone.safetensors, or one is "
    "transposed. Export the graph again from the checkpoint."
)


def diagnose(path: str | Path, name: str) -> str:
    """One or two sentences about the engine `name` of the bundle at `path`, whose lists were found wrong; ""
    when nothing could be found out."""
    if name == "numpy":
        return NUMPY_DISAGREES
    try:
        with Bundle.open(path) as bundle:
            engine, reference = load_engine(name, bundle), load_engine("numpy", bundle)
            try:
                return compare(engine, reference, bundle.manifest.graph.length, bundle.manifest.graph.dim)
            finally:
                engine.close()
                reference.close()
    except PocketrecError:
        return ""


def compare(engine: Engine, reference: Engine, length: int, dim: int, seed: int = 0) -> str:
    """What tells two engines of L = `length` and d = `dim` apart, `reference` being right."""
    random = np.random.default_rng(seed)
    off: dict[bool, list[float]] = {True: [], False: []}  # by whether the history fills the window
    for used in sorted({1, 2, max(1, length // 2), length}):
        rows, mask = np.zeros((1, length, dim), np.float32), np.zeros((1, length), np.float32)
        rows[0, length - used :], mask[0, length - used :] = random.normal(size=(used, dim)), 1
        query = engine.run(rows, mask)
        if _distance(engine.run(rows, mask), query) > CLOSE:
            return RANDOM
        off[used == length].append(_distance(query, reference.run(rows, mask)))
    if max(off[True] + off[False]) <= CLOSE:
        return NOT_THE_GRAPH
    if max(off[True]) <= CLOSE:
        return PADDING
    return WEIGHTS


def _distance(got: FloatArray, wanted: FloatArray) -> float:
    return float(np.linalg.norm(got - wanted) / max(float(np.linalg.norm(wanted)), 1e-12))
