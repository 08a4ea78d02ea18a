"""Do all engines of a bundle give the same ten items? Thousands of real histories, differences explained.

    python -m pocketrec_tools.agreement BUNDLE --data DATA_DIR [--checkpoint STUDENT] [--histories 10000]

Histories end before the test targets of users; where there are not enough users, other prefixes fill up.
Every engine runs in a process of its own with one thread. With the checkpoint that the bundle was made from,
two more graphs stand beside them: float32, and what ONNX Runtime's own `quantize_dynamic` makes of that.
docs/benchmarks/agreement.md says what was found.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from pocketrec.bundle import Bundle
from pocketrec.engines import available_engines
from pocketrec.golden import parse_golden
from pocketrec.output import note
from pocketrec_tools.agreement_worker import K
from pocketrec_tools.held_out import HeldOut, Triple
from pocketrec_tools.processes import run_python

REFERENCE = "numpy"
FLOAT, NATIVE = "float32 graph", "quantize_dynamic"
EXACT = 1e-5
"""Queries closer than this, as a part of their length, differ by float rounding alone: no integer differs."""

Answers = dict[str, NDArray[Any]]


def histories(
    bundle: Bundle, data_dir: Path, count: int, seed: int
) -> tuple[list[list[Triple]], NDArray[np.int64]]:
    """`count` histories with a known item, and the catalogue position of what came next.

    Those before test targets come first; those of other prefixes have −1, as training saw what came next.
    """
    held_out = HeldOut.load(data_dir, bundle.catalogue, "test", count, seed)
    rng = np.random.default_rng(seed)
    found: list[list[Triple]] = []
    targets: list[int] = []
    for user in held_out.users.tolist():
        if len(held_out.seen(user)):
            found.append(held_out.history(user))
            targets.append(held_out.target(user))
    whole = [history for history in found if len(history) > 1]
    while len(found) < count and whole:
        history = whole[int(rng.integers(len(whole)))]
        prefix = history[: int(rng.integers(1, len(history)))]
        if (bundle.catalogue.positions([item for item, _, _ in prefix]) >= 0).any():
            found.append(prefix)
            targets.append(-1)
    return found, np.asarray(targets, np.int64)


def agreement(
    bundle: Path, data_dir: Path, count: int = 10_000, seed: int = 0, checkpoint: Path | None = None
) -> dict[str, Any]:
    """Ask every engine, and compare each with the numpy engine.

    Returns:
        histories, tested (those with a target), tolerance; `engines`: name to what `compared` gives.

    Raises:
        BundleError, DataError: as `Bundle.open` and `HeldOut.load` say.
        PocketrecError: `process-failed`.
    """
    with Bundle.open(bundle) as opened:
        tolerance = parse_golden(opened.file_bytes("golden.json")).tolerance
        asked, targets = histories(opened, data_dir, count, seed)
        names = available_engines(opened)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        graphs = dict.fromkeys([REFERENCE, *(name for name in names if name != REFERENCE)], "")
        if checkpoint is not None:
            graphs |= _float_graphs(checkpoint, place)
        (place / "histories.json").write_text(json.dumps(asked), "utf-8")
        found: dict[str, Answers] = {}
        for number, (name, graph) in enumerate(graphs.items()):
            note(f"{name}: {len(asked)} histories …")
            out = place / f"{number}.npz"
            job = {"bundle": str(bundle), "engine": name, "graph": graph, "out": str(out)}
            job["histories"] = str(place / "histories.json")
            run_python("-m", "pocketrec_tools.agreement_worker", given=json.dumps(job))
            with np.load(out) as arrays:
                found[name] = dict(arrays)
    reference = found[REFERENCE]
    return {
        "histories": len(asked),
        "tested": int((targets >= 0).sum()),
        "tolerance": tolerance,
        "engines": {name: compared(reference, answer, targets, tolerance) for name, answer in found.items()},
    }


def compared(
    reference: Answers, answer: Answers, targets: NDArray[np.int64], tolerance: float
) -> dict[str, Any]:
    """How the lists of an engine differ from the reference's, and why.

    Returns:
        identical: lists with the same items in the same order; same_items: with the same items.
        exact: queries within EXACT; exact_identical: how many of them have identical lists.
        ties: lists that differ, and agree by the rule of docs/bundle.md §8; disagree: the others.
        widest: the largest difference of scores at one rank, in units of the tolerance.
        near: of the lists that differ, the largest score by which an item is out of its place, in the same
            units: how far from a tie the two items were that changed places.
        query: median and worst distance of queries, as parts of their length.
        ndcg: NDCG@10 over the histories with a target; ms: median, p10 and p90 of the graph.
    """
    same = (reference["items"] == answer["items"]).all(axis=1)
    same_items = (np.sort(reference["items"], axis=1) == np.sort(answer["items"], axis=1)).all(axis=1)
    length = np.maximum(np.linalg.norm(reference["queries"], axis=1), 1e-12)
    distance = np.linalg.norm(reference["queries"] - answer["queries"], axis=1) / length
    difference = np.nanmax(np.abs(reference["scores"] - answer["scores"]), axis=1, initial=0)
    last = np.nanmin(reference["scores"], axis=1, initial=np.inf)
    stranger = ~(answer["items"][:, :, None] == reference["items"][:, None, :]).any(axis=2)
    off = np.where(stranger, np.abs(answer["scores"] - last[:, None]), 0)
    agrees = (difference <= tolerance) & (np.nan_to_num(off).max(axis=1) <= tolerance)
    agrees &= (np.isnan(reference["scores"]) == np.isnan(answer["scores"])).all(axis=1)
    ms = answer["ms"][len(same) // 10 :]  # the first tenth is warm-up
    tested = targets >= 0
    hits = answer["items"][tested] == targets[tested][:, None]
    gain = (hits / np.log2(np.arange(2, K + 2))).sum(axis=1)
    return {
        "identical": int(same.sum()),
        "same_items": int(same_items.sum()),
        "exact": int((distance <= EXACT).sum()),
        "exact_identical": int((same & (distance <= EXACT)).sum()),
        "ties": int((~same & agrees).sum()),
        "disagree": int((~agrees).sum()),
        "widest": float(difference.max(initial=0) / tolerance),
        "near": float(_misplaced(reference, answer)[~same].max(initial=0) / tolerance),
        "query": [float(np.median(distance)), float(distance.max(initial=0))],
        "ndcg": float(gain.mean()) if tested.any() else None,
        "ms": [float(v) for v in np.nanpercentile(ms, [50, 10, 90])],
    }


def _misplaced(reference: Answers, answer: Answers) -> NDArray[np.float64]:
    """float64 [n]: how much worse, in the reference's own scores, an engine's list is than the reference's.

    At each rank the score that the reference gives to the engine's item, against that of its own item there.
    An item that the reference does not list scores at most its last; that is taken for it.
    """
    worst = np.zeros(len(reference["items"]))
    for i in np.flatnonzero((reference["items"] != answer["items"]).any(axis=1)):
        scores = dict(zip(reference["items"][i].tolist(), reference["scores"][i].tolist(), strict=True))
        own = reference["scores"][i]
        theirs = [scores.get(item, float(own[-1])) for item in answer["items"][i].tolist()]
        worst[i] = np.nanmax(np.abs(own - np.asarray(theirs)))
    return worst


def _float_graphs(checkpoint: Path, place: Path) -> dict[str, str]:
    """Files of the float32 graph, and of what ONNX Runtime's own quantisation makes of it."""
    import onnx
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from pocketrec_export.backbone import Backbone
    from pocketrec_export.checkpoint import load_checkpoint
    from pocketrec_export.precision import fp32
    from pocketrec_export.target_onnx import to_onnx

    loaded = load_checkpoint(checkpoint)
    data = to_onnx(Backbone.from_decoder(loaded.backbone, torch.from_numpy(loaded.recency)), fp32)
    whole, native = place / "float.onnx", place / "native.onnx"
    model = onnx.load_from_string(data)
    whole.write_bytes(data)
    del model.graph.value_info[:]
    quantize_dynamic(model, native, per_channel=True, weight_type=QuantType.QInt8)
    return {FLOAT: str(whole), NATIVE: str(native)}


