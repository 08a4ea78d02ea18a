"""What each way to make a student smaller costs: bytes, quality, milliseconds, memory, side by side.

    make bench-compression CHECKPOINT=DIR DATA=DIR
    python -m pocketrec_tools.compression_bench CHECKPOINT DATA_DIR --out DIR [--users N] [--runs N]

Every arm is exported as a bundle, run on test users by each engine, and timed in processes of its own, the
arms in turns. A sweep over kept fractions is simulated on validation users. What was found is written to
`RESULTS/NAME.json`, with the ranks of all users in `NAME.npz`; `compression_page` makes the page of all of
them. A run that was stopped goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from pocketrec.bundle import Bundle
from pocketrec.errors import DataError
from pocketrec.output import note, show_progress
from pocketrec.quantise import GROUP
from pocketrec_export.checkpoint import load_checkpoint, store_checkpoint
from pocketrec_export.compression_config import CompressionConfig
from pocketrec_export.data import load_dataset
from pocketrec_export.exporting import export_checkpoint
from pocketrec_export.lowrank import compress
from pocketrec_export.metrics import ndcg_gains, paired_bootstrap
from pocketrec_export.narrowing import narrow
from pocketrec_export.options import SEARCH, TARGETS, Budget, ExportOptions
from pocketrec_export.precision import RECIPES, fp32
from pocketrec_export.precision_quality import Judge
from pocketrec_tools.batched_ranks import ranks_of
from pocketrec_tools.bench import part_sizes
from pocketrec_tools.bench_report import Figure, ListFigure
from pocketrec_tools.compression_page import write_page
from pocketrec_tools.evaluate import evaluate
from pocketrec_tools.held_out import HeldOut
from pocketrec_tools.processes import run_python
from pocketrec_tools.quality_records import commit, stamp, write_json

ENGINES = ("onnxruntime", "executorch")
LISTS = 100
KEPT = (0.7, 0.5, 0.35, 0.25)


class Arm(NamedTuple):
    """One way to make the bundle: `--precision`, `--low-rank`, passes of finishing, the part of the student's
    width that is kept, in steps of 32, and another student that takes its place."""

    precision: str
    kept: float = 1.0
    finish: int = 0
    width: float = 1.0
    checkpoint: Path | None = None


# The first is what the others are held to.
ARMS: dict[str, Arm] = {
    "fp32": Arm("fp32"),
    "int8": Arm("int8"),
    "mixed": Arm("mixed"),
    "int4": Arm("int4"),
    "low rank 0.5 + int8": Arm("int8", kept=0.5),
    "search": Arm(SEARCH),
    "int4, finished": Arm("int4", finish=1),
    "five eighths as wide + int4": Arm("int4", width=0.625),
    "half as wide + int8": Arm("int8", width=0.5),
    "half as wide + int4": Arm("int4", width=0.5),
    "half as wide + int4, finished": Arm("int4", width=0.5, finish=1),
}
MOST_VALIDATION = 1000
"""Validation users: a runtime ranks them one by one for every arm."""

SEARCH_LOSS = 0.002
"""What the search may lose on validation: the smallest mix within it."""


def run(
    checkpoint: Path,
    data_dir: Path,
    out: Path,
    name: str,
    *,
    users: int,
    runs: int,
    arms: list[str],
    seed: int,
    engines: Sequence[str] = ENGINES,
    display: Sequence[str] | None = None,
    batched: bool = False,
    swept: bool = True,
    remark: str = "",
    others: Mapping[str, Arm] | None = None,
    pool: str = "",
    results: Path | None = None,
) -> dict[str, Any]:
    """Measure one student; what is returned is also in `results/NAME.json`.

    Args:
        out: bundles, and what has been measured of a run that was stopped.
        users: test users, drawn by the seed; validation users of sweep and search are a fifth of them, at
            most `MOST_VALIDATION`.
        runs: processes for each arm and engine.
        arms: keys of ARMS, "fp32" first.
        engines: who runs the bundles; graphs are written for them alone. The first one ranks the test users
            (that others give the same lists is measured elsewhere), all of them are timed.
        display: columns of the catalogue that the bundles carry; None takes all.
        batched: rank test users by `batched_ranks` and not by an engine.
        swept: low rank at several kept fractions too.
        remark: what a reader has to know of student and machine.
        others: further arms, such as smaller students of the same catalogue (`other_arm`).
        pool: what students of several seeds have in common, see `compression_page`.
        results: where figures are kept; None takes `out`.

    Raises:
        DataError: a student has another catalogue than the data; `name-taken`.
    """
    work, results, ways = out / name, results or out, ARMS | dict(others or {})
    if (results / f"{name}.md").exists():
        raise DataError(
            f"{results / name}.md is a section of that name, whose figures were not kept.",
            code="name-taken",
            remedy="Choose another --name, or delete it to replace it.",
        )
    work.mkdir(parents=True, exist_ok=True)
    loaded = load_checkpoint(checkpoint)
    judge = Judge(loaded, load_dataset(data_dir), min(max(users // 5, 100), MOST_VALIDATION), seed)
    found: dict[str, Any] = {
        "name": name,
        **stamp(),
        "note": remark,
        "seed": seed,
        "users": users,
        "runs": runs,
        "items": len(loaded.item_ids),
        "dim": int(loaded.item_rows.shape[1]),
        "validation_users": len(judge.user_rows),
        "display": None if display is None else list(display),
        "batched": batched,
        "pool": pool,
        "arms": {},
    }
    arms = [*arms, *(others or {})]
    for arm in arms:
        note(f"{name}: {arm}")
        make = partial(quality, arm, ways[arm], judge, data_dir, work, users, seed, engines, display, batched)
        found["arms"][arm] = _kept(work / f"{arm}.json", make)
    ranks = {arm: np.array(told.pop("ranks")) for arm, told in found["arms"].items()}
    whole = ndcg_gains(ranks[arms[0]])
    for arm, told in found["arms"].items():
        gains = ndcg_gains(ranks[arm])
        change = paired_bootstrap(gains, whole, seed=seed)
        told["ndcg@10"], told["of"] = float(gains.mean()), float(whole.mean())
        told["change"] = [change.mean, change.low, change.high]
    results.mkdir(parents=True, exist_ok=True)
    # One byte is enough for whatever is counted up to 10.
    arrays: dict[str, Any] = {arm: _bytes(each) for arm, each in ranks.items()}
    np.savez_compressed(results / f"{name}.npz", **arrays)
    # The file is written after each part: the page may be made of what is there.
    write_json(results / f"{name}.json", found)
    if swept:
        found["sweep"] = _kept(work / "sweep.json", partial(sweep, judge))
        write_json(results / f"{name}.json", found)
    timed = {} if not runs else _timed(arms, data_dir, work, runs, seed, engines)
    for arm, times in timed.items():
        found["arms"][arm] |= {"times": times}
    write_json(results / f"{name}.json", found)
    return found


def other_arm(text: str) -> tuple[str, Arm]:
    """The name and arm of another student, from `NAME=CHECKPOINT:PRECISION`.

    Raises:
        DataError: it is not of that form, there is no such directory or precision, or the name is taken.
    """
    name, _, rest = text.partition("=")
    where, _, precision = rest.rpartition(":")
    remedy = "Give NAME=CHECKPOINT:PRECISION, such as tiny=runs/shop.build/student-0a1b:int8."
    if not (name and where and precision):
        raise DataError(f"--other {text!r} names no student.", code="other-invalid", remedy=remedy)
    if name in ARMS:
        raise DataError(
            f"--other {name!r} is the name of an arm.", code="other-invalid", remedy="Choose another name."
        )
    if precision not in RECIPES:
        raise DataError(
            f"--other {name}: there is no precision {precision!r}.",
            code="other-invalid",
            remedy=f"Choose from {', '.join(RECIPES)}.",
        )
    if not Path(where).is_dir():
        raise DataError(f"--other {name}: no checkpoint at {where}.", code="other-invalid", remedy=remedy)
    return name, Arm(precision, checkpoint=Path(where))


def sweep(judge: Judge) -> list[dict[str, Any]]:
    """Low rank without rounding at several kept fractions, by simulation on validation users."""
    whole = judge.float_student()
    rows = [
        {"way": "whole", "kept": 1.0, "ndcg@10": whole.ndcg, "change": [0.0, 0.0, 0.0], "divergence": 0.0}
    ]
    calibration = judge.calibration(CompressionConfig().calibration)
    ways: dict[str, dict[str, Any]] = {
        "plain SVD": {"rule": "uniform", "whiten": False, "aligned": False},
        "whitened": {"rule": "uniform", "aligned": False},
        "whitened, measured ranks": {"rule": "measured", "aligned": False},
        "whitened, aligned, measured ranks": {"rule": "measured"},
    }
    for kept in KEPT:
        for way, how in ways.items():
            made = compress(judge.float_backbone, calibration, judge.tables, kept, **how)
            outcome = judge.judge(made.backbone, fp32, judge.checkpoint.item_rows)
            change = paired_bootstrap(ndcg_gains(outcome.ranks), ndcg_gains(whole.ranks))
            rows.append(
                {
                    "way": way,
                    "kept": kept,
                    "held": made.kept,
                    "ndcg@10": outcome.ndcg,
                    "change": [change.mean, change.low, change.high],
                    "divergence": outcome.divergence,
                }
            )
    return rows


def quality(
    arm: str,
    way: Arm,
    judge: Judge,
    data_dir: Path,
    work: Path,
    users: int,
    seed: int,
    engines: Sequence[str],
    display: Sequence[str] | None,
    batched: bool,
) -> dict[str, Any]:
    """Export one arm and rank test users with the first engine, or `batched`: sizes, and ranks."""
    judge = _as_made(way, judge, work)
    budget = Budget(max_ndcg_loss=SEARCH_LOSS) if way.precision == SEARCH else Budget()
    bundle = work / arm.replace(" ", "-").replace(",", "")
    if not bundle.exists():  # it appears whole or not at all
        export_checkpoint(
            judge.checkpoint,
            bundle,
            ExportOptions(
                targets=tuple(target for target, (engine, _) in TARGETS.items() if engine in engines),
                precision=way.precision,
                budget=budget,
                display=display,
            ),
            settings=CompressionConfig(kept=way.kept, finish_epochs=way.finish),
            judge=judge,
        )
    with Bundle.open(bundle) as opened:
        sizes = part_sizes(opened)
        compression = opened.manifest.figures["compression"]
    if batched:
        ranks = ranks_of(bundle, data_dir, users, seed)
    else:
        report = evaluate(bundle, data_dir, users=users, engine=engines[0], seed=seed, progress=False)
        ranks = report.ranks
    return {
        "bundle": bundle.name,
        "commit": commit(),
        "bytes": sizes,
        "ranks": ranks.tolist(),
        "schemes": compression.get("schemes", {}),
        "path": compression["path"],
    }


def _as_made(way: Arm, judge: Judge, work: Path) -> Judge:
    """A judge of the arm's student: another one, or this one as wide as the arm has it, made once for all."""
    if way.checkpoint is not None:
        other = load_checkpoint(way.checkpoint)
        if other.item_ids != judge.checkpoint.item_ids:
            raise DataError(
                f"{way.checkpoint}: its {len(other.item_ids)} items are not those of the first student.",
                code="catalogue-mismatch",
                remedy="Give a student that was trained on the same data.",
            )
        return judge.of(other)
    if way.width == 1:
        return judge
    width = max(int(way.width * judge.checkpoint.item_rows.shape[1]) // GROUP, 1) * GROUP
    directory = work / f"student-{width}"
    if not directory.exists():
        store_checkpoint(directory, narrow(judge, CompressionConfig(width=width)).checkpoint)
    return judge.of(load_checkpoint(directory))


def _timed(
    arms: list[str], data_dir: Path, work: Path, runs: int, seed: int, engines: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Milliseconds of a list, of loading, and peak memory, by arm and engine; arms and engines in turns."""
    first = work / arms[0]
    with Bundle.open(first) as opened:
        held_out = HeldOut.load(data_dir, opened.catalogue, users=LISTS, seed=seed)
    histories = [held_out.history(user) for user in held_out.users.tolist()]
    answers: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for turn in range(runs):
        for arm in arms:
            bundle = json.loads((work / f"{arm}.json").read_text())["bundle"]
            for engine in engines:
                note(f"run {turn + 1} of {runs}: {arm}, {engine}")
                job = {"bundle": str(work / bundle), "engine": engine, "histories": histories}
                said = run_python("-m", "pocketrec_tools.bench_worker", given=json.dumps(job))
                answers.setdefault((arm, engine), []).append(json.loads(said.splitlines()[-1]))
    found: dict[str, dict[str, Any]] = {arm: {} for arm in arms}
    for (arm, engine), each in answers.items():
        found[arm][engine] = {
            "rank_ms": vars(ListFigure.of([one["rank_ms"] for one in each])),
            "graph_ms": vars(ListFigure.of([one["graph_ms"] for one in each])),
            "cpu_ms": vars(Figure.of([one["cpu_ms"] for one in each])),
            "load_ms": vars(Figure.of([one["load_ms"] for one in each])),
            "open_ms": vars(Figure.of([one["open_ms"] for one in each])),
            "peak_bytes": vars(Figure.of([one["peak_bytes"] for one in each])),
        }
    return found


def _bytes(ranks: NDArray[np.int64]) -> NDArray[np.uint8]:
    return np.minimum(ranks, 255).astype(np.uint8)


def _kept(file: Path, make: Callable[[], Any]) -> Any:
    """What `make` gives, from `file` if an earlier run left it there."""
    if not file.exists():
        write_json(file, make())
    return json.loads(file.read_text(encoding="utf-8"))


def main(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", show_default=False)],
    data_dir: Annotated[Path, typer.Argument(metavar="DATA_DIR", show_default=False)],
    name: Annotated[str, typer.Option(help="Heading in the page.  [default: the data's]")] = "",
    out: Annotated[Path, typer.Option(help="Bundles, and what is half done.")] = Path("runs/compression"),
    results: Annotated[Path, typer.Option(help="Figures.")] = Path("docs/benchmarks/compression"),
    page: Annotated[Path | None, typer.Option(help="The page, made from all in --results.")] = None,
    users: Annotated[int, typer.Option(min=10, help="Test users, drawn by the seed.")] = 5000,
    runs: Annotated[int, typer.Option(min=0, help="Processes for each arm and engine; 0: no times.")] = 3,
    arms: Annotated[str, typer.Option(help="Some of them, separated by |.")] = "|".join(ARMS),
    seed: Annotated[int, typer.Option(min=0)] = 0,
    display: Annotated[str | None, typer.Option(help="Columns that the bundles carry.")] = None,
    batched: Annotated[bool, typer.Option(help="Rank test users in torch, many at once.")] = False,
    sweep: Annotated[bool, typer.Option(help="Low rank at several fractions.")] = True,
    remark: Annotated[str, typer.Option("--note", help="A sentence for the page.")] = "",
    other: Annotated[
        list[str] | None, typer.Option(help="Another student as an arm: NAME=CHECKPOINT:PRECISION.")
    ] = None,
    pool: Annotated[str, typer.Option(help="One name for students of several seeds.")] = "",
) -> None:
    """Measure the arms of one student, and write the page."""
    show_progress()
    chosen = [arm for arm in ARMS if arm in arms.split("|") or arm == "fp32"]
    others = dict(map(other_arm, other or ()))
    run(
        checkpoint,
        data_dir,
        out,
        name or data_dir.name,
        users=users,
        runs=runs,
        arms=chosen,
        seed=seed,
        display=None if display is None else [column for column in display.split(",") if column],
        batched=batched,
        swept=sweep,
        remark=remark,
        others=others,
        pool=pool,
        results=results,
    )
    if page is not None:
        write_page(page, results)


if __name__ == "__main__":
    typer.run(main)
