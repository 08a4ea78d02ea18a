"""How fast does the JVM scan a mapped table? Beside Python, on the same files, in one run.

    python -m pocketrec_tools.android_scan [--rows 100000,1000000] [--runs 3] [--rounds 8] [--seed 0]

Random rows, d = 128, int8 and int4; every way gives the ten best of eight queries in each of `--rounds`
rounds, the first half of which is warm-up, in `--runs` runs in turns. One thread. `cpu_ms` is processor time,
which is what counts on a busy machine. GB/s are bytes of integers over `ms`. Maven and JDK 17 must be
installed; run `mvn test-compile` in android_demo first. The lists of all ways must be equal, else it fails.
"""

from __future__ import annotations

import argparse
import json
import mmap
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.numpy import save_file

from pocketrec.manifest import TableSpec
from pocketrec.quantise import quantise_rows_int4, quantise_rows_int8
from pocketrec.safetensors_map import map_tensors
from pocketrec.tables import Table
from pocketrec_tools.android_agreement import classpath

DIM, QUERIES, K = 128, 8, 10
FILE = "items.safetensors"
Scheme = Literal["int8", "int4"]
Answer = dict[str, Any]


def make_table(folder: Path, n: int, scheme: Scheme, rng: np.random.Generator) -> TableSpec:
    """A table of normal rows [n, DIM] as FILE in `folder`."""
    quantise: Any = quantise_rows_int8 if scheme == "int8" else quantise_rows_int4
    step = 1 << 16
    parts = [
        quantise(rng.standard_normal((min(step, n - i), DIM), dtype=np.float32)) for i in range(0, n, step)
    ]
    q, scale = (np.concatenate(each) for each in zip(*parts, strict=True))
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")  # without one, it is no folder of a bundle
    save_file({"q": q, "scale": scale}, folder / FILE)
    return TableSpec(file=FILE, rows=n, dim=DIM, scheme=scheme)


def python_answer(
    folder: Path, spec: TableSpec, scan: Literal["mapped", "packed"], queries: Any, rounds: int
) -> Answer:
    """What Python takes, and its lists."""
    with open(folder / FILE, "rb") as file:
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    table = Table(spec, map_tensors(view, FILE))
    table.use(scan)
    answer: Answer = {"ms": [], "cpu_ms": []}
    for _ in range(rounds):
        answer["best"] = []
        for query in queries:
            started, cpu = time.perf_counter(), time.thread_time()
            best, _ = table.best(query, K)
            answer["ms"].append((time.perf_counter() - started) * 1e3)
            answer["cpu_ms"].append((time.thread_time() - cpu) * 1e3)
            answer["best"].append(best.tolist())
    return answer


def kotlin_answer(folder: Path, spec: TableSpec, queries: Path, rounds: int, jars: str) -> Answer:
    """What the JVM takes, and its lists."""
    java = ["java", "-Xmx1g", "-cp", jars, "pocketrec.ScanKt"]
    given = [str(folder), str(spec.rows), str(spec.dim), spec.scheme, str(queries), str(rounds)]
    ran = subprocess.run([*java, *given], check=True, stdout=subprocess.PIPE, text=True)
    answer: Answer = json.loads(ran.stdout)
    return answer


def measure(n: int, scheme: Scheme, runs: int, rounds: int, seed: int, jars: str) -> dict[str, Any]:
    """Figures of every way over one table."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as name:
        folder, queries = Path(name) / "table", Path(name) / "queries"
        spec = make_table(folder, n, scheme, rng)
        asked = rng.standard_normal((QUERIES, DIM), dtype=np.float32)
        queries.write_bytes(asked.tobytes())
        answers: dict[str, list[Answer]] = {"python mapped": [], "python packed": [], "kotlin": []}
        for _ in range(runs):
            answers["python mapped"].append(python_answer(folder, spec, "mapped", asked, rounds))
            answers["python packed"].append(python_answer(folder, spec, "packed", asked, rounds))
            answers["kotlin"].append(kotlin_answer(folder, spec, queries, rounds, jars))
    wanted = answers["python mapped"][0]["best"]
    if any(answer["best"] != wanted for given in answers.values() for answer in given):
        raise SystemExit(f"{n} rows, {scheme}: the lists differ")
    size = n * DIM // (1 if scheme == "int8" else 2)
    return {way: _figures(given, size) for way, given in answers.items()}


def _figures(given: list[Answer], size: int) -> dict[str, Any]:
    def warm(key: str) -> list[float]:
        return [value for answer in given for value in answer[key][len(answer[key]) // 2 :]]

    ms = statistics.median(warm("ms"))
    runs = [round(statistics.median(answer["ms"][len(answer["ms"]) // 2 :]), 2) for answer in given]
    return {
        "ms": round(ms, 2),
        "runs_ms": runs,
        "cpu_ms": round(statistics.median(warm("cpu_ms")), 2),
        "gb_per_s": round(size / ms / 1e6, 2),
    }


def main() -> None:
    """The figures as one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", default="100000,1000000")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    jars = classpath()
    schemes: tuple[Scheme, ...] = ("int8", "int4")
    report = {
        f"{n} rows, {scheme}": measure(n, scheme, options.runs, options.rounds, options.seed, jars)
        for n in map(int, options.rows.split(","))
        for scheme in schemes
    }
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
