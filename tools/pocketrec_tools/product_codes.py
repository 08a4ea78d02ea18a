"""Would product codes make a smaller item table for the same quality? A simulation; no bundle has them.

    python -m pocketrec_tools.product_codes BUNDLE DATA_DIR [--pieces 64,32] [--passes N]

BUNDLE is an fp32 one, so that the item table is all that differs. A row is cut into `m` pieces and each piece
is replaced by the nearest of 256 centroids (product quantisation, Jégou, Douze and Schmid 2011): one byte for
a piece, and the centroids, in half precision, for all. Turned ways look for the rotation that loses least
(OPQ, Ge, He, Ke and Sun 2013); weighed ways measure the loss in scores and not
in rows: E (q·x − q·x̂)², by the second moment of the queries that training histories give. Codes are fitted to
the trained table. With `--passes` they are also trained (`product_codes_taught`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2

from pocketrec.bundle import Bundle
from pocketrec.errors import DataError
from pocketrec.output import note, show_progress
from pocketrec.quantise import GROUP
from pocketrec_export.batches import Histories
from pocketrec_export.bundle_ranks import bundle_queries
from pocketrec_export.metrics import ndcg_gains, paired_bootstrap
from pocketrec_export.precision import Scheme
from pocketrec_export.precision_graph import HistoryGraph, Prefixes
from pocketrec_export.precision_quality import chunked_ranks, rounded_table
from pocketrec_tools.batched_ranks import asked_of
from pocketrec_tools.held_out import HeldOut
from pocketrec_tools.product_codes_taught import taught_codes

Rows = NDArray[np.float32]

CENTROIDS = 256
PIECES = (128, 64, 32, 16)
KMEANS_ROUNDS, TURNS, TURN_ROUNDS = 12, 8, 3
MOMENT_HISTORIES = 4000
TAUGHT_PREFIXES = 60_000
"""Beginnings of training histories in a pass, at most: what narrowing has by default."""


class Table(NamedTuple):
    """Rows that stand for the item table, float32 [n, d], and the bytes that they take."""

    rows: Rows
    bytes: int


class Way(NamedTuple):
    """What one table does: NDCG@10 over all users, and its change with the paired 95 % interval, as parts of
    the float32 table's."""

    name: str
    bytes: int
    ndcg: float
    change: float
    low: float
    high: float


def product_codes(rows: Rows, pieces: int, seed: int = 0) -> tuple[Rows, list[Rows]]:
    """Each piece of each row replaced by the nearest of its 256 centroids, by k-means; and the centroids.

    Args:
        rows: float32 [n, d]; `pieces` divides d.
    """
    return _coded(rows, pieces, None, KMEANS_ROUNDS, seed)


def turned_codes(rows: Rows, pieces: int, seed: int = 0) -> Rows:
    """`product_codes` of the rows turned by the rotation that loses least, turned back.

    It starts with the principal axes, dealt out so that all pieces have about the same product of variances
    (the parametric solution); then codes and rotation in turns, the rotation by orthogonal Procrustes.
    """
    rotation = _dealt_axes(rows, pieces)
    coded, centroids = _coded(rows @ rotation, pieces, None, KMEANS_ROUNDS, seed)
    for _ in range(TURNS):
        u, _, v = np.linalg.svd(rows.T @ coded)
        rotation = (u @ v).astype(np.float32)
        coded, centroids = _coded(rows @ rotation, pieces, centroids, TURN_ROUNDS, seed)
    return np.asarray(coded @ rotation.T, np.float32)


def _coded(
    rows: Rows, pieces: int, start: list[Rows] | None, rounds: int, seed: int
) -> tuple[Rows, list[Rows]]:
    """The coded rows and the centroids of each piece; `start` are earlier ones, None draws rows."""
    out, centroids = np.empty_like(rows), []
    for piece, columns in enumerate(np.split(np.arange(rows.shape[1]), pieces)):
        part = rows[:, columns]
        if start is not None:
            found, code = kmeans2(part, start[piece], rounds, minit="matrix", missing="warn")
        elif len(different := np.unique(part, axis=0)) <= CENTROIDS:
            found, code = kmeans2(part, different, 1, minit="matrix", missing="warn")
        else:
            found, code = kmeans2(part, CENTROIDS, rounds, minit="points", missing="warn", seed=seed)
        centroids.append(found)
        out[:, columns] = found.astype(np.float16)[code]
    return out, centroids


