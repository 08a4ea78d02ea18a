"""Would a first stage over fewer bits or dimensions, then exact scores of its best, be quicker than the scan?

    python -m pocketrec_tools.scan_stages --rows 1000000 --page docs/benchmarks/scan.md

The exact scan reads a packed int8 table. A coarse stage reads another table of the same rows, and the best of
that are scored again by the exact table. Stated for each: milliseconds in all, bytes an item that the coarse
table needs on top, and how many of the exact ten best it finds. One process, the ways in turns.

Rows are random or, with `--spectrum`, have the decaying spectrum of trained rows: the variance of dimension j
falls as 1 / (1 + j / 8), so that leading dimensions say more than others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from pocketrec.manifest import TableSpec
from pocketrec.output import note
from pocketrec.quantise import quantise_rows_int4, quantise_rows_int8
from pocketrec.ranking import Best, top_k
from pocketrec.scan import Query
from pocketrec.scan_packed import Segment
from pocketrec.tables import Table
from pocketrec_tools.machine import machine
from pocketrec_tools.scan_bench import write_between

DIM, K, LEADING = 128, 10, 64
_SEGMENT = 1 << 17
Search = Callable[[NDArray[np.float32], int], NDArray[np.intp]]
"""A query float32 [d] and a number to the positions of so many candidates."""


def tables(n: int, spectrum: bool, seed: int = 0) -> tuple[Table, dict[str, tuple[Search, float]]]:
    """The exact table, and the coarse stages by name with the bytes an item that each needs on top."""
    rng = np.random.default_rng(seed)
    spread = (
        np.sqrt(1 / (1 + np.arange(DIM) / 8)).astype(np.float32) if spectrum else np.ones(DIM, np.float32)
    )
    q, q4 = np.empty((n, DIM), np.int8), np.empty((n, DIM // 2), np.uint8)
    scale, scale4 = np.empty(n, np.float32), np.empty((n, DIM // 32), np.float16)
    signs = np.empty((n, DIM // 64), np.uint64)
    for start in range(0, n, 1 << 16):
        part = slice(start, min(n, start + (1 << 16)))
        rows = spread * rng.standard_normal((part.stop - start, DIM), dtype=np.float32)
        q[part], scale[part] = quantise_rows_int8(rows)
        q4[part], scale4[part] = quantise_rows_int4(rows)
        signs[part] = np.packbits(rows > 0, axis=1).view(np.uint64)
    exact, leading = _table(q, scale), _table(np.ascontiguousarray(q[:, :LEADING]), scale)
    segments = [
        Segment("int4", q4[at : at + _SEGMENT], scale4[at : at + _SEGMENT]) for at in range(0, n, _SEGMENT)
    ]
    scratch = np.empty(min(n, _SEGMENT), np.float32)

    def by_int4(query: NDArray[np.float32], count: int) -> NDArray[np.intp]:
        asked, best, at = Query.of(query), Best(count), 0
        for segment in segments:
            out = scratch[: segment.rows]
            segment.scores(asked, out)  # not exact, and need not be
            found = best.promising(out, 0.0)
            best.add(found + at, out[found])
            at += segment.rows
        return best.result()[0]

    def by_signs(query: NDArray[np.float32], count: int) -> NDArray[np.intp]:
        own = np.packbits(query > 0).view(np.uint64)
        alike = -np.bitwise_count(signs ^ own).sum(axis=1, dtype=np.int16)
        return np.argpartition(alike, -count)[-count:]

    return exact, {
        "int4": (by_int4, DIM / 2 + DIM / 16),
        f"{LEADING} dimensions": (lambda query, count: leading.best(query[:LEADING], count)[0], LEADING + 4),
        "signs": (by_signs, DIM / 8),
    }


def _table(q: NDArray[np.int8], scale: NDArray[np.float32]) -> Table:
    spec = TableSpec.model_validate({"file": "items", "rows": len(q), "dim": q.shape[1], "scheme": "int8"})
    table = Table(spec, {"q": q, "scale": scale})
    table.use("packed")
    return table


def two_stages(exact: Table, coarse: Search, query: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """The ten best by exact scores of the `count` best of the coarse stage."""
    found = np.sort(coarse(query, count))
    return found[top_k(exact.scores(query, found), K)]


def stages(n: int, spectrum: bool, counts: list[int], queries: int, rounds: int) -> list[list[str]]:
    """Rows of the page: stage, candidates, ms, ratio to exact, bytes on top, part of the exact ten found."""
    exact, coarse = tables(n, spectrum)
    rng = np.random.default_rng(1)
    asked = rng.standard_normal((queries, DIM)).astype(np.float32)
    if spectrum:  # a trained query lies where the rows do
        asked = exact.rows(rng.integers(0, n, queries)) + 0.5 * asked * np.sqrt(1 / (1 + np.arange(DIM) / 8))
        asked = asked.astype(np.float32)
    ways: dict[tuple[str, int], Callable[[NDArray[np.float32]], NDArray[np.intp]]] = {
        ("exact", 0): lambda query: exact.best(query, K)[0]
    }
    for name, (search, _) in coarse.items():
        for count in counts:
            ways[name, count] = lambda query, s=search, c=count: two_stages(exact, s, query, c)  # type: ignore[misc]
    want = [set(exact.best(query, K)[0].tolist()) for query in asked]
    ms: dict[tuple[str, int], list[float]] = {way: [] for way in ways}
    recall: dict[tuple[str, int], float] = {}
    for turn in range(rounds):
        for way, run in ways.items():
            hits = 0
            for query, best in zip(asked, want, strict=True):
                began = time.perf_counter()
                found = run(query)
                ms[way].append((time.perf_counter() - began) * 1e3)
                hits += len(best & set(found.tolist()))
            recall[way] = hits / (K * queries)
        note(f"{n} rows: round {turn + 1} of {rounds}")
    base = float(np.median(ms["exact", 0]))
    return [
        [
            name,
            f"{count:,}" if count else "",
            f"{np.median(ms[name, count]):.2f}",
            f"{np.median(ms[name, count]) / base:.2f}",
            f"{coarse[name][1]:.0f}" if count else "0",
            f"{recall[name, count]:.3f}",
        ]
        for name, count in ways
    ]


def main(
    rows: Annotated[int, typer.Option(help="Rows of the table.")] = 1_000_000,
    spectrum: Annotated[bool, typer.Option(help="Rows with the spectrum of trained ones.")] = False,
    candidates: Annotated[
        str, typer.Option(help="Best of the first stage that are scored exactly.")
    ] = "100,1000",
    queries: Annotated[int, typer.Option(help="Queries, each asked once a round.")] = 20,
    rounds: Annotated[int, typer.Option(help="Rounds over the queries, the ways in turns.")] = 5,
    to: Annotated[Path | None, typer.Option("--page", help="Page to write the table into.")] = None,
) -> None:
    """Measure two stages against the exact scan."""
    found = stages(rows, spectrum, [int(count) for count in candidates.split(",")], queries, rounds)
    asked = f"--rows {rows} --queries {queries} --rounds {rounds}" + (" --spectrum" if spectrum else "")
    about = machine()
    head = ("first stage", "candidates", "ms in all", "× exact", "bytes an item on top", "of the exact ten")
    lines = [
        f"{rows:,} {'rows with the spectrum of trained ones' if spectrum else 'random rows'}, d = {DIM}; "
        f"{about['processor']}, {about['cores']} cores, one thread. "
        f"`python -m pocketrec_tools.scan_stages {asked}`",
        "",
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
        *(f"| {' | '.join(row)} |" for row in found),
        "",
    ]
    text = "\n".join(lines)
    if to is None:
        typer.echo(text)
    else:
        write_between(to, text, "two stages" + (", spectrum" if spectrum else ""))


if __name__ == "__main__":
    typer.run(main)
