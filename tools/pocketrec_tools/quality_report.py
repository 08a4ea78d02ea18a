"""The page of the quality benchmark, made from the records that are there; what is missing is said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pocketrec_tools.quality_intervals import Interval, read_intervals
from pocketrec_tools.quality_peers import PEERS, seeded
from pocketrec_tools.quality_records import Record, Store
from pocketrec_tools.quality_runs import ARMS, OURS
from pocketrec_tools.quality_tables import (
    ablation_table,
    cold_table,
    interval_table,
    main_table,
    part_table,
)

HEAD = """\
Made by `make bench-quality` from the records in [quality/](quality/), one file for each run; not written by hand. How everything is
measured, what the words mean and how to do it again: [quality-method.md](quality-method.md).
"""  # noqa: E501 - a paragraph of the page


@dataclass(frozen=True)
class Expected:
    """What a complete page would have, for each data set."""

    arms: Sequence[str] = tuple(ARMS)
    peers: Sequence[str] = tuple(PEERS)
    seeds: Sequence[int] = (0, 1, 2)
    peer_seeds: Sequence[int] = (0,)
    cold_seeds: Sequence[int] = (0,)

    def complete(self) -> Expected:
        """With every arm and peer, and these seeds, or the usual ones where there are none."""
        usual = Expected()
        return Expected(
            seeds=self.seeds or usual.seeds,
            peer_seeds=self.peer_seeds or usual.peer_seeds,
            cold_seeds=self.cold_seeds or usual.cold_seeds,
        )

    def runs(self) -> Iterator[tuple[str, int]]:
        """(arm, seed) of every run."""
        yield from ((arm, seed) for arm in self.arms for seed in self.seeds)
        for peer in self.peers:
            yield from ((peer, seed) for seed in (self.peer_seeds if seeded(peer) else self.peer_seeds[:1]))
        yield from (("cold", seed) for seed in self.cold_seeds)


def write_page(store: Store, file: Path, expected: Expected, names: Sequence[str] = ()) -> None:
    """Write the page.

    Args:
        names: data sets to mention even where there is no record of them.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page(store, expected, names), encoding="utf-8")


def page(store: Store, expected: Expected, names: Sequence[str] = ()) -> str:
    """The page as Markdown, ending with a newline."""
    found: dict[str, list[Record]] = {name: [] for name in names}
    for record in store.records():
        found.setdefault(record.data.name, []).append(record)
    parts = ["# Quality, measured", HEAD]
    parts += ["\n\n".join(_section(store, name, records, expected)) for name, records in found.items()]
    if not found:
        parts.append("Nothing has been measured yet.")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _section(store: Store, name: str, records: list[Record], expected: Expected) -> Iterator[str]:
    yield f"## {name}"
    if records:
        data = records[0].data
        share = data.head_users / max(data.test_users, 1)
        yield (
            f"{data.users:,} users, {data.items:,} items, {data.events:,} events (fingerprint "
            f"`{data.fingerprint[:12]}`).\n{data.test_users:,} users have a test target, {share:.0%} of them "
            f"one of the {data.head_items:,} items of the head."
        )
        yield from _origin(records)
        yield "\n".join(main_table(records))
        intervals = read_intervals(store, name)
        for title, table in (
            ("What distillation adds", ablation_table(records)),
            ("DuoKD against each", interval_table(intervals)),
            ("Head and tail", part_table(records)),
            ("Cold items", cold_table(records)),
        ):
            if table:
                yield f"### {title} on {name}"
                yield "\n".join(table)
        yield from _verdicts(intervals)
        yield from _unpaired(records, intervals)
    yield from _missing(records, expected)


def _origin(records: list[Record]) -> Iterator[str]:
    """Where the figures were made: one line where all agree, else one for each commit and machine."""
    runs: dict[str, list[Record]] = {}
    for record in records:
        machine = record.machine
        where = f"{machine.get('gpu') or machine.get('processor')}, {machine.get('cores')} cores"
        threads = machine.get("threads")
        where += f", {threads} thread{'' if threads == 1 else 's'}, Python {machine.get('python')}"
        runs.setdefault(f"commit `{record.commit}`, {where}", []).append(record)
    lines = []
    for origin, made in runs.items():
        minutes = sum(record.minutes for record in made)
        lines.append(f"- {len(made)} runs, {minutes:.0f} minutes in all: {origin}")
    limited = {record.settings["max_minutes"] for record in records if "max_minutes" in record.settings}
    if limited:
        told = ", ".join(f"{minutes:g}" for minutes in sorted(limited))
        lines.append(
            f"- builds were limited to {told} minutes (`--max-minutes`), which may have ended training early"
        )
    if any(record.commit.endswith("+") for record in records):
        lines.append("- `+`: the sources had changes that were not committed")
    yield "\n".join(lines)


def _verdicts(intervals: list[Interval]) -> Iterator[str]:
    """Against whom the gain in NDCG@10 is decided, in words."""
    ndcg = [i for i in intervals if i.metric == "ndcg@10"]
    if not ndcg:
        return
    groups = {
        "better than": [i for i in ndcg if i.low > 0],
        "not told apart from": [i for i in ndcg if not i.decided],
        "worse than": [i for i in ndcg if i.high < 0],
    }
    said = [f"{verb} {', '.join(i.theirs for i in them)}" for verb, them in groups.items() if them]
    yield f"By NDCG@10, DuoKD is {'; '.join(said)}."


def _unpaired(records: list[Record], intervals: list[Interval]) -> Iterator[str]:
    """Arms that have been measured, but where ranks to pair are not at hand."""
    ranked = {record.arm for record in records if record.ranks}
    absent = sorted(ranked - {OURS} - {interval.theirs for interval in intervals})
    if OURS in ranked and absent:
        yield (
            f"**No interval** against {', '.join(absent)}: no common seed, or their ranks are not in the "
            "work directory; `--redo` makes them again."
        )


def _missing(records: list[Record], expected: Expected) -> Iterator[str]:
    there = {(record.arm, record.seed) for record in records}
    absent: dict[str, list[int]] = {}
    for arm, seed in expected.runs():
        if (arm, seed) not in there:
            absent.setdefault(arm, []).append(seed)
    if absent:
        listed = ", ".join(f"{arm} (seed {', '.join(map(str, seeds))})" for arm, seeds in absent.items())
        yield f"**Not measured here**: {listed}."