def _dealt_axes(rows: Rows, pieces: int) -> Rows:
    """Principal axes, float32 [d, d], in columns that belong to pieces in turn."""
    d = rows.shape[1]
    values, vectors = np.linalg.eigh(np.cov(rows.T.astype(np.float64)))
    dealt: list[list[int]] = [[] for _ in range(pieces)]
    logs = np.zeros(pieces)
    for axis in np.argsort(-values):
        free = [piece for piece in range(pieces) if len(dealt[piece]) < d // pieces]
        piece = min(free, key=lambda each: logs[each])
        dealt[piece].append(int(axis))
        # Against the smallest, so that every log is positive and an empty piece comes first.
        logs[piece] += 1e-9 + np.log(max(values[axis], 1e-30) / max(values.min(), 1e-30))
    return vectors[:, [axis for axes in dealt for axis in axes]].astype(np.float32)


def weighed(rows: Rows, moment: NDArray[np.float64], code: Callable[[Rows], Rows]) -> Rows:
    """`code` of the rows in the metric of `moment` = E q qᵀ [d, d], whose square root takes errors of rows to
    errors of scores."""
    values, vectors = np.linalg.eigh(moment)
    root = np.sqrt(np.maximum(values, values[-1] * 1e-6))
    there, back = vectors * root, vectors / root
    return np.asarray(code((rows @ there).astype(np.float32)) @ back.T, np.float32)


def tables(rows: Rows, moment: NDArray[np.float64], numbers: Sequence[int] = PIECES) -> dict[str, Table]:
    """Every way to store the table, by name; those numbers of pieces that divide the width."""
    n, d = rows.shape
    schemes: tuple[tuple[Scheme, int], ...] = (
        ("fp32", 4 * d * n),
        ("int8", (d + 4) * n),
        ("int4", (d // 2 + 4 * d // GROUP) * n),
    )
    found: dict[str, Table] = {scheme: Table(rounded_table(rows, scheme), size) for scheme, size in schemes}
    for pieces in (p for p in numbers if d % p == 0):
        size, rotation = pieces * n + 2 * CENTROIDS * d, 4 * d * d
        turned = Table(turned_codes(rows, pieces), size + rotation)
        by_score = weighed(rows, moment, lambda there, m=pieces: turned_codes(there, m))  # type: ignore[misc]
        found[f"codes {pieces}"] = Table(product_codes(rows, pieces)[0], size)
        found[f"codes {pieces}, turned"] = turned
        found[f"codes {pieces}, turned and weighed"] = Table(by_score, size + rotation)
    return found


def taught(
    bundle: Bundle, training: Histories, rows: Rows, numbers: Sequence[int], passes: int, seed: int
) -> Iterator[tuple[str, Table, HistoryGraph]]:
    """Codes that were trained with the backbone, one way after the other: name, table and graph."""
    n, d = rows.shape
    prefixes = Prefixes.drawn(training, bundle.manifest.graph.length, TAUGHT_PREFIXES, seed)
    for pieces in (p for p in numbers if d % p == 0):
        centroids = product_codes(rows, pieces, seed)[1]
        coded, graph = taught_codes(bundle, rows, centroids, prefixes, passes, seed)
        yield f"codes {pieces}, taught", Table(coded, pieces * n + 2 * CENTROIDS * d), graph


def training_histories(bundle: Bundle, held_out: HeldOut) -> Histories:
    """The training events of the data, with the bundle's gaps."""
    return Histories.from_events(*held_out.split.train_csr(), tuple(bundle.manifest.gap_seconds))


def query_moment(bundle: Bundle, training: Histories, rows: Rows, seed: int) -> NDArray[np.float64]:
    """E q qᵀ, float64 [d, d], over beginnings of training histories."""
    drawn = Prefixes.drawn(training, bundle.manifest.graph.length, MOMENT_HISTORIES, seed)
    queries = bundle_queries(bundle, drawn, torch.from_numpy(rows)).double().numpy()
    return np.asarray(queries.T @ queries / len(queries))


def measure(
    bundle_path: Path,
    data_dir: Path,
    users: int | None,
    seed: int,
    passes: int = 0,
    numbers: Sequence[int] = PIECES,
) -> list[Way]:
    """Every way on the same test users, the float32 table first.

    Args:
        users: at most so many, drawn by the seed; None takes all.
        passes: in which codes are trained, too; 0 leaves that out.
        numbers: of pieces that a row is cut into; those that do not divide its width are left out.

    Raises:
        DataError: "precision-wrong", the bundle is not an fp32 one of a width that the pieces divide.
    """
    with Bundle.open(bundle_path) as bundle:
        table = bundle.tables["items"]
        if table.scheme != "fp32" or table.d % GROUP:
            raise DataError(
                f"{bundle_path}: its item table is {table.scheme}, {table.d} wide.",
                code="precision-wrong",
                remedy=f"Export with --precision fp32 a student whose width is a multiple of {GROUP}.",
            )
        for pieces in (p for p in numbers if table.d % p):
            note(f"left out: {pieces} pieces do not divide a row of {table.d} numbers")
        held_out = HeldOut.load(data_dir, bundle.catalogue, users=users, seed=seed)
        asked = asked_of(bundle, held_out)
        rows = np.array(table.rows(np.arange(table.n)), np.float32)
        training = training_histories(bundle, held_out)
        fitted = tables(rows, query_moment(bundle, training, rows, seed), numbers)
        every: Iterable[tuple[str, Table, HistoryGraph | None]] = (
            (name, table, None) for name, table in fitted.items()
        )
        if passes:
            every = chain(every, taught(bundle, training, rows, numbers, passes, seed))
        found: list[Way] = []
        whole: NDArray[np.float64] | None = None
        for name, stored, graph in every:
            items = torch.from_numpy(stored.rows)
            queries = bundle_queries(bundle, asked.prefixes, items, graph)
            gains = ndcg_gains(chunked_ranks(queries, items, asked.targets, asked.seen))
            whole = gains if whole is None else whole
            change, of = paired_bootstrap(gains, whole, seed=seed), float(whole.mean())
            parts = (change.mean / of, change.low / of, change.high / of)
            found.append(Way(name, stored.bytes, float(gains.mean()), *parts))
            note(f"{name}: {stored.bytes:,} bytes, NDCG@10 {gains.mean():.4f}")
        return found


def main(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", show_default=False)],
    data_dir: Annotated[Path, typer.Argument(metavar="DATA_DIR", show_default=False)],
    users: Annotated[int | None, typer.Option(min=10, help="Test users.  [default: all]")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    passes: Annotated[int, typer.Option(min=0, help="In which codes are trained, too.")] = 0,
    pieces: Annotated[str, typer.Option(metavar="A,B", help="Codes a row.")] = ",".join(map(str, PIECES)),
) -> None:
    """Print the table of all ways, as Markdown."""
    try:
        numbers = [int(each) for each in pieces.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise typer.BadParameter(f"{pieces!r}: give numbers from 1 with commas between, like 64,32.")
    show_progress()
    ways = measure(bundle, data_dir, users, seed, passes, numbers)
    typer.echo("| item table | × smaller | NDCG@10 | change | of it |\n|---|---:|---:|---:|---:|")
    for way in ways:
        told = f"{way.change:+.2%} | {way.low:+.2%} … {way.high:+.2%}"
        typer.echo(f"| {way.name} | {ways[0].bytes / way.bytes:.1f} | {way.ndcg:.4f} | {told} |")


if __name__ == "__main__":
    typer.run(main)
