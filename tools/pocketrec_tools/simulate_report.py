"""The report of a run: JSON for machines, Markdown to paste, HTML that stands alone.

No times and no paths are in it: equal runs write equal reports.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pocketrec.output import human_bytes
from pocketrec_tools.simulate_plots import Plot
from pocketrec_tools.simulate_run import write_atomically

SLICES = {
    "part": "By part of the split",
    "history": "By events before the list",
    "target": "By training events of the item that followed",
    "session_position": "By place in the session",
    "event": "By type of the event",
    "repeat": "By whether the person had met the item",
    "update": "Before and after the update",
}

_WORDS = {
    "coverage": "share of the catalogue that some list showed",
    "gini": "inequality of how often items were shown, 0 to 1",
    "popular_share": "share of slots with one of the tenth of items with the most training events",
    "novelty_bits": "mean −log2 of the share in training events",
    "diversity": "1 − mean cosine of the rows of two items of a list",
    "calibration_kl": "KL divergence of the list's categories from those of the person's events; 0 is best",
    "repeat_share": "share of events whose item the person had met before; a miss, as seen are filtered",
    "fallback_share": "share of lists that were the popularity prior",
    "kept_share": "share of a list that the one before it had shown, too",
}

Table = tuple[list[str], list[list[str]]]

_STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#5a626b;--line:#d9dde2;--paper:#fff}
@media (prefers-color-scheme:dark){:root{--ink:#e6e8eb;--soft:#9aa3ad;--line:#343a41;--paper:#15181c}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;
margin:2rem auto;padding:0 1rem}h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.86rem}
th,td{padding:.25rem .7rem .25rem 0;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left}th{color:var(--soft);font-weight:600}
.note{border-left:3px solid #d9822b;padding:.2rem 0 .2rem .8rem}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(20rem,1fr));gap:1rem;margin-top:1rem}
figure{margin:0}svg{max-width:100%;height:auto}
"""


