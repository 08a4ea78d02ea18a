"""One graph on one engine, in a process of its own: queries of all inputs, and milliseconds of each.

Reads JSON {"artifact", "engine", "inputs", "most", "queries"} from standard input: at most `most` inputs are
run, all for 0. Writes the queries float32 [n, d] to that file, unless it is null, and JSON {"ms": [...]} to
standard output.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

WARM = 20


def main() -> None:
    """Run the one job."""
    job = json.load(sys.stdin)
    with np.load(job["inputs"]) as inputs:
        rows, mask = inputs["rows"], inputs["mask"]
    if job["most"]:
        rows, mask = rows[: job["most"]], mask[: job["most"]]
    length, dim = rows.shape[1:]
    artifact = Path(job["artifact"]).read_bytes()
    if job["engine"] == "onnxruntime":
        from pocketrec.engine_onnxruntime import OnnxRuntimeEngine as Engine
    else:
        from pocketrec.engine_executorch import ExecutorchEngine as Engine  # type: ignore[assignment]
    engine = Engine(artifact, length, dim)
    for i in range(min(WARM, len(rows))):
        engine.run(rows[i : i + 1], mask[i : i + 1])
    queries, spent = np.empty((len(rows), dim), np.float32), []
    for i in range(len(rows)):
        began = time.perf_counter()
        queries[i] = engine.run(rows[i : i + 1], mask[i : i + 1])
        spent.append(1000 * (time.perf_counter() - began))
    if job["queries"] is not None:
        np.save(job["queries"], queries)
    sys.stdout.write(json.dumps({"ms": spent}) + "\n")


if __name__ == "__main__":
    main()
