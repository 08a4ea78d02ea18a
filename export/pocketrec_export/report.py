"""The page of a build: what was tried, what it cost, where the bytes are, what to take. HTML and Markdown.

BUNDLE.report.html      one file, its plot inside it; nothing is fetched
BUNDLE.report.md        the same tables
"""

from __future__ import annotations

import html
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .gate import Attempt, doubt
from .precision import RECIPES
from .precision_plan import Plan, Planner
from .precision_search import Mix
from .report_plot import Point, frontier_plot

GOOD_LOSS = 0.01
"""What a user who set no limit is assumed to bear."""

_PARTS = {
    "items.safetensors": "item table",
    "words.safetensors": "word table",
    "backbone.safetensors": "backbone, as defined",
    "model.onnx": "graph for ONNX Runtime",
    "model.pte": "graph for ExecuTorch",
    "catalogue.safetensors": "catalogue: ids, texts, popularity",
    "tokenizer.json": "tokenizer",
    "golden.json": "golden vectors",
}


@dataclass(frozen=True)
class Table:
    """Cells of text; the first row is the head, and columns after the first `left` are numbers."""

    title: str
    rows: Sequence[Sequence[str]]
    left: int = 1
    note: str = ""


def write_report(directory: Path, bundle: Path, planner: Planner, plan: Plan) -> tuple[Path, Path]:
    """Write the page of a bundle that is in place; returns its HTML and its Markdown.

    Args:
        directory: made if absent; files of an earlier report on a bundle of this name are replaced.
        planner, plan: what was tried and what was written. With data, named precisions that were not tried
            are simulated, so that there is something to compare with.
    """
    if planner.judge is not None:
        names = {attempt.label for attempt in planner.tried if not attempt.measured}
        others = [name for name in RECIPES if name not in names]
        planner.tried[:0] = [planner.simulated(name, RECIPES[name]) for name in others]
    budget = planner.options.budget
    sizes = file_sizes(bundle)
    tables = [_tried(planner.tried), _path(plan, planner), _parts(sizes)]
    if isinstance(plan.precision, Mix):
        schemes = [["linear or table", "stored as"], *map(list, plan.precision.schemes.items())]
        tables.append(Table("The mix that was found", schemes, left=2))
    if planner.low_rank:
        ranks = planner.low_rank["ranks"]
        rows = [[name, str(rank), f"{planner.low_rank['errors'][name]:.2%}"] for name, rank in ranks.items()]
        tables.append(Table("Low rank", [["linear", "rank", "of its output lost"], *rows]))
    title = f"{bundle.name}: size, quality, time"
    doubts = [told for each in planner.tried if each.measured and (told := doubt(each, budget))]
    advice = " ".join([recommendation(planner.tried), *doubts])
    directory.mkdir(parents=True, exist_ok=True)
    pages = (directory / f"{bundle.name}.report.html", directory / f"{bundle.name}.report.md")
    _replace(pages[0], _html(title, advice, planner.tried, tables))
    _replace(pages[1], _markdown(title, advice, tables))
    return pages


def recommendation(tried: Sequence[Attempt]) -> str:
    """In words, which of the attempts to take: the smallest that keeps within one percent of the float32
    student's NDCG@10; measured ones go before simulated ones of the same name."""
    known = {a.label: a for a in sorted(tried, key=lambda a: a.measured) if a.loss is not None and a.bytes}
    good = [a for a in known.values() if a.loss is not None and a.loss.part <= GOOD_LOSS]
    if not known:
        return "Quality was not measured: name the data with --data."
    if not good:
        return f"None keeps within {GOOD_LOSS:.0%} of the float32 student's NDCG@10: fp32 is what is left."
    best = min(good, key=lambda a: a.bytes or 0)
    how = "measured" if best.measured else "simulated: build it before you rely on it"
    return (
        f"Within {GOOD_LOSS:.0%} of the float32 student's NDCG@10, {best.label} is the smallest: "
        f"{best.bytes:,} bytes, {best.loss} lost ({how})."
    )