def write_reports(out: Path, document: dict[str, Any], plots: Sequence[Plot]) -> None:
    """Write report.json, report.md and report.html into the folder of the run."""
    write_atomically(out / "report.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    write_atomically(out / "report.md", markdown(document, plots))
    write_atomically(out / "report.html", page(document, plots))


def notes(document: dict[str, Any]) -> Iterator[str]:
    """What a reader of the figures has to know besides them."""
    final = document["final"]
    if final is not None:
        yield f"Last events: {final['protocol']}."
    yield (
        "Only the last two events of a user were held out of training: figures of the part training, and so "
        "of all lists, are of a model that was trained on these events. Trust validation and test."
    )
    if any(arm["conditions"]["policies"] != _PLAIN for arm in document["arms"]):
        yield "Where policies act, a rank is the place in the list that was shown, and ties are not counted."
    yield (
        "Replay is not an experiment: people saw other lists than these when they acted, so that a list gets "
        "no credit for what it would have led to."
    )
    if not document["data"]["timed"]:
        yield "The data's timestamps are mere positions: there is nothing over time, and no session."
    yield "Latency by device is a model from stated rates; timing.json has what was measured here."


_PLAIN: dict[str, Any] = {"mmr": None, "explore": 0.0, "only": [], "without": []}


def arms_table(document: dict[str, Any]) -> Table:
    """The arms: bundle and conditions."""
    rows = []
    for arm in document["arms"]:
        bundle = arm["bundle"]
        rows.append(
            [
                arm["name"],
                f"{bundle['name']}, {bundle['precision']}",
                bundle["bundle_id"][:12],
                human_bytes(bundle["bundle_bytes"]),
                f"{bundle['items']:,}",
                ", ".join(_conditions(arm["conditions"])) or "none",
            ]
        )
    return ["arm", "bundle", "bundle id", "all files", "items", "conditions"], rows


def figures_table(document: dict[str, Any]) -> Table:
    """All lists of each arm, one figure a row."""
    arms = document["arms"]
    keys = list(arms[0]["all"])
    return ["", *(arm["name"] for arm in arms)], [
        [_name(k), *(_cell(a["all"][k]) for a in arms)] for k in keys
    ]


def slice_table(arm: dict[str, Any], name: str) -> Table:
    """A slice of an arm, one value a row."""
    rows = arm["slices"].get(name, []) if name != "over_time" else arm["over_time"]
    keys = [key for key in rows[0] if key not in ("value", "from")] if rows else []
    return ["", *map(_name, keys)], [[str(row["value"]), *(_cell(row[key]) for key in keys)] for row in rows]


def differences_table(document: dict[str, Any]) -> Table:
    """Paired differences."""
    rows = [
        [
            f"{row['ours']} − {row['theirs']}", row["metric"], row["over"], _cell(row["base"]),
            f"{row['mean']:+.4f}", f"{row['low']:+.4f} to {row['high']:+.4f}",
            "yes" if row["decided"] else "no", f"{row['users']:,}",
        ]
        for row in document["differences"]
    ]  # fmt: skip
    return ["", "metric", "over", "of the second", "difference", "95 % interval", "decided", "users"], rows


def devices_table(document: dict[str, Any]) -> Table:
    """The model of latency."""
    arms = document["arms"]
    rows = [
        [
            row["device"], f"{row['gmacs']:g}", f"{row['gbps']:g}", f"{row['overhead_ms']:g}",
            *(f"{arm['modelled_latency'][place]['ms']:.2f}" for arm in arms),
        ]
        for place, row in enumerate(arms[0]["modelled_latency"])
    ]  # fmt: skip
    return ["device", "GMAC/s", "GB/s", "overhead ms", *(f"ms, {arm['name']} (model)" for arm in arms)], rows


def sections(document: dict[str, Any]) -> Iterator[tuple[str, Table]]:
    """Every table of the report, with its heading."""
    yield "Arms", arms_table(document)
    yield "All lists", figures_table(document)
    if document["differences"]:
        yield "Differences between arms", differences_table(document)
    for arm in document["arms"]:
        suffix = f", arm {arm['name']}" if len(document["arms"]) > 1 else ""
        for name, title in SLICES.items():
            if name in arm["slices"]:
                yield f"{title}{suffix}", slice_table(arm, name)
        if arm["over_time"]:
            yield f"Over time{suffix}", slice_table(arm, "over_time")
    yield "Latency by device: a model", devices_table(document)


def markdown(document: dict[str, Any], plots: Sequence[Plot]) -> str:
    """report.md."""
    lines = [f"# Simulation of {document['users']:,} users, {document['lists']:,} lists", ""]
    lines += [f"- {text}" for text in notes(document)]
    for title, (headers, rows) in sections(document):
        lines += ["", f"## {title}", "", _line(headers), "|---" + "|---:" * (len(headers) - 1) + "|"]
        lines += [_line(row) for row in rows]
    lines += ["", "## Plots", ""] if plots else [""]
    lines += [f"![{plot.title}: {_plain(plot.words)}](plots/{plot.name}.svg)\n" for plot in plots]
    lines += ["## Words", ""]
    lines += [f"- {_name(key)}: {text}" for key, text in _WORDS.items()]
    return "\n".join(lines) + "\n"


def page(document: dict[str, Any], plots: Sequence[Plot]) -> str:
    """report.html: one file that needs no other."""
    title = f"Simulation of {document['users']:,} users, {document['lists']:,} lists"
    body = [f"<h1>{title}</h1>"]
    body += [f'<p class="note">{html.escape(text)}</p>' for text in notes(document)]
    for number, (heading, (headers, rows)) in enumerate(sections(document)):
        head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in headers)
        lines = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
        )
        body.append(f"<h2>{html.escape(heading)}</h2>")
        body.append(
            f'<div class="wide" tabindex="0" role="region" aria-label="{html.escape(heading)}"><table>'
            f"<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>"
        )
        if number == 1:
            figures = "".join(f"<figure>{_inline(plot)}</figure>" for plot in plots)
            body.append(f'<div class="plots">{figures}</div>')
    words = "".join(f"<dt>{_name(key)}</dt><dd>{html.escape(text)}</dd>" for key, text in _WORDS.items())
    body.append(f"<h2>Words</h2><dl>{words}</dl>")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _conditions(conditions: dict[str, Any]) -> Iterator[str]:
    policies = conditions["policies"]
    if policies["mmr"] is not None:
        yield f"MMR {policies['mmr']:g}"
    if policies["explore"]:
        yield f"exploration {policies['explore']:g}"
    for word in ("only", "without"):
        yield from (f"{word} {column}={value}" for column, value in policies[word])
    if conditions["update_at"] is not None:
        yield f"updated at {conditions['update_at']}"
    if conditions["keep_events"] != 10_000:
        yield f"keeps {conditions['keep_events']} events"
    if conditions["keep_days"] is not None:
        yield f"keeps {conditions['keep_days']:g} days"
    if conditions["opt_outs"]:
        yield f"{conditions['opt_outs']:.0%} opted out"


def _inline(plot: Plot) -> str:
    """The picture, its ids made its own: several are in one page."""
    return (
        plot.svg.replace('id="', f'id="{plot.name}-')
        .replace("url(#", f"url(#{plot.name}-")
        .replace('href="#', f'href="#{plot.name}-')
    )


def _name(key: str) -> str:
    return key.replace("_", " ").replace("hr@", "HR@").replace("ndcg@", "NDCG@").replace("mrr@", "MRR@")


def _cell(value: float | int | str | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else value


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _plain(text: str) -> str:
    return text.replace("[", "(").replace("]", ")")
