"""`pocketrec simulate` at a terminal; the work is in `simulate`, the page in `simulate_server`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from pocketrec.errors import DataError
from pocketrec.history import MAX_EVENTS
from pocketrec.output import note, print_json, print_table, show_progress
from pocketrec.verbs import AsJson
from pocketrec_tools.simulate_settings import Conditions, Policies, Settings, checked, pairs, unix_time


def cli_simulate(
    bundle: Annotated[
        Path,
        typer.Argument(
            metavar="BUNDLE|RUN", help="A bundle; with --serve also the folder of a run.", show_default=False
        ),
    ],
    data_dir: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATA_DIR", help="The directory that the bundle was built from.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="RUN", help="Folder of the run; a part of it is completed."),
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option("--against", metavar="BUNDLE", help="One more bundle, beside the first. Repeatable."),
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Replay the first bundle without policies and limits, too.")
    ] = False,
    users: Annotated[
        int | None, typer.Option("--users", metavar="N", help="At most so many, drawn by the seed.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Draws users, opt-outs, exploration.")] = 0,
    start: Annotated[
        str | None, typer.Option("--from", metavar="DATE", help="Replay events from then on; UTC.")
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="DATE", help="Replay events before then.")
    ] = None,
    last: Annotated[
        int | None, typer.Option("--last", metavar="N", help="Replay the last N events of each; 2: held out.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Length of the lists that are shown.")] = 10,
    engine: Annotated[
        str | None, typer.Option("--engine", metavar="NAME", help="onnxruntime, executorch or numpy.")
    ] = None,
    mmr: Annotated[
        float | None,
        typer.Option("--mmr", metavar="0..1", help="Re-rank for diversity; 1 is relevance alone."),
    ] = None,
    explore: Annotated[
        float, typer.Option("--explore", metavar="0..1", help="Chance that a slot shows a random item.")
    ] = 0.0,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="COLUMN=VALUE", help="Show only such items.")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", metavar="COLUMN=VALUE", help="Never show such items.")
    ] = None,
    update: Annotated[
        Path | None, typer.Option("--update", metavar="BUNDLE", help="Replaces the first one at --update-at.")
    ] = None,
    update_at: Annotated[
        str | None, typer.Option("--update-at", metavar="DATE", help="When the phones get the update; UTC.")
    ] = None,
    keep_events: Annotated[
        int, typer.Option("--keep-events", help="Events that a phone stores.")
    ] = MAX_EVENTS,
    keep_days: Annotated[
        float | None, typer.Option("--keep-days", help="Days for which a phone stores events.")
    ] = None,
    opt_outs: Annotated[
        float, typer.Option("--opt-outs", metavar="0..1", help="Share of people who record nothing.")
    ] = 0.0,
    devices: Annotated[
        list[str] | None,
        typer.Option("--device", metavar="NAME:GMACS:GBPS:MS", help="A phone for the model of latency."),
    ] = None,
    column: Annotated[
        str | None, typer.Option("--column", metavar="NAME", help="Display column with the categories.")
    ] = None,
    files: Annotated[
        bool, typer.Option("--files", help="Histories in files, as on a phone; slower, measures their bytes.")
    ] = False,
    processes: Annotated[
        int | None, typer.Option("--processes", metavar="N", min=1, help="At once.  [default: cores]")
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Open the page of the bundle, or of the run.")
    ] = False,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Of the page; 0: any free one.")] = 0,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
    as_json: AsJson = False,
) -> None:
    """Replay real histories as if each user were a phone; report, plots, and a page to look at.

    `simulate BUNDLE DATA_DIR --out RUN` replays; interrupted, the same command goes on where it was.
    `simulate --serve BUNDLE DATA_DIR` or `simulate --serve RUN` opens the page, on this machine only.
    """
    show_progress()
    if serve:
        from pocketrec_tools.simulate_server import serve as open_page

        open_page(bundle, data_dir, list(against or []), port=port, browser=not no_open, engine=engine)
        return
    if data_dir is None or out is None:
        raise DataError(
            "a replay needs a bundle, a data directory and a folder for the run.",
            code="argument-invalid",
            remedy="Write pocketrec simulate BUNDLE DATA_DIR --out RUN; the page opens with --serve.",
        )
    from pocketrec_tools.simulate import simulate
    from pocketrec_tools.simulate_devices import DEVICES, device

    policies = checked(
        Policies, {"mmr": mmr, "explore": explore, "only": pairs(only), "without": pairs(without)}
    )
    conditions = checked(
        Conditions,
        {
            "policies": policies, "update": update, "update_at": unix_time(update_at),
            "keep_events": keep_events, "keep_days": keep_days, "opt_outs": opt_outs,
        },
    )  # fmt: skip
    settings = checked(
        Settings,
        {
            "users": users, "seed": seed, "k": k, "engine": engine, "start": unix_time(start),
            "end": unix_time(end), "last": last, "column": column, "files": files,
        },
    )  # fmt: skip
    report = simulate(
        bundle,
        data_dir,
        out,
        against=against or (),
        conditions=conditions,
        plain=plain,
        settings=settings,
        devices=[device(text) for text in devices] if devices else DEVICES,
        processes=processes,
    )
    if as_json:
        print_json(report.to_dict())
        return
    from pocketrec_tools.simulate_report import differences_table, figures_table, notes, slice_table

    document = report.document
    tables = [
        figures_table(document),
        *(_held_out(arm, slice_table(arm, "part")) for arm in document["arms"]),
    ]
    for headers, rows in [*tables, *([differences_table(document)] if document["differences"] else [])]:
        print_table(headers, rows, right=headers[1:])
        typer.echo()
    for line in [*notes(document), *_timing(report.timing)]:
        typer.echo(line)
    typer.echo(f"Report: {out / 'report.html'}")
    note(f"To look at it: pocketrec simulate --serve {out}")


def _held_out(
    arm: dict[str, Any], table: tuple[list[str], list[list[str]]]
) -> tuple[list[str], list[list[str]]]:
    """Lists, users and the metrics of accuracy: what fits a terminal."""
    headers, rows = table
    return [f"arm {arm['name']}", *headers[1:6]], [row[:6] for row in rows]


def _timing(timing: dict[str, Any]) -> Iterator[str]:
    for arm in timing["arms"]:
        yield (
            f"Arm {arm['name']}: {arm['list_ms']['median']:.2f} ms a list here (95 % below "
            f"{arm['list_ms']['p95']:.2f}), {arm['record_ms']['median']:.2f} ms a record."
        )
    yield (
        f"{timing['seconds']:.0f} s by the clock; {timing['runtime_seconds']:.0f} s in the runtime, all "
        "processes and earlier tries of this run together."
    )
