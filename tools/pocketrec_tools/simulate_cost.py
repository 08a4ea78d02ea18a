"""What a replay costs beside the bare engine, in one process: CPU seconds, to which a busy machine does
little harm, and lists a second by the clock, which mean something on an idle machine only.

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
from numpy.typing import NDArray

from pocketrec.bundle import Bundle
from pocketrec.engines import Engine, FloatArray, load_engine
from pocketrec.output import print_json
from pocketrec_tools.machine import machine
from pocketrec_tools.simulate_run import set_up
from pocketrec_tools.simulate_settings import Arm, Settings
from pocketrec_tools.simulate_work import Fleet


def cost(bundle: Path, data_dir: Path, settings: Settings) -> dict[str, Any]:
    """CPU seconds of a replay and of the bare engine, for as many lists; and both by the clock."""
    replayed, bare, lists = [], [], []
    clocks = []
    with tempfile.TemporaryDirectory() as folder:
        run = set_up(Path(folder) / "run", data_dir, [Arm(name="A", bundle=bundle)], settings)
        run.job.out.mkdir()
        with Bundle.open(bundle) as opened, Fleet(run.job) as fleet:
            engine = load_engine(str(run.settings.engine), opened, 1)
            graph = opened.manifest.graph
            rows = np.random.default_rng(0).normal(size=(1, graph.length, graph.dim)).astype(np.float32)
            mask = np.ones((1, graph.length), np.float32)
            for chunk in run.chunks:
                of_replay = _seconds(partial(fleet.replay, chunk))
                of_engine = _seconds(partial(_often, engine, rows, mask, chunk.events))
                replayed.append(of_replay[0])
                bare.append(of_engine[0])
                clocks.append((of_replay[1], of_engine[1]))
                lists.append(chunk.events)
            engine.close()
    ratios = np.array(replayed) / np.array(bare)
    pace = np.array(lists)[:, None] / np.array(clocks)  # [chunks, 2]: replay, engine
    return {
        "bundle": bundle.name,
        "data": data_dir.name,
        "engine": run.settings.engine,
        "users": len(run.held_out.users),
        "lists": sum(lists),
        "seed": settings.seed,
        "replay_cpu_ms_per_list": sum(replayed) / sum(lists) * 1e3,
        "engine_cpu_ms_per_list": sum(bare) / sum(lists) * 1e3,
        "ratio": _spread(ratios),
        "replay_lists_per_second": _spread(pace[:, 0]),
        "engine_lists_per_second": _spread(pace[:, 1]),
        "chunks": len(lists),
        "machine": machine(),
    }


def _often(engine: Engine, rows: FloatArray, mask: FloatArray, times: int) -> None:
    for _ in range(times):
        engine.run(rows, mask)


def _seconds(action: Callable[[], object]) -> tuple[float, float]:
    """Of the processor and of the clock."""
    spent, began = time.process_time(), time.monotonic()
    action()
    return time.process_time() - spent, time.monotonic() - began


def _spread(values: NDArray[np.float64]) -> dict[str, float]:
    return {"median": float(np.median(values)), "least": float(values.min()), "most": float(values.max())}


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
