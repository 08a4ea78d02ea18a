"""A bundle among what a user would pick instead: quality, bytes, milliseconds, memory, in one run.

    make bench-frontier BUNDLE=DIR DATA=DIR        into docs/benchmarks/frontier.md
    python -m pocketrec_tools.frontier BUNDLE DATA_DIR --runs 1 --lists 200 --minutes 5

The peers are RePlay's `SasRecCompiled` (OpenVINO) and `implicit`'s item-kNN, trained on the same events by
their own packages, in an environment of their own in the work directory; what is trained is kept there.
Quality is of what is served: the bundle by the runtime, the compiled graph, the neighbours, one user at a
time. For the timings each way runs in a process of its own with one thread, in turns, run after run.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from pocketrec.bundle import Bundle
from pocketrec.engines import available_engines
from pocketrec.errors import PocketrecError
from pocketrec.output import note
from pocketrec_export.metrics import Metrics
from pocketrec_tools import frontier_replay, frontier_worker
from pocketrec_tools.bench import part_sizes
from pocketrec_tools.bench_report import Figure, ListFigure, show
from pocketrec_tools.evaluate import evaluate
from pocketrec_tools.frontier_page import page
from pocketrec_tools.processes import ONE_THREAD, run_python
from pocketrec_tools.quality_peers import environment, write_split
from pocketrec_tools.quality_records import QualityData

REQUIREMENTS = (
    "replay-rec[torch]==0.22.0",
    "torch==2.13.0",
    "openvino==2026.4.1",
    "onnx==1.23.2",
    "implicit==0.7.3",
)
OURS, REPLAY, BARE, KNN = frontier_worker.WAYS
MODEL = {
    "block_count": 1,
    "head_count": 2,
    "hidden_size": 128,
    "max_seq_len": 50,
    "dropout_rate": 0.2,
}
"""Of RePlay's SasRec. One block is quicker than two, and what eSASRec's authors take for this data."""
NEGATIVES = 2048


@dataclass(frozen=True)
class Way:
    """One row of the page.

    Attributes:
        metrics: over `users` test users.
        bytes: of what is shipped; `detail` says what of it is what.
        ms: over all lists; ready_ms, first_ms, cpu_ms, peak_bytes: over the runs.
    """

    metrics: Metrics
    bytes: int
    detail: str
    ms: ListFigure
    ready_ms: Figure
    first_ms: Figure
    cpu_ms: Figure
    peak_bytes: Figure


@dataclass(frozen=True)
class Frontier:
    """What was found.

    Attributes:
        trained: what RePlay's training says of itself; `neighbours`: which item-kNN validation chose.
        parts: of our list, "inputs_ms", "graph_ms", "scan_ms", over all lists.
        lists: lists timed in each run.
    """

    ways: dict[str, Way]
    trained: dict[str, Any]
    neighbours: dict[str, Any]
    parts: dict[str, ListFigure]
    runs: int
    lists: int
    data: str
    bundle: str
    versions: dict[str, str]


def frontier(
    bundle: Path,
    data_dir: Path,
    work: Path,
    *,
    runs: int,
    lists: int,
    minutes: float,
    threads: int = 1,
    seed: int = 0,
) -> Frontier:
    """Train the peers where they are not, judge and time everybody.

    Args:
        work: where the environment of the peers and what they train are kept.
        lists: test users whose histories are timed.
        minutes: of processor time for the training of RePlay's model, at most.
        threads: of that training; everything that is timed has one.

    Raises:
        BundleError, DataError: the bundle or the data cannot be used.
        PocketrecError: `peer-environment`, `process-failed`.
    """
    data = QualityData.load(data_dir)
    python = environment(work.absolute() / "replay-0.22.0", REQUIREMENTS, "RePlay and implicit")
    made = work.absolute() / data.name
    made.mkdir(parents=True, exist_ok=True)
    split, ids = made / "split.csv", made / "ids.json"
    write_split(data.split, split)
    ids.write_text(json.dumps(list(data.dataset.item_ids)))
    items = data.dataset.num_items
    sasrec, knn = made / f"sasrec-{seed}", made / "knn.npz"
    job = {"split": str(split), "items": items, "seed": seed, "minutes": minutes, "out": str(sasrec)}
    job |= {
        "threads": 1,
        "model": MODEL,
        "negatives": NEGATIVES,
        "batch": 128,
        "patience": 8,
        "validate": 4000,
    }
    trained = _ask(python, Path(frontier_replay.__file__), job, threads)
    if not knn.with_suffix(".json").exists():
        _ask(python, _WORKER, {"task": "fit", "split": str(split), "ids": str(ids), "artifact": str(knn)})
    artifacts = {OURS: bundle, REPLAY: sasrec / "sasrec.onnx", BARE: sasrec / "sasrec.onnx", KNN: knn}
    metrics = {}
    for way in (OURS, BARE, KNN):
        asked = {"task": "ranks", "way": way, "artifact": str(artifacts[way]), "ids": str(ids)}
        asked |= {"split": str(split), "part": "test"}
        metrics[way] = _metrics(asked, data_dir, python, made)
    metrics[REPLAY] = metrics[BARE]
    histories = _histories(data, lists, seed)
    with Bundle.open(bundle) as opened:
        engine = available_engines(opened)[0]  # what `Recommender` takes
        about, sizes = _described(opened), {OURS: _own_bytes(opened, engine)}
    answers: dict[str, list[dict[str, Any]]] = {way: [] for way in artifacts}
    parts: dict[str, list[list[float]]] = {}
    for run in range(runs):
        for way, artifact in artifacts.items():
            note(f"run {run + 1} of {runs}: {way}")
            job = {"task": "time", "way": way, "artifact": str(artifact), "ids": str(ids)}
            job["histories"] = histories
            answers[way].append(_ask(None if way == OURS else python, _WORKER, job))
        triples = [[(item, "", None) for item in history] for history in histories]
        job = {"bundle": str(bundle), "engine": engine, "histories": triples}
        said = run_python("-m", "pocketrec_tools.bench_worker", given=json.dumps(job))
        for name, values in json.loads(said.splitlines()[-1]).items():
            if name in ("inputs_ms", "graph_ms", "scan_ms"):
                parts.setdefault(name, []).append(values)
    _agree(answers[REPLAY][0]["lists"], answers[BARE][0]["lists"])
    for way in (REPLAY, BARE, KNN):
        model, names = artifacts[way].stat().st_size, ids.stat().st_size
        sizes[way] = model + names, _listed({"model": model, "item ids": names})
    return Frontier(
        ways={way: _way(metrics[way], *sizes[way], answers[way]) for way in artifacts},
        trained=trained,
        neighbours=json.loads(knn.with_suffix(".json").read_text()),
        parts={name: ListFigure.of(values) for name, values in parts.items()},
        runs=runs,
        lists=len(histories),
        data=data.name,
        bundle=about,
        versions=trained["versions"] | {"implicit": "0.7.3"},
    )


_WORKER = Path(frontier_worker.__file__)


def _metrics(job: dict[str, Any], data_dir: Path, python: Path, made: Path) -> Metrics:
    """Of every test user. Kept: ranks depend on the artifact alone, and take longer than all timings."""
    artifact = Path(job["artifact"])
    content = (artifact / "manifest.json" if job["way"] == OURS else artifact).read_bytes()
    kept = made / f"ranks-{hashlib.sha256(content).hexdigest()[:16]}.npy"
    if not kept.exists():
        note(f"every test user: {job['way']}")
        if job["way"] == OURS:
            ranks = evaluate(artifact, data_dir, progress=False).ranks
        else:
            ranks = np.array(_ask(python, _WORKER, job)["ranks"])
        np.save(kept, ranks)
    return Metrics.from_ranks(np.load(kept))


def _histories(data: QualityData, lists: int, seed: int) -> list[list[str]]:
    """Item ids of the histories of some test users, drawn by the seed."""
    ids, items = data.dataset.item_ids, data.dataset.items
    users = data.split.some_users("test", lists, seed)
    return [[ids[item] for item in items[data.split.history(int(user), "test")]] for user in users]


def _agree(one: Sequence[Sequence[str]], other: Sequence[Sequence[str]]) -> None:
    """The peer without torch is the peer: the same lists, but for items that float sums swap."""
    same = np.mean([set(a) == set(b) for a, b in zip(one, other, strict=True)])
    if same < 0.99:
        raise PocketrecError(
            f"RePlay's graph in OpenVINO alone gives SasRecCompiled's ten for {same:.1%} of histories.",
            code="peers-differ",
        )


def _ask(python: Path | None, script: Path, job: dict[str, Any], threads: int = 1) -> dict[str, Any]:
    """The last line of what a script answers, in the environment of the peers or (None) in ours."""
    command = [str(python or sys.executable), "-W", "ignore", str(script)]
    several = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    done = subprocess.run(
        command,
        input=json.dumps(job),
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | ONE_THREAD | several,
        check=False,
    )
    if done.returncode:
        raise PocketrecError(
            f"{script.name} ended with status {done.returncode}; what it said is above.",
            code="process-failed",
        )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _own_bytes(bundle: Bundle, engine: str) -> tuple[int, str]:
    """What has to be shipped, and what it is made of."""
    sizes = part_sizes(bundle)
    graph, rows = sizes[f"graph {engine}"], sizes["item table"]
    rest = sizes["total"] - graph - rows
    return sizes["total"], _listed(
        {"graph": graph, "item rows": rows, "texts, ids, words and the rest": rest}
    )


def _listed(parts: dict[str, int]) -> str:
    return ", ".join(f"{name} {size / 1e6:.2f}" for name, size in parts.items())


def _described(bundle: Bundle) -> str:
    manifest, graph = bundle.manifest, bundle.manifest.graph
    return (
        f"`{manifest.name}`, {manifest.precision}: {bundle.catalogue.n:,} items, d = {graph.dim}, length "
        f"{graph.length}, {manifest.backbone.layers} layers, bundle {manifest.bundle_id[:12]}"
    )


def _way(metrics: Metrics, size: int, detail: str, answers: Sequence[dict[str, Any]]) -> Way:
    return Way(
        metrics=metrics,
        bytes=size,
        detail=detail,
        ms=ListFigure.of([answer["ms"] for answer in answers]),
        **{
            name: Figure.of([answer[name] for answer in answers])
            for name in ("ready_ms", "first_ms", "cpu_ms", "peak_bytes")
        },
    )


def main(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    data: Annotated[Path, typer.Argument(help="The data that it was built from.")],
    work: Annotated[Path, typer.Option(help="Where peers are installed and trained.")] = Path(
        "runs/frontier"
    ),
    runs: Annotated[int, typer.Option(help="Processes for each way.")] = 5,
    lists: Annotated[int, typer.Option(help="Test users whose lists are timed.")] = 1000,
    minutes: Annotated[float, typer.Option(help="Of processor time for RePlay's training, at most.")] = 60,
    threads: Annotated[int, typer.Option(help="Threads of that training.")] = 1,
    seed: Annotated[int, typer.Option(help="Draws users, and starts the training.")] = 0,
    to: Annotated[Path | None, typer.Option("--page", help="Page to write the tables into.")] = None,
) -> None:
    """Measure a bundle beside what a user would pick instead."""
    found = frontier(bundle, data, work, runs=runs, lists=lists, minutes=minutes, threads=threads, seed=seed)
    command = (
        f'make bench-frontier BUNDLE={bundle.name} DATA={data.name} FRONTIER="--runs {runs} --lists {lists}"'
    )
    show(page(found, command), to)


if __name__ == "__main__":
    typer.run(main)
