"""What `bench` found: figures with their spread, and the table of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pocketrec.errors import DataError
from pocketrec.output import human_bytes


@dataclass(frozen=True)
class Figure:
    """A figure over repeated runs: median, and the smallest and largest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """The figure of these values, one for each run."""
        return cls(float(np.median(values)), float(min(values)), float(max(values)))


@dataclass(frozen=True)
class ListFigure:
    """A figure over many lists, all runs together.

    Attributes:
        median, p10, p90: over all lists.
        low, high: the smallest and the largest median of a run.
    """

    median: float
    p10: float
    p90: float
    low: float
    high: float

    @classmethod
    def of(cls, runs: Sequence[Sequence[float]]) -> ListFigure:
        """The figure of these values, one for each list of each run."""
        p10, median, p90 = np.percentile(np.concatenate(runs), [10, 50, 90]).tolist()
        medians = [float(np.median(run)) for run in runs]
        return cls(median, p10, p90, min(medians), max(medians))


@dataclass(frozen=True)
class EngineFigures:
    """One engine; times in milliseconds, memory in bytes. `bench_worker.measure` says what each one covers.

    Attributes:
        process_ms: `pocketrec rank … --json` as a process of its own, from its start to its end.
        cold_ms: the same after the system was asked to drop the bundle's files from its page cache.
        overhead: a warm list as a multiple of the bare graph and the bare scan together, medians.
    """

    version: str
    process_ms: Figure
    import_ms: Figure
    open_ms: Figure
    verify_ms: Figure
    load_ms: Figure
    first_ms: Figure
    rank_ms: ListFigure
    inputs_ms: ListFigure
    graph_ms: ListFigure
    scan_ms: ListFigure
    cpu_ms: Figure
    cold_ms: Figure
    overhead: float
    peak_bytes: Figure

    @classmethod
    def of(
        cls, runs: Sequence[dict[str, Any]], process_ms: Sequence[float], cold_ms: Sequence[float]
    ) -> EngineFigures:
        """From what the workers of one engine answered, one for each run."""

        def one(name: str) -> Figure:
            return Figure.of([run[name] for run in runs])

        def many(name: str) -> ListFigure:
            return ListFigure.of([run[name] for run in runs])

        return cls(
            version=runs[0]["version"],
            process_ms=Figure.of(process_ms),
            import_ms=one("import_ms"),
            open_ms=one("open_ms"),
            verify_ms=one("verify_ms"),
            load_ms=one("load_ms"),
            first_ms=one("first_ms"),
            rank_ms=many("rank_ms"),
            inputs_ms=many("inputs_ms"),
            graph_ms=many("graph_ms"),
            scan_ms=many("scan_ms"),
            cpu_ms=one("cpu_ms"),
            cold_ms=Figure.of(cold_ms),
            overhead=many("rank_ms").median / (many("graph_ms").median + many("scan_ms").median),
            peak_bytes=one("peak_bytes"),
        )


@dataclass(frozen=True)
class BenchReport:
    """What `bench` found.

    Attributes:
        bundle, bundle_id, name, precision, items, dim, length: what was measured.
        bytes: sizes by part: `graph NAME` for each engine, `item table`, `word table`, `catalogue`, `rest`,
            and `total`.
        machine: processor, cores, system, versions.
        runs, lists, seed, histories: processes for each engine, lists in each, and where their histories are
            from.
        python_ms: start and end of an interpreter that does nothing, which every process pays.
        engines: by name.
        unusable: engines that the bundle could have been run by, and why they were not.
    """

    bundle: str
    bundle_id: str
    name: str
    precision: str
    items: int
    dim: int
    length: int
    bytes: dict[str, int]
    machine: dict[str, str | int]
    runs: int
    lists: int
    seed: int
    histories: str
    python_ms: Figure
    engines: dict[str, EngineFigures]
    unusable: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """For JSON; docs/benchmarks/README.md describes the keys."""
        return {**asdict(self), "threads": 1}

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Headers and rows for a terminal: one column for each engine."""
        headers = ["", *(f"{name} {figures.version}" for name, figures in self.engines.items())]
        rows = [
            [label, *(_cell(getattr(figures, name)) for figures in self.engines.values())]
            for label, name in _ROWS
        ]
        rows.append(
            ["peak memory", *(human_bytes(round(f.peak_bytes.median)) for f in self.engines.values())]
        )
        rows.append(
            ["warm list, × bare graph and scan", *(f"{f.overhead:.2f}" for f in self.engines.values())]
        )
        rows.append(["its graph", *(human_bytes(self.bytes[f"graph {name}"]) for name in self.engines)])
        return headers, rows

    def remarks(self) -> Iterator[str]:
        """What a reader of the table has to know besides it."""
        sizes = ", ".join(
            f"{part} {human_bytes(size)}" for part, size in self.bytes.items() if part != "total"
        )
        yield (
            "Milliseconds, medians; in brackets the smallest and largest of the runs or, for a warm list and "
            "its parts, the 10th and 90th percentile of all lists."
        )
        yield (
            f"{self.runs} runs, engines in turn, each in a process of its own with one thread, {self.lists} "
            f"lists of 10 each; {self.histories}."
        )
        yield (
            f"{self.machine['processor']}, {self.machine['cores']} cores; Python {self.machine['python']}, "
            f"whose bare start and end takes {self.python_ms.median:.0f} ms."
        )
        yield (
            f"{self.name}, {self.precision}, {self.items} items: "
            f"{human_bytes(self.bytes['total'])}, of which {sizes}."
        )
        yield from (f"Not measured: {reason}" for reason in self.unusable.values())


def write_between(path: Path, text: str) -> None:
    """Replace what stands in a page between the mark `<!-- measured -->` and the next `<!-- end -->`.

    Raises:
        DataError: `page-marks`, the page lacks one of them.
    """
    before, start, rest = path.read_text().partition("<!-- measured -->\n")
    _, end, after = rest.partition("<!-- end -->")
    if not start or not end:
        raise DataError(
            f"{path} has no place for what was measured.",
            code="page-marks",
            remedy="Put a line <!-- measured --> and a line <!-- end --> where it belongs.",
        )
    path.write_text(f"{before}{start}\n{text}\n{end}{after}")


def show(text: str, to: Path | None) -> None:
    """On standard output, or into the page `to`, as `write_between` does."""
    if to is None:
        sys.stdout.write(f"{text}\n")
    else:
        write_between(to, text)


_ROWS = (
    ("fresh process: start, verify, rank, exit", "process_ms"),
    ("the same, bundle not in the page cache", "cold_ms"),
    ("import", "import_ms"),
    ("open", "open_ms"),
    ("  verify and map", "verify_ms"),
    ("  load the engine", "load_ms"),
    ("first list", "first_ms"),
    ("warm list", "rank_ms"),
    ("  history to rows", "inputs_ms"),
    ("  graph", "graph_ms"),
    ("  scan of the catalogue, ten best", "scan_ms"),
    ("processor time of a warm list", "cpu_ms"),
)


def _cell(figure: Figure | ListFigure) -> str:
    low, high = (figure.p10, figure.p90) if isinstance(figure, ListFigure) else (figure.low, figure.high)
    return f"{_short(figure.median)} ({_short(low)} to {_short(high)})"


def _short(value: float) -> str:
    """Three significant digits or so."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
