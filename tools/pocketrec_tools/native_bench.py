"""What "one arithmetic" costs: our int8 graphs beside each runtime's own int8, in milliseconds and quality.

    python -m pocketrec_tools.native_bench CHECKPOINT DATA_DIR --page docs/benchmarks/native.md
    python -m pocketrec_tools.native_bench CHECKPOINT DATA_DIR --users 0 --page docs/benchmarks/native.md

The second takes the times alone once more. The same student, the same histories, one thread; each graph on
each engine in processes of its own, in turns. Only the graph is timed and only the graph differs: rows of
history and scores of all items are float32 everywhere. Graphs that are in the working directory are not made
again; remove it when the sources of an export have changed.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from pocketrec.errors import DataError
from pocketrec.output import note, show_progress
from pocketrec_export.backbone import Backbone
from pocketrec_export.checkpoint import load_checkpoint
from pocketrec_export.data import load_dataset
from pocketrec_export.metrics import ndcg_gains, paired_bootstrap, pessimistic_rank
from pocketrec_export.precision import fp32, int8
from pocketrec_export.precision_graph import Prefixes
from pocketrec_export.precision_quality import Judge
from pocketrec_export.target_executorch import to_executorch
from pocketrec_export.target_onnx import to_onnx
from pocketrec_tools.batched_ranks import Asked, asked
from pocketrec_tools.bench_report import ListFigure
from pocketrec_tools.native_models import PlainDecoder, native_executorch, native_onnx, quantised_onnx
from pocketrec_tools.processes import run_python
from pocketrec_tools.quality_records import stamp, write_json

SUFFIX = {"executorch": ".pte", "onnxruntime": ".onnx"}
OURS = "bundle, int8"
REFERENCE = "bundle, fp32"
TOP = 10
CALIBRATION = 16
LISTS = 200
"""Histories that are timed in each process."""

SCORED = 256
"""Users whose scores are held at a time."""

Example = tuple[torch.Tensor, torch.Tensor]
Key = tuple[str, str]


def graphs(checkpoint: Path, examples: list[Example]) -> dict[Key, Callable[[], bytes]]:
    """How to make every graph, by arm and engine."""
    loaded = load_checkpoint(checkpoint)
    recency = torch.from_numpy(loaded.recency)
    backbone = Backbone.from_decoder(loaded.backbone, recency)
    state = {k: v for k, v in loaded.backbone.state_dict().items() if not k.startswith("embed_tokens.")}
    plain = PlainDecoder(backbone.shape, state, recency)
    return {
        (REFERENCE, "executorch"): lambda: to_executorch(backbone, fp32),
        (OURS, "executorch"): lambda: to_executorch(backbone, int8),
        ("our graph, native int8", "executorch"): lambda: native_executorch(backbone, examples, int8=True),
        ("plain, native int8", "executorch"): lambda: native_executorch(plain, examples, int8=True),
        ("plain, fp32", "executorch"): lambda: native_executorch(plain, examples, int8=False),
        (REFERENCE, "onnxruntime"): lambda: to_onnx(backbone, fp32),
        (OURS, "onnxruntime"): lambda: to_onnx(backbone, int8),
        ("our graph, native int8", "onnxruntime"): lambda: quantised_onnx(to_onnx(backbone, fp32)),
        ("plain, native int8", "onnxruntime"): lambda: quantised_onnx(native_onnx(plain, examples[0])),
        ("plain, fp32", "onnxruntime"): lambda: native_onnx(plain, examples[0]),
    }


def make_graphs(
    checkpoint: Path, data_dir: Path, work: Path, engines: Sequence[str] = tuple(SUFFIX), seed: int = 0
) -> dict[Key, Path]:
    """The file of every graph, by arm and engine; made where it is not in `work` yet.

    Args:
        engines: of SUFFIX.
        seed: draws the beginnings of training histories that native int8 of ExecuTorch is shown.

    Raises:
        DataError: the data is not that of the checkpoint.
    """
    work.mkdir(parents=True, exist_ok=True)
    judge = Judge(load_checkpoint(checkpoint), load_dataset(data_dir), CALIBRATION, seed)
    rows, mask = _inputs(judge.calibration(CALIBRATION), judge)
    examples = [
        (torch.from_numpy(rows[i : i + 1]), torch.from_numpy(mask[i : i + 1])) for i in range(len(rows))
    ]
    files = {}
    for (arm, engine), make in graphs(checkpoint, examples).items():
        if engine not in engines:
            continue
        file = files[arm, engine] = work / (arm.replace(", ", "-").replace(" ", "-") + SUFFIX[engine])
        if not file.exists():
            note(f"{arm}: a graph for {engine}")
            partial = file.with_suffix(".partial")
            partial.write_bytes(make())
            partial.replace(file)
    return files


def quality(
    checkpoint: Path, data_dir: Path, work: Path, files: dict[Key, Path], users: int, seed: int
) -> dict[str, Any]:
    """NDCG@10 of every graph on test users, and how often the engines give the same items.

    Args:
        files: of `make_graphs`.
        users: at most so many, drawn by the seed.
    """
    judge = Judge(load_checkpoint(checkpoint), load_dataset(data_dir), CALIBRATION, seed)
    drawn = judge.split.some_users("test", users, seed)
    wanted = asked(judge.split, "test", drawn, judge.prefixes.histories, judge.checkpoint.length)
    inputs = work / "inputs.npz"
    rows, mask = _inputs(wanted.prefixes, judge)
    np.savez(inputs, rows=rows, mask=mask)
    items = judge.checkpoint.item_rows
    gains, lists = {}, {}
    for key, file in files.items():
        note(f"{key[0]}, {key[1]}: {len(rows)} users")
        _run(file, key[1], inputs, 0, work / "queries.npy")
        ranks, lists[key] = ranked(np.load(work / "queries.npy"), items, wanted)
        gains[key] = ndcg_gains(ranks)
    found: dict[str, Any] = {
        **stamp(), "data": data_dir.name, "seed": seed, "users": len(rows), "items": len(items),
        "length": rows.shape[1], "dim": rows.shape[2], "graphs": [], "agreement": {},
    }  # fmt: skip
    for (arm, engine), file in files.items():
        mine = gains[arm, engine]
        row = {
            "arm": arm,
            "engine": engine,
            "bytes": file.stat().st_size,
            "ndcg@10": float(mine.mean()),
            "vs fp32": _change(mine, gains[REFERENCE, engine], seed),
            "vs int8": _change(mine, gains[OURS, engine], seed),
        }
        found["graphs"].append(row)
    if len({engine for _, engine in files}) > 1:
        for arm in dict.fromkeys(arm for arm, _ in files):
            one, other = lists[arm, "executorch"], lists[arm, "onnxruntime"]
            order = float((one == other).all(axis=1).mean())
            same = float((np.sort(one) == np.sort(other)).all(axis=1).mean())
            found["agreement"][arm] = {"order": order, "items": same}
    return found


def times(work: Path, files: dict[Key, Path], runs: int) -> dict[str, Any]:
    """Milliseconds of every graph for the first histories of `quality`, in turns.

    Args:
        runs: processes for each graph.

    Raises:
        DataError: `quality` has left no histories in `work`.
    """
    inputs = work / "inputs.npz"
    if not inputs.exists():
        raise DataError(
            f"{work} has no histories to time with.",
            code="no-inputs",
            remedy="Run once with --users 100 or more.",
        )
    spent: dict[Key, list[list[float]]] = {key: [] for key in files}
    for turn, (key, file) in itertools.product(range(runs), files.items()):
        note(f"run {turn + 1} of {runs}: {key[0]}, {key[1]}")
        spent[key].append(_run(file, key[1], inputs, LISTS, None))
    made = [
        {"arm": arm, "engine": engine, "ms": vars(ListFigure.of(each))}
        for (arm, engine), each in spent.items()
    ]
    return {**stamp(), "runs": runs, "graphs": made}


def _run(file: Path, engine: str, inputs: Path, most: int, queries: Path | None) -> list[float]:
    """Milliseconds of each history in a process of its own; 0 for `most` takes all."""
    job = {
        "artifact": str(file),
        "engine": engine,
        "inputs": str(inputs),
        "most": most,
        "queries": None if queries is None else str(queries),
    }
    said = run_python("-m", "pocketrec_tools.native_worker", given=json.dumps(job))
    spent: list[float] = json.loads(said.splitlines()[-1])["ms"]
    return spent


def _change(gains: NDArray[np.float64], base: NDArray[np.float64], seed: int) -> list[float]:
    """Mean, low and high of the paired change, as parts of the base."""
    change, of = paired_bootstrap(gains, base, seed=seed), float(base.mean()) or 1.0
    return [change.mean / of, change.low / of, change.high / of]


def _inputs(prefixes: Prefixes, judge: Judge) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rows float32 [n, L, d] and mask float32 [n, L] of these histories, padded on the left."""
    count, length, dim = len(prefixes), judge.checkpoint.length, judge.tables[0].shape[1]
    rows, mask = np.zeros((count, length, dim), np.float32), np.zeros((count, length), np.float32)
    for which, part, seen in prefixes.batches(*judge.tables):
        rows[which, length - part.shape[1] :] = part.numpy()
        mask[which, length - part.shape[1] :] = seen.numpy()
    return rows, mask


