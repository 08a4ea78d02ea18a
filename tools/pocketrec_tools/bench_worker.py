"""One engine measured in a process of its own: `bench` runs this module as a program.

Standard input is the JSON of a `Job`; the last line of standard output is that of what `measure` returns.
Nothing of pocketrec's runtime is loaded before its import is timed.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any, TypedDict

WARM_UP = 10


class Job(TypedDict):
    """What to measure: a bundle, an engine, and histories of (item id, event, timestamp)."""

    bundle: str
    engine: str
    histories: list[list[tuple[str, str, int | None]]]


def measure(job: Job) -> dict[str, Any]:
    """Times in milliseconds, each `*_ms` one figure or a list with one for each history.

    Returns:
        import_ms: pocketrec with all that it needs, and the engine's library.
        open_ms: `Recommender.open`: verify and map the bundle, load the engine, run it once.
        first_ms, rank_ms: the first list of ten, and those of the histories after some warming up.
        verify_ms, load_ms: the two parts of opening, done again.
        cpu_ms: processor time for a warm list, all threads together: what stands here for energy.
        inputs_ms, graph_ms, scan_ms: the parts of ranking: history to rows, the engine without its checks,
            the ten best rows of the item table.
        peak_bytes: most memory held up to the end of `rank_ms`.
    """
    import_ms, module = timed(_import, job["engine"])
    open_ms, recommender = timed(module.Recommender.open, job["bundle"], engine=job["engine"])
    histories = [[tuple(event) for event in history] for history in job["histories"]]
    first_ms, _ = timed(recommender.rank, histories[0])
    for history in histories[:WARM_UP]:
        recommender.rank(history)
    cpu = time.process_time()
    rank_ms = [timed(recommender.rank, history)[0] for history in histories]
    cpu_ms = (time.process_time() - cpu) * 1e3 / len(histories)

    from pocketrec_tools.machine import engine_version, peak_memory

    peak = peak_memory()
    found: dict[str, Any] = {
        "engine": job["engine"],
        "version": engine_version(job["engine"]),
        "import_ms": import_ms,
        "open_ms": open_ms,
        "first_ms": first_ms,
        "rank_ms": rank_ms,
        "cpu_ms": cpu_ms,
        "peak_bytes": peak,
    }
    recommender.close()
    return found | parts(job["bundle"], job["engine"], histories)


def _import(engine: str) -> Any:
    module = importlib.import_module("pocketrec.recommender")
    importlib.import_module(f"pocketrec.engine_{engine}")
    return module


def parts(path: str, engine_name: str, histories: list[Any]) -> dict[str, Any]:
    """The parts of opening and of ranking, through the same functions that `Recommender` calls."""
    from pocketrec.bundle import Bundle
    from pocketrec.engines import load_engine
    from pocketrec.events import as_events
    from pocketrec.ranking import distinct

    verify_ms, bundle = timed(Bundle.open, path)
    load_ms, engine = timed(load_engine, engine_name, bundle)
    run = getattr(engine, "_run", engine.run)
    table = bundle.tables["items"]
    taken: dict[str, list[float]] = {name: [] for name in ("inputs_ms", "graph_ms", "scan_ms")}
    for turn, history in enumerate([*histories[:WARM_UP], *histories]):
        marks = [time.perf_counter()]
        known = bundle.inputs.known(as_events(history), bundle.catalogue)
        rows, mask = bundle.inputs.fuse(known)
        banned = distinct(known.positions)
        marks.append(time.perf_counter())
        query = run(rows, mask).reshape(-1)
        marks.append(time.perf_counter())
        table.best(query, 10, banned=banned)
        marks.append(time.perf_counter())
        if turn >= len(histories[:WARM_UP]):
            for name, start, end in zip(taken, marks, marks[1:], strict=False):
                taken[name].append((end - start) * 1e3)
    engine.close()
    bundle.close()
    return {"verify_ms": verify_ms, "load_ms": load_ms, **taken}


def timed(call: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[float, Any]:
    """Milliseconds that a call took, and what it returned."""
    began = time.perf_counter()
    result = call(*arguments, **options)
    return (time.perf_counter() - began) * 1e3, result


if __name__ == "__main__":
    # A line of its own, as a library may have printed something.
    sys.stdout.write("\n" + json.dumps(measure(json.load(sys.stdin))) + "\n")
