"""`pocketrec bench`: size, memory and speed of a bundle, each engine beside the others.

    report = bench("bundle/", runs=5)
    report.engines["onnxruntime"].rank_ms.median        # milliseconds for a ranked list, warm

Each engine runs in a process of its own, with one thread, and the engines take turns, run after run: machines
are noisy, and what slows one down then slows the others down too. docs/benchmarks/README.md has the rules.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from pocketrec.bundle import Bundle
from pocketrec.catalogue import Catalogue
from pocketrec.engines import ENGINE_NAMES, available_engines, load_engine
from pocketrec.errors import DataError, PocketrecError
from pocketrec.manifest import Manifest
from pocketrec.output import note, print_json, print_table
from pocketrec.verbs import AsJson, BundlePath
from pocketrec_tools.bench_report import BenchReport, EngineFigures, Figure
from pocketrec_tools.bench_worker import Job
from pocketrec_tools.machine import machine
from pocketrec_tools.processes import run_python

LISTS = 200
_MONTH = 30 * 86_400


def bench(
    bundle: str | Path,
    *,
    engine: str = "all",
    runs: int = 5,
    lists: int = LISTS,
    seed: int = 0,
    data_dir: str | Path | None = None,
    progress: bool = True,
) -> BenchReport:
    """Measure a bundle.

    Args:
        engine: a name, or "all" for every engine that can run the bundle here.
        runs: processes for each engine, and fresh `pocketrec rank` processes.
        lists: warm lists in each run.
        seed: draws the histories.
        data_dir: take the histories of this data's test users; None makes them up from the catalogue.
        progress: say on standard error which run it is.

    Raises:
        BundleError: the bundle is not sound.
        DataError: `bench-invalid`; or the data cannot be used.
        PocketrecError: `engine-unavailable`; `process-failed` when a process fails, with what it said.
    """
    if runs < 1 or lists < 1:
        raise DataError(
            f"{runs} runs of {lists} lists cannot be measured.",
            code="bench-invalid",
            remedy="Ask for 1 or more of each.",
        )
    bundle = Path(bundle)
    with Bundle.open(bundle) as opened:
        manifest, catalogue = opened.manifest, opened.catalogue
        engines, unusable = _engines(engine, opened)
        histories, whence = _histories(catalogue, manifest, lists, seed, data_dir)
        sizes = part_sizes(opened)
        items = ",".join(_some_items(histories))
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in engines}
    processes: dict[str, list[float]] = {name: [] for name in engines}
    cold: dict[str, list[float]] = {name: [] for name in engines}
    bare = []
    for run in range(runs):
        bare.append(_process_ms("-c", "pass"))
        for name in engines:
            if progress:
                note(f"run {run + 1} of {runs}: {name}")
            answers[name].append(_work({"bundle": str(bundle), "engine": name, "histories": histories}))
            command = ["rank", str(bundle), "--items", items, "--engine", name, "--json"]
            processes[name].append(_process_ms("-m", "pocketrec.cli", *command))
            drop_pages(bundle)
            cold[name].append(_process_ms("-m", "pocketrec.cli", *command))
    return BenchReport(
        bundle=str(bundle),
        bundle_id=manifest.bundle_id,
        name=manifest.name,
        precision=manifest.precision,
        items=catalogue.n,
        dim=manifest.graph.dim,
        length=manifest.graph.length,
        bytes=sizes,
        machine=machine(),
        runs=runs,
        lists=len(histories),
        seed=seed,
        histories=whence,
        python_ms=Figure.of(bare),
        engines={name: EngineFigures.of(answers[name], processes[name], cold[name]) for name in engines},
        unusable=unusable,
    )


def part_sizes(bundle: Bundle) -> dict[str, int]:
    """Bytes of the parts of a bundle; `rest`: manifest, signature, input rows, tokenizer, golden vectors."""
    sizes, manifest = bundle.sizes, bundle.manifest
    files = {f"graph {name}": entry.file for name, entry in manifest.engines.items()}
    files |= {"item table": manifest.tables["items"].file, "word table": manifest.tables["words"].file}
    files["catalogue"] = "catalogue.safetensors"
    parts = {part: sizes[file] for part, file in files.items()}
    rest = sum(size for file, size in sizes.items() if file not in files.values())
    return {**parts, "rest": rest, "total": sum(sizes.values())}


def random_histories(
    catalogue: Catalogue, manifest: Manifest, count: int, seed: int
) -> list[list[tuple[str, str, int | None]]]:
    """Made-up histories: 1 to `length` items drawn by the prior, any event type, gaps up to a month."""
    rng = np.random.default_rng(seed)
    prior = catalogue.prior.astype(np.float64) + 1e-9  # an all-zero prior draws evenly
    chance = prior / prior.sum()
    histories = []
    for size in rng.integers(1, manifest.graph.length + 1, count).tolist():
        drawn = rng.choice(catalogue.n, size, p=chance).tolist()
        kinds = rng.choice(list(manifest.events), size).tolist()
        times = 1_700_000_000 + np.cumsum(np.exp(rng.uniform(0, np.log(_MONTH), size)).astype(np.int64))
        ids = [catalogue.item_id(position) for position in drawn]
        histories.append(list(zip(ids, kinds, times.tolist(), strict=True)))
    return histories


def _histories(
    catalogue: Catalogue, manifest: Manifest, count: int, seed: int, data_dir: str | Path | None
) -> tuple[list[list[tuple[str, str, int | None]]], str]:
    if data_dir is None:
        length = manifest.graph.length
        whence = f"histories drawn from the catalogue by its prior, 1 to {length} events, seed {seed}"
        return random_histories(catalogue, manifest, count, seed), whence
    from pocketrec_tools.held_out import HeldOut

    held_out = HeldOut.load(data_dir, catalogue, "test", count, seed)
    found = [held_out.history(user) for user in held_out.users.tolist()]
    return found, f"histories of {len(found)} test users of {data_dir}, seed {seed}"


def _engines(wanted: str, bundle: Bundle) -> tuple[list[str], dict[str, str]]:
    """Names to measure, and why others cannot be."""
    usable = available_engines(bundle)
    unusable = {}
    for name in ENGINE_NAMES if wanted == "all" else [wanted]:
        if name not in usable:
            try:
                load_engine(name, bundle).close()  # says why
            except PocketrecError as error:
                if wanted != "all":
                    raise
                unusable[name] = str(error)
    return (usable if wanted == "all" else [wanted]), unusable


def _some_items(histories: list[list[tuple[str, str, int | None]]]) -> list[str]:
    """Up to ten ids to hand to `pocketrec rank`, which separates them by commas."""
    ids = [item for history in histories for item, _, _ in history if "," not in item]
    return list(dict.fromkeys(ids))[:10]


def _work(job: Job) -> dict[str, Any]:
    said = run_python("-m", "pocketrec_tools.bench_worker", given=json.dumps(job))
    answer: dict[str, Any] = json.loads(said.splitlines()[-1])
    return answer


def drop_pages(bundle: Path) -> None:
    """Ask the system to forget the pages of a bundle's files, as after a restart; Linux does, others may not.

    Interpreter and libraries stay cached: dropping those needs root.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    for file in sorted(bundle.iterdir()) if bundle.is_dir() else [bundle]:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # a page that is not written yet cannot be dropped
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _process_ms(*arguments: str) -> float:
    """Milliseconds from the start to the end of a Python process."""
    began = time.perf_counter()
    run_python(*arguments)
    return (time.perf_counter() - began) * 1e3


def cli_bench(
    bundle: BundlePath,
    engine: Annotated[
        str, typer.Option("--engine", metavar="NAME", help="onnxruntime, executorch, numpy, or all.")
    ] = "all",
    runs: Annotated[int, typer.Option("--runs", metavar="N", help="Processes for each engine.")] = 5,
    lists: Annotated[int, typer.Option("--lists", metavar="N", help="Warm lists in each run.")] = LISTS,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="DIR", help="Take the histories of this data directory.", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Draws the histories.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Measure size, memory and speed of a bundle on every engine here."""
    report = bench(bundle, engine=engine, runs=runs, lists=lists, seed=seed, data_dir=data)
    if as_json:
        print_json(report.to_dict())
        return
    headers, rows = report.table()
    print_table(headers, rows, right=headers[1:])
    for line in report.remarks():
        typer.echo(line)