def ranked(
    queries: NDArray[np.float32], items: NDArray[np.float32], wanted: Asked
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ranks of the targets [n], and the best items that were not seen [n, TOP], best first."""
    ranks, lists = [], []
    for first in range(0, len(queries), SCORED):
        part = slice(first, first + SCORED)
        scores, seen = queries[part] @ items.T, wanted.seen[part]
        ranks.append(pessimistic_rank(scores, wanted.targets[part], seen))
        for user, each in enumerate(seen):
            scores[user, each] = -np.inf
        lists.append(np.argsort(-scores, axis=1, kind="stable")[:, :TOP])
    return np.concatenate(ranks), np.concatenate(lists)


HEAD = """\
# What one arithmetic costs

Every bundle computes int8 by the rule of [the format](../bundle.md#5-the-graph), so that all runtimes give
the same list. Here it stands beside what each runtime calls int8 by itself, by
`python -m pocketrec_tools.native_bench CHECKPOINT DATA_DIR --page docs/benchmarks/native.md`. *Plain* is the
same student written the usual way in torch, without regard to what a runtime takes; *our graph* is the
float32 graph of the bundle, which is written for them. *Native int8* is `XNNPACKQuantizer` (dynamic, per
channel) for ExecuTorch, and `quantize_dynamic` (per channel) for ONNX Runtime. The latter is not exact on x86
without VNNI: its quality depends on the processor.

NDCG@10 on test users (leave-one-out, full catalogue, seen items filtered, ties against the model) with
float32 rows and scores; its changes are against the bundle's graphs on the same engine, with paired 95 %
bootstrap intervals.
"""

TIMES = """\
Milliseconds of the graph alone for one history, one thread, batch 1, each graph and engine in processes of
its own, in turns: the median over all, in brackets the smallest and largest median of a run. *Bundle takes*:
the median of the bundle's int8 over this one, so 1.30 is three tenths slower.
"""


def write_page(page: Path, found: dict[str, Any], timed: dict[str, Any] | None) -> None:
    """The page, from what `quality` and `times` found."""
    lines = [
        HEAD,
        f"{found['data']}, {found['items']:,} items, {found['users']:,} users, {found['length']} events, "
        f"width {found['dim']}, seed {found['seed']}, commit `{found['commit']}`, "
        f"{found['machine']['processor']}.",
        "",
        "| | engine | bytes | NDCG@10 | against fp32 | against int8 |",
        "|---|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['arm']} | {row['engine']} | {row['bytes']:,} | {row['ndcg@10']:.4f} | "
        f"{_told(row['vs fp32'])} | {_told(row['vs int8'])} |"
        for row in found["graphs"]
    ]
    if found["agreement"]:
        lines += ["", "Users to whom ExecuTorch and ONNX Runtime give the same ten items:", ""]
        lines += ["| | in the same order | in any order |", "|---|---:|---:|"]
    lines += [
        f"| {arm} | {same['order']:.1%} | {same['items']:.1%} |" for arm, same in found["agreement"].items()
    ]
    if timed is not None:
        ours = {row["engine"]: row["ms"]["median"] for row in timed["graphs"] if row["arm"] == OURS}
        lines += [
            "",
            TIMES,
            f"{timed['runs']} runs of {LISTS} histories, commit `{timed['commit']}`, "
            f"{timed['machine']['processor']}.",
            "",
            "| | engine | ms | bundle takes |",
            "|---|---|---:|---:|",
        ]
        for row in timed["graphs"]:
            ms = row["ms"]
            lines.append(
                f"| {row['arm']} | {row['engine']} | {ms['median']:.3f} ({ms['low']:.3f}–{ms['high']:.3f}) | "
                f"{ours[row['engine']] / ms['median']:.2f} |"
            )
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _told(change: list[float]) -> str:
    mean, low, high = change
    return f"{mean:+.2%} ({low:+.2%} … {high:+.2%})" if any(change) else "the same"


def main(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", show_default=False)],
    data_dir: Annotated[Path, typer.Argument(metavar="DATA_DIR", show_default=False)],
    work: Annotated[Path, typer.Option(help="Graphs and figures.")] = Path("runs/native"),
    page: Annotated[Path | None, typer.Option(help="The page.")] = None,
    users: Annotated[
        int, typer.Option(min=0, help="Test users; 0: the quality that was found before.")
    ] = 4000,
    runs: Annotated[
        int, typer.Option(min=0, help="Processes for each graph; 0: the times found before.")
    ] = 5,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Measure, and write the page."""
    show_progress()
    work = work / checkpoint.resolve().name
    files = make_graphs(checkpoint, data_dir, work, seed=seed)
    if users:
        write_json(work / "quality.json", quality(checkpoint, data_dir, work, files, users, seed))
    if runs:
        write_json(work / "times.json", times(work, files, runs))
    if page is not None:
        found, timed = _read(work / "quality.json"), _read(work / "times.json")
        if found is None:
            raise DataError(
                f"{work} has no quality.json.", code="no-inputs", remedy="Run once with --users 100 or more."
            )
        write_page(page, found, timed)


def _read(file: Path) -> dict[str, Any] | None:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


if __name__ == "__main__":
    typer.run(main)
