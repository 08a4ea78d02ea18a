"""The verbs of the command line that the runtime itself brings: rank, inspect, verify.

Each is a thin shell around a function: `Recommender.rank`, `inspection.inspect`, `verify.verify`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from pocketrec.errors import DataError
from pocketrec.output import human_bytes, print_json, print_table

BundlePath = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="Directory or stored ZIP.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
PublicKeys = Annotated[
    list[Path] | None,
    typer.Option(
        "--public-key",
        metavar="FILE",
        help="A key (PEM or 32 raw bytes) that must have signed the bundle. Repeated: one of them must.",
        show_default=False,
    ),
]


def cli_rank(
    bundle: BundlePath,
    items: Annotated[
        str | None,
        typer.Option(
            "--items", metavar="A,B,C", help="The history: item ids, oldest first.", show_default=False
        ),
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option("--history", metavar="ME.DB", help="A history that `record` wrote.", show_default=False),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many items.")] = 10,
    engine: Annotated[
        str | None, typer.Option("--engine", metavar="NAME", help="onnxruntime, executorch or numpy.")
    ] = None,
    public_key: PublicKeys = None,
    as_json: AsJson = False,
) -> None:
    """Rank the catalogue for a history."""
    from pocketrec.history import History
    from pocketrec.recommender import Recommender

    if (items is None) == (history is None):
        raise DataError(
            "rank needs a history.", code="history-invalid", remedy="Give either --items or --history."
        )
    stored = History(history, create=False) if history is not None else ":memory:"
    with Recommender.open(bundle, stored, engine, public_keys=read_keys(public_key)) as recommender:
        if items is not None:
            ranking = recommender.rank(items.split(",") if items else [], k)
        else:
            ranking = recommender.recommend(k)
        manifest = recommender.bundle.manifest
    if as_json:
        about = {
            "bundle_id": manifest.bundle_id,
            "model_version": manifest.model_version,
            "catalogue_version": manifest.catalogue_version,
        }
        print_json(about | ranking.to_dict())
        return
    if ranking.fallback:
        typer.echo("No item of the history is in the catalogue: these are the most popular ones.")
    if ranking.skipped:
        typer.echo(
            f"{ranking.skipped} of the history's items are not in the catalogue and were skipped.", err=True
        )
    print_table(
        ("", "score", "item", "title"),
        [(str(rank), f"{r.score:.4f}", r.item_id, r.title) for rank, r in enumerate(ranking, start=1)],
        right=("", "score"),
    )


def cli_inspect(bundle: BundlePath, as_json: AsJson = False) -> None:
    """Show what a bundle says of itself: versions, sizes, figures, licences."""
    from pocketrec.inspection import inspect

    found = inspect(bundle)
    if as_json:
        print_json(found.to_dict())
        return
    m = found.manifest
    graph, tables, backbone = m["graph"], m["tables"], m["backbone"]
    lines = [
        ("name", f"{m['name']} · model {m['model_version']} · catalogue {m['catalogue_version']}"),
        ("bundle id", m["bundle_id"]),
        ("made", f"{m['created']} by {m['producer']}"),
        ("form", f"{found.form}, {human_bytes(found.bytes)}, {'signed' if found.signed else 'not signed'}"),
        ("precision", m["precision"]),
        ("graph", f"reads {graph['length']} events, width {graph['dim']}, {backbone['layers']} layers"),
        *((name, f"{t['rows']:,} rows, {t['scheme']}") for name, t in tables.items()),
        ("events", ", ".join(repr(event) for event in m["events"])),
        *(
            (f"engine {name}", _engine_line(e, name in found.usable_engines))
            for name, e in m["engines"].items()
        ),
        *((f"licence of {name}", text) for name, text in m["licences"].items()),
        *_figures("figure", m["figures"]),
        *((f"file {name}", human_bytes(size)) for name, size in found.files.items()),
    ]
    print_table(("", ""), lines)


def cli_verify(bundle: BundlePath, public_key: PublicKeys = None, as_json: AsJson = False) -> None:
    """Check hashes, limits, signature and the golden vectors on every runtime present."""
    from pocketrec.verify import verify

    result = verify(bundle, read_keys(public_key))
    if as_json:
        print_json(result.to_dict())
    else:
        print_table(("check", "", "found"), [(c.name, c.status, c.detail) for c in result.checks])
    if not result.ok:
        raise typer.Exit(1)


def _figures(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """A line for every figure, however deep: "figure student test ndcg@10" and its value."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _figures(f"{name} {key}", inner)
    elif isinstance(value, list):
        for number, entry in enumerate(value, 1):
            yield from _figures(f"{name} {number}", entry)
    elif isinstance(value, int) and not isinstance(value, bool) and name != "figure seed":
        yield name, f"{value:,}"
    else:
        yield name, f"{value:.4f}" if isinstance(value, float) else str(value)


def read_keys(paths: list[Path] | None) -> list[bytes]:
    """The bytes of the files that `--public-key` names."""
    from pocketrec.signing import read_key

    return [read_key(path) for path in paths or []]


def _engine_line(entry: dict[str, str | None], usable: bool) -> str:
    low, high = entry["min_version"], entry["max_version"]
    versions = f"{low or 'any'} to {high or 'any'}" if low or high else "any version"
    return f"{entry['file']}, {versions}, {'usable here' if usable else 'not usable here'}"
