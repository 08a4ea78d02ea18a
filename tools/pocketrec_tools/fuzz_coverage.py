"""The parsers under a fuzzer that follows coverage: atheris, libFuzzer for Python (the `fuzz` extra).

    python -m pocketrec_tools.fuzz_coverage [--only graph,delta] [--runs 20000] [--seconds 0] [--seed 1]
        [--processes 1] [--corpus DIR] [--page docs/benchmarks/fuzz.md]

For each parser a process of its own (`fuzz_coverage_child`), whose `pocketrec` is instrumented as it is
imported. It starts from the sound inputs, and keeps what reaches new branches: in `--corpus`, to go on from
the next time. An input on which a parser raises anything but our errors, breaks a law, takes too long or too
much memory ends it, and stays in `runs/fuzz`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from pocketrec.errors import PocketrecError
from pocketrec_tools.fuzz import commit, write_part
from pocketrec_tools.fuzz_world import World, make_world

MARK = "pocketrec_tools.fuzz_coverage"
BROKEN = Path("runs/fuzz")
"""Where inputs that break a law stay."""

_COVERED = re.compile(rb"#(\d+)\s+\w+\s+cov: (\d+) ft: (\d+) corp: (\d+)/")
_STAT = re.compile(rb"stat::(\w+):\s+(\d+)")
_LINE = "| {target} | {inputs:,} | {covered_first} | {covered} | {corpus} | {peak} |"

_PART = """\
`make fuzz-coverage FUZZ="--runs {runs} --seconds {seconds} --seed {seed}"`, commit {commit}:
**{inputs:,} inputs, {verdict}.**

| parser | inputs | branches from the seeds | branches in the end | kept inputs | peak MiB |
|---|---|---|---|---|---|
{rows}
"""


@dataclass
class Covered:
    """One parser's run: inputs, branches of `pocketrec` that the seeds and all inputs reached, inputs kept,
    peak memory in MiB, and the end of what the child said where it failed."""

    target: str
    inputs: int = 0
    covered_first: int = 0
    covered: int = 0
    corpus: int = 0
    peak: int = 0
    failure: str = ""


def seeds(world: World) -> dict[str, list[bytes]]:
    """Sound inputs by parser."""
    bundle = {path.name: path.read_bytes() for path in world.bundle.iterdir()}
    return {
        "manifest": [bundle["manifest.json"], (world.following / "manifest.json").read_bytes()],
        "container": [world.archive, world.delta_archive],
        "tensors": [data for name, data in bundle.items() if name.endswith(".safetensors")],
        "catalogue": [bundle["catalogue.safetensors"]],
        "golden": [bundle["golden.json"]],
        "graph": [bundle["model.onnx"]],
        "delta": [world.delta["changes.safetensors"]],
        "delta manifest": [world.delta["delta.json"]],
        "lines": [world.lines],
    }


def words(samples: Sequence[bytes]) -> list[bytes]:
    """What occurs in the samples between quotes, for libFuzzer's dictionary."""
    found = {match for raw in samples for match in re.findall(rb'"[A-Za-z0-9_.]{1,40}"', raw)}
    return [
        *sorted(found),
        b"null",
        b"true",
        b"1e999",
        b"-1",
        b"9223372036854775807",
        b"PK\\x05\\x06",
        b"[[[[",
    ]


