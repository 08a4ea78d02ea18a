"""Does the Kotlin engine give the lists that Python gives? Random histories on a real bundle, top 10 each.

    python -m pocketrec_tools.android_agreement BUNDLE [--histories 10000] [--skip 0] [--seed 0]
        [--counts] [--trace]

The `numpy` engine answers here and both Kotlin backbones on the JVM (Maven and JDK 17 must be installed; run
`mvn test-compile` in android_demo first). Lists are compared by the rule of docs/bundle.md, section 8. Times
are medians of the last half of the calls, one thread, the runtimes one after the other. With `--counts` they
answer side by side, and no times are told. With `--trace` each list that differs is traced to its cause
(android_trace.py); that takes a second a list where histories are long.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from pocketrec.bundle import Bundle
from pocketrec.golden import Case, disagreements, parse_golden
from pocketrec.recommender import Recommender
from pocketrec_tools.android_trace import Tracer, summary

ENGINE = Path(__file__).resolve().parents[2] / "android_demo" / "engine"
K = 10

History = list[tuple[str, str, int | None]]


def random_histories(bundle: Bundle, count: int, seed: int) -> list[History]:
    """Histories of 1 to 1.5 · length events: items by prior, types of the manifest, mostly rising times."""
    rng = np.random.default_rng(seed)
    catalogue, manifest = bundle.catalogue, bundle.manifest
    weight = catalogue.prior.astype(np.float64) + 1
    weight /= weight.sum()
    histories: list[History] = []
    for _ in range(count):
        size = int(rng.integers(1, manifest.graph.length * 3 // 2 + 1))
        items = rng.choice(catalogue.n, size, p=weight).tolist()
        types = rng.choice(manifest.events, size).tolist()
        times = (1_700_000_000 + np.cumsum(rng.exponential(40_000, size).astype(int) - 2_000)).tolist()
        untimed = rng.random(size) < 0.05
        histories.append(
            [
                (catalogue.item_id(i), e, None if u else t)
                for i, e, t, u in zip(items, types, times, untimed, strict=True)
            ]
        )
    return histories


def python_answers(path: Path, engine: str, histories: list[History]) -> list[dict[str, Any]]:
    """What Python answers, as the Kotlin program writes it."""
    answers = []
    with Recommender.open(path, engine=engine) as recommender:
        for history in histories:
            started = time.perf_counter()
            ranked = recommender.rank(history, K)
            micros = (time.perf_counter() - started) * 1e6
            answers.append(
                {
                    "micros": micros,
                    "items": [item.item_id for item in ranked],
                    "scores": [item.score for item in ranked],
                }
            )
    return answers


def classpath() -> str:
    """The engine, its tests and what they need."""
    with tempfile.TemporaryDirectory() as folder:
        jars = Path(folder) / "classpath"
        maven = ["mvn", "-q", "-B", "dependency:build-classpath", f"-Dmdep.outputFile={jars}"]
        subprocess.run(maven, cwd=ENGINE, check=True, stdout=subprocess.DEVNULL)  # it colours even silence
        classes = [str(ENGINE / "target" / name) for name in ("classes", "test-classes")]
        return os.pathsep.join([*classes, jars.read_text("utf-8").strip()])


def kotlin_answers(path: Path, engine: str, histories: list[History], jars: str) -> list[dict[str, Any]]:
    """What Kotlin answers on this machine's JVM."""
    with tempfile.TemporaryDirectory() as folder:
        given, out = (Path(folder) / name for name in ("histories", "answers"))
        given.write_text("".join(json.dumps(history) + "\n" for history in histories), "utf-8")
        java = ["java", "-Xmx1g", "-cp", jars, "pocketrec.AgreementKt"]
        subprocess.run([*java, str(path.resolve()), engine, str(given), str(out)], check=True)
        return [json.loads(line) for line in out.read_text("utf-8").splitlines()]


def compare(want: list[dict[str, Any]], got: list[dict[str, Any]], tolerance: float) -> dict[str, Any]:
    """How many lists are equal, how many differ only by ties within the tolerance, and how many disagree."""
    counts = {"lists": len(want), "identical": 0, "ties": 0, "disagree": 0, "worst": 0.0}
    for expected, answer in zip(want, got, strict=True):
        differences = np.abs(np.subtract(expected["scores"], answer["scores"]))
        counts["worst"] = max(counts["worst"], float(differences.max(initial=0)))
        case = Case(
            history=(), k=K, filter_seen=True, exclude=(), candidates=None, fallback=False,
            items=tuple(expected["items"]), scores=tuple(expected["scores"]),
        )  # fmt: skip
        ranked = list(zip(answer["items"], answer["scores"], strict=True))
        if disagreements(case, ranked, tolerance):
            counts["disagree"] += 1
        elif expected["items"] == answer["items"]:
            counts["identical"] += 1
        else:
            counts["ties"] += 1
    return counts


def trace(
    path: Path,
    histories: list[History],
    want: list[dict[str, Any]],
    got: list[dict[str, Any]],
    tolerance: float,
) -> dict[str, Any]:
    """Why each list differs that does."""
    with Bundle.open(path) as bundle:
        tracer = Tracer(bundle)
        traces = [
            tracer.explain(index, history, expected, answer)
            for index, (history, expected, answer) in enumerate(zip(histories, want, got, strict=True))
            if expected["items"] != answer["items"]
        ]
    return summary(traces, tolerance)


def median_ms(answers: list[dict[str, Any]]) -> float:
    """Of the last half of the calls: the first half is warm-up."""
    return statistics.median(answer["micros"] for answer in answers[len(answers) // 2 :]) / 1000


def main() -> None:
    """The comparison as one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--histories", type=int, default=10_000)
    parser.add_argument("--skip", type=int, default=0, help="leave out so many before them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--counts", action="store_true", help="both at once, and no times")
    parser.add_argument("--trace", action="store_true", help="trace each list that differs")
    options = parser.parse_args()
    with Bundle.open(options.bundle) as bundle:
        histories = random_histories(bundle, options.skip + options.histories, options.seed)[options.skip :]
        tolerance = parse_golden(bundle.file_bytes("golden.json")).tolerance
    jars = classpath()
    with ThreadPoolExecutor(2 if options.counts else 1) as pool:
        numpy_ = pool.submit(python_answers, options.bundle, "numpy", histories)
        others = {
            engine: pool.submit(kotlin_answers, options.bundle, engine, histories, jars)
            for engine in ("kotlin", "onnxruntime")
        }
        want = numpy_.result()
        got = {engine: future.result() for engine, future in others.items()}
    report: dict[str, Any] = {"histories": options.histories, "seed": options.seed, "tolerance": tolerance}
    report |= {f"kotlin {engine}": compare(want, answers, tolerance) for engine, answers in got.items()}
    if options.trace:
        with ProcessPoolExecutor(len(got)) as processes:
            traces = {
                f"kotlin {engine}": processes.submit(
                    trace, options.bundle, histories, want, answers, tolerance
                )
                for engine, answers in got.items()
            }
            report["traces"] = {engine: future.result() for engine, future in traces.items()}
    if not options.counts:
        python_onnx = python_answers(options.bundle, "onnxruntime", histories)
        # How far two engines of one language are apart: what the Kotlin ones are to be held against.
        report["python onnxruntime"] = compare(want, python_onnx, tolerance)
        report["ms"] = {"python numpy": median_ms(want), "python onnxruntime": median_ms(python_onnx)}
        report["ms"] |= {f"kotlin {engine}": median_ms(answers) for engine, answers in got.items()}
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
