"""The page of `compression_bench`: one section for each student that was measured.

Students of one recipe with several seeds, which name one `pool`, are also taken together: a user's gains are
averaged over the seeds, then users are resampled, so that the interval is of the recipe on this data set's
users and not of one student.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketrec_export.metrics import ndcg_gains, paired_bootstrap

HEAD = """\
# Compression

What each way to make a trained student smaller costs, by `make bench-compression`;
[compression](../compression.md) says what they are.

NDCG@10 is that of the bundle as ONNX Runtime runs it (or, where a section says so, as torch computes the same
arithmetic for many users at once), on test users (leave-one-out, full catalogue, seen
items filtered, ties against the model); its change is against the fp32 bundle on the same users, with the
paired 95 % bootstrap interval. Bytes are of the whole bundle with its three copies of the backbone; *on a
device* counts one copy (the smallest), tables, catalogue, tokenizer and the rest. Processor time and time of
a list, loading of the engine and peak memory: one thread, a process of its own for each engine and run, arms
and engines in turns, medians. On a busy machine only the processor time means something. Memory includes the
interpreter and, with executorch, torch.

Not measured here: a phone.
"""


def write_page(page: Path, results: Path) -> None:
    """Write `page` from all `results/NAME.json` and `NAME.npz`; sections whose figures were not kept are in
    `NAME.md`, and stay as they are."""
    files = sorted((*results.glob("*.json"), *results.glob("*.md")), key=lambda file: file.stem)
    sections, pools = [], dict[str, list[Path]]()
    for file in files:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".md":
            sections.append(text.rstrip() + "\n")
            continue
        found = json.loads(text)
        sections.append(_section(found))
        if found["pool"]:
            pools.setdefault(found["pool"], []).append(file)
    together = [_pooled(pool, of_seeds) for pool, of_seeds in pools.items() if len(of_seeds) > 1]
    page.write_text("\n".join([HEAD, *together, *sections]).rstrip() + "\n", encoding="utf-8")


def _pooled(pool: str, files: Sequence[Path]) -> str:
    """The arms that all students of a pool have, taken together."""
    students = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    gains: list[dict[str, NDArray[np.float64]]] = []
    for file in files:
        with np.load(file.with_suffix(".npz")) as ranks:
            gains.append({arm: ndcg_gains(ranks[arm].astype(np.int64)) for arm in ranks.files})
    rows = [["", "×", "NDCG@10", "change", "of it", *(student["name"] for student in students)]]
    for arm in students[0]["arms"]:
        if not all(arm in each for each in gains):
            continue
        ours, whole = (np.mean([each[name] for each in gains], axis=0) for name in (arm, "fp32"))
        of = float(whole.mean())
        change = paired_bootstrap(ours, whole)
        ratio = [_total(student, "fp32") / _total(student, arm) for student in students]
        own = [student["arms"][arm]["change"][0] / student["arms"][arm]["of"] for student in students]
        base = arm == "fp32"
        rows.append(
            [
                arm,
                f"{np.mean(ratio):.2f}",
                f"{ours.mean():.4f}",
                "" if base else f"{change.mean / of:+.2%}",
                "" if base else f"{change.low / of:+.2%} … {change.high / of:+.2%}",
                *("" if base else f"{mean:+.2%}" for mean in own),
            ]
        )
    head = f"## {pool}: {len(students)} seeds together"
    told = "Gains are averaged for each user over the students, and users are resampled; last, each alone."
    return "\n".join([head, "", told, "", *_table(rows), ""])


def _total(found: dict[str, Any], arm: str) -> int:
    return int(found["arms"][arm]["bytes"]["total"])


def _section(found: dict[str, Any]) -> str:
    machine = found["machine"]
    lines = [
        f"## {found['name']}",
        "",
        f"{found['items']:,} items, width {found['dim']}, {found['users']:,} test users at most, "
        f"seed {found['seed']}, commit `{found['commit']}`, {machine['processor']}.{_how(found)} "
        f"{found['note']}".rstrip(),
        "",
    ]
    arms = found["arms"]
    whole = arms["fp32"]["bytes"]["total"]
    rows = [["", "bytes", "×", "on a device", "NDCG@10", "change", "of it"]]
    for name, arm in arms.items():
        size = arm["bytes"]
        graphs = [value for part, value in size.items() if part.startswith("graph ")]
        device = size["total"] - sum(graphs) + min(graphs)
        mean, low, high = (value / arm["of"] for value in arm["change"])
        rows.append(
            [
                name,
                f"{size['total']:,}",
                f"{whole / size['total']:.2f}",
                f"{device:,}",
                f"{arm['ndcg@10']:.4f}",
                "" if name == "fp32" else f"{mean:+.2%}",
                "" if name == "fp32" else f"{low:+.2%} … {high:+.2%}",
            ]
        )
    lines += _table(rows)
    timed = [
        ["", "engine", "processor ms a list", "ms a list", "of which the graph", "ms to load", "peak MB"]
    ]
    for name, arm in arms.items():
        for engine, times in arm.get("times", {}).items():
            timed.append(
                [
                    name,
                    engine,
                    _spread(times["cpu_ms"], 2),
                    _spread(times["rank_ms"], 1),
                    f"{times['graph_ms']['median']:.2f}",
                    _spread(times["load_ms"], 0),
                    f"{times['peak_bytes']['median'] / 1e6:.0f}",
                ]
            )
    if len(timed) > 1:
        spread = f"{found['runs']} runs; in brackets the smallest and the largest median of one."
        lines += ["", spread, "", *_table(timed, left=2)]
    lines.append("")
    schemes = arms.get("search", {}).get("schemes", {})
    if schemes:
        by_scheme: dict[str, list[str]] = {}
        for path, scheme in schemes.items():
            by_scheme.setdefault(scheme, []).append(path)
        lines += [
            "What the search chose: "
            + "; ".join(f"{scheme}: {', '.join(paths)}" for scheme, paths in by_scheme.items())
            + ".",
            "",
        ]
    if "sweep" not in found:
        return "\n".join(lines)
    lines += ["### Low rank: when does it stop being free?", ""]
    lines += [
        f"Without rounding, simulated on {found['validation_users']:,} validation users; the change of "
        "NDCG@10 against the whole backbone, paired 95 % interval, and the divergence of the softmax over "
        "the catalogue. *Kept* is the part of the linears' numbers that was asked for, *held* what ranks in "
        "steps of 8 made of it.",
        "",
    ]
    swept = [["way", "kept", "held", "NDCG@10", "change", "interval", "nats"]]
    base = found["sweep"][0]["ndcg@10"] or 1.0
    for row in found["sweep"]:
        mean, low, high = (value / base for value in row["change"])
        whole_row = row["way"] == "whole"
        swept.append(
            [
                row["way"],
                f"{row['kept']:.2f}",
                f"{row.get('held', 1.0):.3f}",
                f"{row['ndcg@10']:.4f}",
                "" if whole_row else f"{mean:+.2%}",
                "" if whole_row else f"{low:+.2%} … {high:+.2%}",
                f"{row['divergence']:.5f}",
            ]
        )
    return "\n".join([*lines, *_table(swept), ""])


def _how(found: dict[str, Any]) -> str:
    """What differs from the head of the page."""
    display = found["display"]
    shown = "" if display is None else f" All bundles carry these display columns: {', '.join(display)}."
    batched = " NDCG@10 by torch, many users at once." if found["batched"] else ""
    elsewhere = [
        f"{name} `{arm['commit']}`" for name, arm in found["arms"].items() if arm["commit"] != found["commit"]
    ]
    return shown + batched + (f" Made at other commits: {', '.join(elsewhere)}." if elsewhere else "")


def _spread(figure: dict[str, float], digits: int) -> str:
    return f"{figure['median']:.{digits}f} ({figure['low']:.{digits}f}–{figure['high']:.{digits}f})"


def _table(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    head, *rest = rows
    rule = "|".join("---" if i < left else "---:" for i in range(len(head)))
    return [f"| {' | '.join(head)} |", f"|{rule}|", *(f"| {' | '.join(row)} |" for row in rest)]