def cover(
    target: str, options: Sequence[str], folder: Path, corpus: Path, samples: Sequence[bytes]
) -> Covered:
    """Run one parser's child with these options of libFuzzer; `folder` holds the world's files for it."""
    given = folder / "seeds" / target.replace(" ", "-")
    given.mkdir(parents=True)
    corpus.mkdir(parents=True, exist_ok=True)
    broken = BROKEN.absolute()
    broken.mkdir(parents=True, exist_ok=True)
    for number, sample in enumerate(samples):
        (given / f"sound-{number}").write_bytes(sample)
    quoted = [word.strip(b'"') for word in words(samples)]
    dictionary = given.with_suffix(".words")
    dictionary.write_bytes(b"".join(b'"' + word + b'"\n' for word in quoted))
    command = [
        sys.executable, "-m", "pocketrec_tools.fuzz_coverage_child", target, str(folder),
        *options, "-max_len=65536", "-len_control=0", "-timeout=120",
        f"-dict={dictionary}", f"-artifact_prefix={broken}/{given.name}-",
        "-print_final_stats=1", str(corpus), str(given),
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    lines = _COVERED.findall(done.stdout)
    stats = {name.decode(): int(value) for name, value in _STAT.findall(done.stdout)}
    found = Covered(target, stats.get("number_of_executed_units", 0), peak=stats.get("peak_rss_mb", 0))
    if lines:
        first = next((line for line in lines if line[2] != b"0"), lines[0])
        found.covered_first, found.covered, found.corpus = int(first[1]), int(lines[-1][1]), int(lines[-1][3])
    if done.returncode or not found.inputs:
        found.failure = done.stdout.decode("utf-8", "replace")[-3000:] or f"status {done.returncode}"
    return found


def cover_all(
    only: Sequence[str], runs: int, seed: int, corpus: Path | None, *, seconds: int = 0, processes: int = 1
) -> list[Covered]:
    """Every parser, or those named, `processes` at a time.

    Args:
        runs: inputs for each; -1 sets no end.
        seconds: for each; 0 sets no end.

    Raises:
        PocketrecError: `package-missing`, `argument-invalid`.
    """
    import importlib.util

    if importlib.util.find_spec("atheris") is None:
        raise PocketrecError(
            "the package atheris is not installed.",
            code="package-missing",
            remedy="pip install 'pocketrec[fuzz]' (Linux on x86-64, Python before 3.14)",
        )
    with tempfile.TemporaryDirectory(prefix="fuzz-") as work:
        folder = Path(work)
        (folder / "world").mkdir()
        world = make_world(folder / "world")
        (folder / "delta").mkdir()
        for name, data in world.delta.items():
            (folder / "delta" / name).write_bytes(data)
        samples = seeds(world)
        if unknown := set(only) - set(samples):
            raise PocketrecError(
                f"there is no parser {sorted(unknown)}.",
                code="argument-invalid",
                remedy=f"Choose of {', '.join(samples)}.",
            )
        root = folder / "corpus" if corpus is None else corpus
        options = [f"-runs={runs}", f"-seed={seed}", f"-max_total_time={seconds}"]
        wanted = [target for target in samples if not only or target in only]
        with ThreadPoolExecutor(max_workers=processes) as threads:
            started = [
                threads.submit(
                    cover,
                    target,
                    options,
                    folder,
                    root.absolute() / target.replace(" ", "-"),
                    samples[target],
                )
                for target in wanted
            ]
            return [one.result() for one in started]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; status 1 when a law is broken."""
    parser = argparse.ArgumentParser(description="the parsers under atheris")
    parser.add_argument("--only", default="", help="names of parsers, with commas")
    parser.add_argument("--runs", type=int, default=20_000, help="inputs for each; -1: no end")
    parser.add_argument("--seconds", type=int, default=0, help="for each; 0: no end")
    parser.add_argument("--processes", type=int, default=1, help="parsers at a time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, help="go on from what is here, and keep what is found")
    parser.add_argument("--page", type=Path, help="write the table between the marks of this page")
    given = parser.parse_args(arguments)
    try:
        found = cover_all(
            [name for name in given.only.split(",") if name],
            given.runs,
            given.seed,
            given.corpus,
            seconds=given.seconds,
            processes=given.processes,
        )
    except PocketrecError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    broken = [one for one in found if one.failure]
    sys.stdout.write(json.dumps({"seed": given.seed, "parsers": [asdict(one) for one in found]}) + "\n")
    for one in broken:
        sys.stderr.write(f"{one.target}: {one.failure}\n")
    if given.page is not None:
        made = _PART.format(
            runs=given.runs,
            seconds=given.seconds,
            inputs=sum(one.inputs for one in found),
            seed=given.seed,
            commit=commit(),
            verdict=f"{len(broken)} parsers broke a law" if broken else "no law was broken",
            rows="\n".join(_LINE.format(**asdict(one)) for one in found),
        )
        write_part(given.page, made, MARK)
    sys.exit(bool(broken))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
