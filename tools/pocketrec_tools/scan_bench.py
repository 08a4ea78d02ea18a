"""How fast the ten best of a table are found: our scans, peers, and the memory itself, in one run.

    make bench-scan                       into docs/benchmarks/scan.md
    python -m pocketrec_tools.scan_bench --sizes 12000,100000 --runs 1

Every way runs in a process of its own with one thread, in turns, run after run. Rows are random: a scan looks
at all of them, whatever they are. The peers are installed by uv into an environment beside the data. Sizes
may be measured one by one: what was found of each is kept there too, and the page is made of all.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import typer

from pocketrec.output import note
from pocketrec_tools import scan_bench_worker as worker
from pocketrec_tools.bench_report import show
from pocketrec_tools.machine import machine
from pocketrec_tools.processes import ONE_THREAD, run_python

PEERS = ("numpy>=2", "faiss-cpu==1.15.1", "usearch==2.26.6")
FLOAT_WAYS = ("numpy float32", "faiss flat")
DIM, QUERIES = 128, 10
COLUMNS = (
    "way",
    "ms",
    "runs",
    "× read",
    "ns an item",
    "own bytes an item",
    "ready in ms",
    "of the float top-10",
)
SIZES = "12000,100000,1000000,10000000"


@dataclass(frozen=True)
class Found:
    """One way at one size.

    Attributes:
        ms: one for each query, round and run; `run_ms`: the median of each run.
        held_bytes, prepare_ms: medians over the runs.
        overlap: part of the ten best of float32 rows and query that it finds; None where that was left out.
    """

    ms: list[float]
    run_ms: list[float]
    held_bytes: float
    prepare_ms: float
    overlap: float | None


def scan_bench(
    out: Path, sizes: list[int], runs: int, rounds: int, ways: Sequence[str], keep: bool = False
) -> dict[int, dict[str, Found]]:
    """Measure the ways at every size.

    Args:
        out: where tables and the environment of the peers are; tables that lie there are taken as they are.
        keep: leave the tables there.
    """
    out.mkdir(parents=True, exist_ok=True)
    python = peer_environment(out / "peers") if any(map(_is_peer, ways)) else None
    found = {}
    for n in sizes:
        files = _tables(out, n, any("int4" in way for way in ways))
        found[n] = _size(files, n, runs, max(1, min(rounds, 30_000_000 // n)), ways, python)
        if not keep:
            for file in files.values():
                Path(file).unlink()
    return found


def _is_peer(way: str) -> bool:
    return way.startswith(("faiss", "usearch"))


def peer_environment(place: Path) -> str:
    """The interpreter of an environment with the peers, made when it is not there."""
    python = place / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        from uv import find_uv_bin

        uv = find_uv_bin()
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(place)], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", str(python), *PEERS], check=True)
    return str(python)


def _size(
    files: dict[str, str], n: int, runs: int, rounds: int, ways: Sequence[str], python: str | None
) -> dict[str, Found]:
    need = n * DIM * 4
    answers: dict[str, list[dict[str, Any]]] = {}
    for run in range(runs):
        for way in ways:
            if way in FLOAT_WAYS and psutil.virtual_memory().available < 1.5 * need:
                note(f"{n} rows: {way} left out, {need / 2**30:.1f} GiB of floats do not fit")
                continue
            note(f"{n} rows, run {run + 1} of {runs}: {way}")
            job = {"way": way, "rounds": rounds, "queries": files["queries"]}
            kind = "4" if "int4" in way else ""
            job |= {"q": files[f"q{kind}"], "scale": files[f"s{kind}"]}
            answers.setdefault(way, []).append(_work(job, python if _is_peer(way) else None))
    exact = answers.get("numpy float32", [{"best": []}])[0]["best"]
    return {way: _found(given, exact) for way, given in answers.items()}


def _found(given: list[dict[str, Any]], exact: list[list[int]]) -> Found:
    shared = [len(set(a) & set(b)) / 10 for a, b in zip(given[0]["best"], exact, strict=False)]
    return Found(
        ms=[ms for answer in given for ms in answer["ms"]],
        run_ms=[float(np.median(answer["ms"])) for answer in given],
        held_bytes=float(np.median([answer["held_bytes"] for answer in given])),
        prepare_ms=float(np.median([answer["prepare_ms"] for answer in given])),
        overlap=float(np.mean(shared)) if shared else None,
    )


def _tables(out: Path, n: int, int4: bool) -> dict[str, str]:
    """Random tables; rows of the int4 one are the int8 one's, rounded further. What is there is not made."""
    from numpy.lib.format import open_memmap

    from pocketrec.quantise import GROUP, quantise_rows_int4, quantise_rows_int8

    names = {
        name: str(out / f"{name}-{n}.npy") for name in ("q", "s", *(("q4", "s4") if int4 else ()), "queries")
    }
    if all(Path(name).exists() for name in names.values()):
        return names
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(QUERIES, DIM)).astype(np.float32)
    q = open_memmap(names["q"], mode="w+", dtype=np.int8, shape=(n, DIM))
    s = open_memmap(names["s"], mode="w+", dtype=np.float32, shape=(n,))
    if int4:
        q4 = open_memmap(names["q4"], mode="w+", dtype=np.uint8, shape=(n, DIM // 2))
        s4 = open_memmap(names["s4"], mode="w+", dtype=np.float16, shape=(n, DIM // GROUP))
    for start in range(0, n, 1 << 16):
        part = slice(start, min(n, start + (1 << 16)))
        rows = rng.standard_normal((part.stop - start, DIM), dtype=np.float32)
        q[part], s[part] = quantise_rows_int8(rows)
        if int4:
            q4[part], s4[part] = quantise_rows_int4(rows)
    np.save(names["queries"], queries)  # the last: where it is, the tables are whole
    return names


def _work(job: dict[str, Any], python: str | None) -> dict[str, Any]:
    given = json.dumps(job)
    if python is None:
        said = run_python("-m", worker.__name__, given=given)
    else:
        import os

        command = [python, str(worker.__file__)]
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, env=os.environ | ONE_THREAD, check=True
        )
        said = done.stdout
    answer: dict[str, Any] = json.loads(said.splitlines()[-1])
    return answer


def page(kept: dict[int, dict[str, Any]]) -> str:
    """The tables of docs/benchmarks/scan.md, in Markdown.

    Args:
        kept: for each size what `keep_found` kept.
    """
    lines = []
    for n, size in sorted(kept.items()):
        ways = {way: Found(**figures) for way, figures in size["ways"].items()}
        base = float(np.median(ways["read"].ms))
        about = size["machine"]
        lines += [f"### {n:,} rows", ""]
        lines += [
            f"{about['processor']}, {about['cores']} cores, one thread; Python {about['python']}; "
            f"{size['runs']} runs in turns, {QUERIES} queries each, random rows, d = {DIM}. "
            f"`{size['command']}`",
            "",
        ]
        lines += [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
        for way, figure in ways.items():
            ms = float(np.median(figure.ms))
            low, high = min(figure.run_ms), max(figure.run_ms)
            overlap = "" if figure.overlap is None else f"{figure.overlap:.2f}"
            lines.append(
                f"| {way} | {ms:.3f} | {low:.3f}–{high:.3f} | {ms / base:.2f} | {ms * 1e6 / n:.2f} "
                f"| {figure.held_bytes / n:.0f} | {figure.prepare_ms:.0f} | {overlap} |"
            )
        missing = [way for way in worker.WAYS if way not in ways]
        lines += ["", *([f"Left out: {', '.join(missing)}.", ""] if missing else [])]
    return "\n".join(lines)


def keep_found(
    file: Path, found: dict[int, dict[str, Found]], runs: int, command: str
) -> dict[int, dict[str, Any]]:
    """Add what was found to the file, a JSON object by size, and return all that it holds."""
    kept = json.loads(file.read_text()) if file.exists() else {}
    for n, ways in found.items():
        figures = {way: asdict(figure) for way, figure in ways.items()}
        kept[str(n)] = {"runs": runs, "command": command, "machine": machine(), "ways": figures}
    file.write_text(json.dumps(kept))
    return {int(n): size for n, size in kept.items()}


def main(
    sizes: Annotated[str, typer.Option(help="Rows, separated by commas.")] = SIZES,
    runs: Annotated[int, typer.Option(help="Processes for each way.")] = 3,
    rounds: Annotated[int, typer.Option(help="Rounds over the queries; fewer for large tables.")] = 20,
    out: Annotated[Path, typer.Option(help="Where tables and peers are put.")] = Path("runs/bench-scan"),
    to: Annotated[Path | None, typer.Option("--page", help="Page to write the tables into.")] = None,
    without: Annotated[str, typer.Option(help="Ways to leave out, by their first words.")] = "",
    keep: Annotated[bool, typer.Option(help="Leave the tables for the next time.")] = False,
) -> None:
    """Measure the scan beside its peers."""
    left_out = tuple(filter(None, without.split(",")))
    ways = [way for way in worker.WAYS if way == "read" or not (left_out and way.startswith(left_out))]
    asked = f"--runs {runs} --rounds {rounds}" + (f" --without {without}" if without else "")
    kept = {}
    for size in map(int, sizes.split(",")):
        found = scan_bench(out, [size], runs, rounds, ways, keep)
        command = f'make bench-scan SCAN="--sizes {size} {asked}"'
        kept = keep_found(out / "found.json", found, runs, command)
    show(page(kept), to)


if __name__ == "__main__":
    typer.run(main)