def file_sizes(bundle: Path) -> dict[str, int]:
    """Bytes of each file of a bundle, largest first."""
    if bundle.is_dir():
        sizes = {file.name: file.stat().st_size for file in bundle.iterdir()}
    else:
        with zipfile.ZipFile(bundle) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist()}
    return dict(sorted(sizes.items(), key=lambda entry: -entry[1]))


def _tried(tried: Sequence[Attempt]) -> Table:
    users = max((a.loss.users for a in tried if a.loss is not None), default=0)
    rows = [["tried", "bytes", "NDCG@10", "lost (95 %)", "ms a list", "how", "beyond"]]
    for a in tried:
        rows.append(
            [
                a.label,
                f"{a.bytes:,}" if a.bytes else "",
                f"{a.ndcg:.4f}" if a.ndcg is not None else "",
                str(a.loss) if a.loss is not None else "",
                f"{a.ms:.2f}" if a.ms is not None else "",
                "measured" if a.measured else "simulated",
                ", ".join(a.missed),
            ]
        )
    note = (
        f"NDCG@10 on {users:,} validation users, lost: against the float32 student on the same users, with "
        "the interval that drawing them anew gives. Bytes are of the whole bundle, estimated where "
        "simulated. Milliseconds are of the machine that built, not of a phone."
    )
    return Table("What was tried", rows, note=note)


def _path(plan: Plan, planner: Planner) -> Table:
    steps: list[dict[str, Any]] = [*plan.path]
    last = [a for a in planner.tried if a.measured and not a.missed]
    if last and last[-1].ndcg is not None:
        steps.append({"stage": "runtime", "ndcg@10": last[-1].ndcg})
    rows = [[step["stage"], f"{step['ndcg@10']:.4f}"] for step in steps]
    return Table("From the student to the runtime", [["after", "NDCG@10"], *rows])


def _parts(sizes: dict[str, int]) -> Table:
    total = sum(sizes.values())
    rows = [[name, _PARTS.get(name, ""), f"{size:,}", f"{size / total:.1%}"] for name, size in sizes.items()]
    rows.append(["all", "", f"{total:,}", "100.0%"])
    note = "A device needs one graph: an app can leave the others out."
    return Table("Where the bytes are", [["file", "what", "bytes", "part"], *rows], left=2, note=note)


def _markdown(title: str, advice: str, tables: Sequence[Table]) -> str:
    lines = [f"# {title}", "", advice, ""]
    for table in tables:
        head, *rows = table.rows
        lines += [f"## {table.title}", "", f"| {' | '.join(head)} |"]
        lines.append("|" + "|".join("---" if i < table.left else "---:" for i in range(len(head))) + "|")
        lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
        lines += ["", table.note, ""] if table.note else [""]
    return "\n".join(lines).rstrip() + "\n"


def _html(title: str, advice: str, tried: Sequence[Attempt], tables: Sequence[Table]) -> str:
    points = [
        Point(a.label if a.ms is None else f"{a.label}, {a.ms:.1f} ms", a.bytes, a.ndcg, a.measured)
        for a in tried
        if a.bytes and a.ndcg is not None
    ]
    body = [f"<h1>{html.escape(title)}</h1>", f"<p><strong>{html.escape(advice)}</strong></p>"]
    if points:
        body.append(frontier_plot(points))
    for table in tables:
        body.append(f"<h2>{html.escape(table.title)}</h2>\n<table>")
        for number, row in enumerate(table.rows):
            tag = "td" if number else "th"
            cells = "".join(
                f"<{tag}{'' if i < table.left else ' class=n'}>{html.escape(cell)}</{tag}>"
                for i, cell in enumerate(row)
            )
            body.append(f"<tr>{cells}</tr>")
        body.append("</table>")
        if table.note:
            body.append(f"<p>{html.escape(table.note)}</p>")
    return _PAGE.format(title=html.escape(title), body="\n".join(body))


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse; display: block; overflow-x: auto }}
th, td {{ padding: .2rem .8rem .2rem 0; text-align: left; border-bottom: 1px solid #ddd }}
.n {{ text-align: right; font-variant-numeric: tabular-nums }}
svg {{ width: 100%; height: auto }}
</style>
{body}
</html>
"""


def _replace(file: Path, text: str) -> None:
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, file)
