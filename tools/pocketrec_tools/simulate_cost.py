"""What a replay costs beside the bare engine, in CPU seconds of one process: a busy machine does little harm.

    python -m pocketrec_tools.simulate_cost BUNDLE DATA_DIR --users 200

For each chunk of fifty people it takes turns: replay them (histories, lists, figures, both files), then run
the graph alone as often. Chunk by chunk the two make a ratio; its median and range are printed as JSON.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from pocketrec.bundle import Bundle
from pocketrec.engines import Engine, FloatArray, load_engine
from pocketrec.output import print_json
from pocketrec_tools.machine import machine
from pocketrec_tools.simulate_run import set_up
from pocketrec_tools.simulate_settings import Arm, Settings
from pocketrec_tools.simulate_work import Fleet


def cost(bundle: Path, data_dir: Path, settings: Settings) -> dict[str, Any]:
    """CPU seconds of a replay and of the bare engine, over the same number of lists."""
    replayed, bare, lists = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        run = set_up(Path(folder) / "run", data_dir, [Arm(name="A", bundle=bundle)], settings)
        run.job.out.mkdir()
        with Bundle.open(bundle) as opened, Fleet(run.job) as fleet:
            engine = load_engine(str(run.settings.engine), opened, 1)
            graph = opened.manifest.graph
            rows = np.random.default_rng(0).normal(size=(1, graph.length, graph.dim)).astype(np.float32)
            mask = np.ones((1, graph.length), np.float32)
            for chunk in run.chunks:
                replayed.append(_cpu_seconds(partial(fleet.replay, chunk)))
                bare.append(_cpu_seconds(partial(_often, engine, rows, mask, chunk.events)))
                lists.append(chunk.events)
            engine.close()
    ratios = np.array(replayed) / np.array(bare)
    return {
        "bundle": bundle.name,
        "data": data_dir.name,
        "engine": run.settings.engine,
        "users": len(run.held_out.users),
        "lists": sum(lists),
        "seed": settings.seed,
        "replay_cpu_ms_per_list": sum(replayed) / sum(lists) * 1e3,
        "engine_cpu_ms_per_list": sum(bare) / sum(lists) * 1e3,
        "ratio": {
            "median": float(np.median(ratios)),
            "least": float(ratios.min()),
            "most": float(ratios.max()),
        },
        "chunks": len(lists),
        "machine": machine(),
    }


def _often(engine: Engine, rows: FloatArray, mask: FloatArray, times: int) -> None:
    for _ in range(times):
        engine.run(rows, mask)


def _cpu_seconds(action: Callable[[], object]) -> float:
    began = time.process_time()
    action()
    return time.process_time() - began


def main(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    data_dir: Annotated[Path, typer.Argument(metavar="DATA_DIR")],
    users: Annotated[int, typer.Option("--users", help="Drawn by the seed.")] = 200,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    engine: Annotated[str | None, typer.Option("--engine")] = None,
) -> None:
    """Measure what a replay costs beside the bare engine."""
    print_json(cost(bundle, data_dir, Settings(users=users, seed=seed, engine=engine)))


if __name__ == "__main__":
    typer.run(main)