def table(found: dict[str, Any]) -> str:
    """What `agreement` found, in Markdown."""
    lines = [
        "| against numpy | identical lists | same items | differ, by a tie | disagree "
        "| worst score, in tolerances | out of place by | queries equal to 1e-5; of these identical "
        "| NDCG@10 | graph ms (p10–p90) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    n = found["histories"]
    for name, one in found["engines"].items():
        ms, low, high = one["ms"]
        ndcg = "" if one["ndcg"] is None else f"{one['ndcg']:.4f}"
        lines.append(
            f"| {name} | {one['identical'] / n:.2%} | {one['same_items'] / n:.2%} | {one['ties']} "
            f"| {one['disagree']} | {one['widest']:.2f} | {one['near']:.2f} "
            f"| {one['exact'] / n:.1%}; {one['exact_identical'] / max(one['exact'], 1):.2%} "
            f"| {ndcg} | {ms:.2f} ({low:.2f}–{high:.2f}) |"
        )
    return "\n".join(lines)


def main(
    bundle: Annotated[Path, typer.Argument(help="A bundle.")],
    data: Annotated[Path, typer.Option(help="The data it was built from.")],
    checkpoint: Annotated[Path | None, typer.Option(help="The student it was made from.")] = None,
    count: Annotated[int, typer.Option("--histories", help="How many.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Draws them.")] = 0,
    out: Annotated[Path | None, typer.Option(help="The figures, as JSON.")] = None,
) -> None:
    """Compare all engines of a bundle, and print the table."""
    found = agreement(bundle, data, count, seed, checkpoint)
    if out is not None:
        out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    asked = f"{found['histories']} histories, {found['tested']} with a target"
    typer.echo(f"{asked}; tolerance {found['tolerance']:.3g}\n")
    typer.echo(table(found))


if __name__ == "__main__":
    typer.run(main)
