"""An export rehearsed at true size with random weights: time, bytes, peak memory, milliseconds.

    python -m pocketrec_tools.rehearsal smollm2-135m
    python -m pocketrec_tools.rehearsal qwen3-0.6b --graphs onnx:int8,onnx:int4
    python -m pocketrec_tools.rehearsal small --every-position      what the last layer's other rows cost

Size, time and memory of a graph do not depend on what its weights say, so that a model that cannot be had
here can still be tried. Quality cannot. Writing, running and comparing are a process each, with one thread;
times are processor time, which does not grow when others use the machine.
docs/benchmarks/rehearsal.md holds what was measured.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from pocketrec.errors import DataError
from pocketrec.output import human_bytes, note
from pocketrec_export.options import TARGETS
from pocketrec_tools.machine import machine
from pocketrec_tools.processes import run_python
from pocketrec_tools.rehearsal_worker import SHAPES

GRAPHS = "onnx:int8,onnx:int4,executorch:int8,executorch:int4"
COLUMNS = (
    "graph",
    "file",
    "export s",
    "export peak",
    "load ms",
    "ms a query",
    "p10–p90",
    "run peak",
    "off from numpy, median / worst",
)


def rehearse(
    shape: str,
    graph: str,
    *,
    length: int = 64,
    rounds: int = 20,
    samples: int = 5,
    seed: int = 0,
    every_position: bool = False,
    keep: Path | None = None,
) -> dict[str, Any]:
    """Write, run and compare one graph.

    Args:
        shape: a key of `rehearsal_worker.SHAPES`.
        graph: TARGET:PRECISION, such as "onnx:int8".
        rounds: timed runs; samples: histories compared with the numpy engine, 0 leaves that out.
        every_position: write a second graph, whose last layer computes all rows, and run the two in turns.
        keep: a directory for the files; None throws them away.

    Returns:
        the answers of `rehearsal_worker.write`, `.run` and `.compare` under these names.

    Raises:
        DataError: `rehearsal-invalid`.
        PocketrecError: `process-failed`, with what the process said.
    """
    target, _, precision = graph.partition(":")
    if shape not in SHAPES or target not in TARGETS or not precision:
        raise DataError(
            f"there is nothing to rehearse for {shape!r} and {graph!r}.",
            code="rehearsal-invalid",
            remedy=f"Shapes: {', '.join(SHAPES)}; graphs such as {GRAPHS}.",
        )
    engine, _ = TARGETS[target]
    common = {"shape": shape, "precision": precision, "length": length, "seed": seed}
    found: dict[str, Any] = {"shape": shape, "graph": graph, "length": length, "seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        place = keep or Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        files = []
        for every in (False, True) if every_position else (False,):
            file = place / f"{shape}-{length}-{precision}{'-every' if every else ''}.{target}"
            job = {**common, "step": "write", "target": target, "out": str(file), "every_position": every}
            found["write" if not every else "write_every"] = _work(job)
            files.append(str(file))
        found["run"] = _work({**common, "step": "run", "engine": engine, "files": files, "rounds": rounds})
        if samples:
            job = {**common, "step": "compare", "engine": engine, "file": files[0], "samples": samples}
            found["compare"] = _work(job)
    return found


def _work(job: dict[str, Any]) -> dict[str, Any]:
    said = run_python("-m", "pocketrec_tools.rehearsal_worker", given=json.dumps(job))
    answer: dict[str, Any] = json.loads(said.strip().rpartition("\n")[2])
    return answer


def table(results: list[dict[str, Any]]) -> str:
    """What `rehearse` found, in Markdown, one row a graph."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for found in results:
        write, run = found["write"], found["run"]
        ms = sorted(run["ms"][0])
        compare = found.get("compare")
        off = ""
        if compare is not None:
            off = f"{statistics.median(compare['distances']):.1e} / {max(compare['distances']):.1e}"
        lines.append(
            f"| {found['shape']} {found['graph']}, L = {found['length']} | {human_bytes(write['bytes'])} "
            f"| {write['seconds']:.0f} | {human_bytes(write['peak_bytes'])} | {run['load_ms'][0]:.0f} "
            f"| {statistics.median(ms):.2f} | {ms[len(ms) // 10]:.2f}–{ms[len(ms) * 9 // 10]:.2f} "
            f"| {human_bytes(run['peak_bytes'])} | {off} |"
        )
        if "write_every" in found:
            every = statistics.median(run["ms"][1])
            lines.append(
                f"| the same, last layer for every position | {human_bytes(found['write_every']['bytes'])} "
                f"| | | | {every:.2f} | {every / statistics.median(ms):.2f} × | | |"
            )
    return "\n".join(lines)


def main(
    shape: Annotated[str, typer.Argument(help=f"One of {', '.join(SHAPES)}.")],
    graphs: Annotated[str, typer.Option(help="TARGET:PRECISION, separated by commas.")] = GRAPHS,
    length: Annotated[int, typer.Option(help="Events that the graph reads.")] = 64,
    rounds: Annotated[int, typer.Option(help="Timed runs.")] = 20,
    samples: Annotated[int, typer.Option(help="Histories compared with the numpy engine; 0: none.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the weights.")] = 0,
    every_position: Annotated[
        bool, typer.Option(help="Also without the short cut of the last layer.")
    ] = False,
    keep: Annotated[Path | None, typer.Option(help="Keep the files there.")] = None,
    results: Annotated[Path | None, typer.Option(help="Append a line of JSON for each graph.")] = None,
) -> None:
    """Rehearse exports of one shape, and print the table."""
    found = []
    for graph in graphs.split(","):
        note(f"{shape}, {graph} …")
        found.append(
            rehearse(
                shape, graph, length=length, rounds=rounds, samples=samples, seed=seed,
                every_position=every_position, keep=keep,
            )
        )  # fmt: skip
        if results is not None:
            results.parent.mkdir(parents=True, exist_ok=True)
            with results.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({**found[-1], "machine": machine()}) + "\n")
    typer.echo(table(found))


if __name__ == "__main__":
    typer.run(main)
