"""The rows of the demo's table: what the build noted down, and what each engine here makes of the bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pocketrec.bundle import Bundle
from pocketrec.engines import available_engines
from pocketrec.output import note
from pocketrec_tools.bench import part_sizes
from pocketrec_tools.demo_report import DemoRow
from pocketrec_tools.processes import run_python

NUMPY_USERS = 500


def measure_rows(data: Path, bundle: Path, checkpoint: Path) -> tuple[list[DemoRow], int]:
    """The rows, and the bytes of the bundle with the graphs of all engines.

    Raises:
        PocketrecError: `process-failed`, when an engine does not do its work.
    """
    with Bundle.open(bundle) as opened:
        figures: dict[str, Any] = opened.manifest.figures
        sizes = part_sizes(opened)
        engines = available_engines(opened)
    from pocketrec_tools.float_student import measure  # brings torch

    student_bytes, student_ms = measure(checkpoint, bundle, data)
    rows = [
        _row("popularity", figures["popularity"]),
        _row("teacher, float32", figures["teacher"]["test"], 4 * figures["teacher"]["parameters"]),
        _row("student, float32", figures["student"]["test"], student_bytes, student_ms),
    ]
    for name in engines:
        command = ["evaluate", str(bundle), str(data), "--engine", name, "--json"]
        if name == "numpy":  # the definition, not made to be quick
            command += ["--users", str(NUMPY_USERS)]
        note(f"      {name}")
        found = json.loads(run_python("-m", "pocketrec.cli", *command))
        rows.append(_row(f"int8 bundle, {name}", found, _bytes_for(name, sizes), found["ms_per_list"]))
    return rows, sizes["total"]


def _bytes_for(engine: str, sizes: dict[str, int]) -> int:
    """Bytes of a bundle that holds no other engine's graph; that of numpy is part of every bundle."""
    others = {f"graph {name}" for name in ("onnxruntime", "executorch") if name != engine}
    return sizes["total"] - sum(size for part, size in sizes.items() if part in others)


def _row(name: str, figures: dict[str, Any], size: int | None = None, ms: float | None = None) -> DemoRow:
    return DemoRow(name, figures["users"], figures["hr@10"], figures["ndcg@10"], size, ms)
