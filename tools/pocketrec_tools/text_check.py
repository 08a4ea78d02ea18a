"""What a data set's item texts are worth, and through what they are best read.

    python -m pocketrec_tools.text_check DATA_DIR [--encoder minilm] [--dim 256] [--users 4000] [--json]

Nothing is trained. An item scores the sum of its similarities with the history's items, each `decay` times
less than the one after it; validation targets are ranked by that in the protocol of every other figure. The
second pair of columns is about new items: of a tenth of the catalogue nothing was known when word rows were
made, and only these items compete. Word rows are what a device makes the rows of new items from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
import typer
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from pocketrec.output import print_json, print_table, show_progress
from pocketrec_export.data import Dataset, load_dataset
from pocketrec_export.metrics import Metrics, pessimistic_rank
from pocketrec_export.model import Material
from pocketrec_export.sentence_encoder import encode_texts, resolve_encoder
from pocketrec_export.teachers import Positions
from pocketrec_export.text import TextFeatures
from pocketrec_export.text_rows import distil, text_embeddings

Rows: TypeAlias = Any
"""Item rows [items, width]: an array, or CSR."""

LENGTH = 50
BLOCK = 512
CENTRED = 1e6
"""A floor at which whitening only centres."""
SHOWN = (0.3, 1.0, 10.0)
"""Floors that are shown of every data set, beside the chosen one."""


@dataclass(frozen=True)
class TextFigure:
    """How well one way to read item texts ranks; `cold_*` are about items nothing was known of, among
    themselves."""

    name: str
    ndcg: float
    hr: float
    users: int
    cold_ndcg: float | None
    cold_hr: float | None
    cold_users: int


@dataclass(frozen=True)
class Asked:
    """Histories and targets of the sampled users.

    Attributes:
        users: int32 [users], who they are.
        seen: item rows of each history.
        targets: int [users].
        profile: CSR float32 [users, items], the say of each item.
    """

    users: NDArray[np.int32]
    seen: list[NDArray[np.int32]]
    targets: NDArray[np.int32]
    profile: sparse.csr_matrix

    @classmethod
    def of(cls, material: Material, users: int, decay: float, seed: int) -> Asked:
        """A sample of the users who have a validation target."""
        dataset, split = material.dataset, material.split
        chosen = split.some_users("validation", users, seed)
        seen = [dataset.items[split.history(int(user), "validation")] for user in chosen]
        targets = np.array([dataset.items[split.target(int(user), "validation")] for user in chosen])
        recent = [items[-LENGTH:][::-1] for items in seen]
        lengths = np.array([len(items) for items in recent])
        lag = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        profile = sparse.csr_matrix(
            (
                (decay**lag).astype(np.float32),
                (np.repeat(np.arange(len(seen)), lengths), np.concatenate(recent)),
            ),
            shape=(len(seen), dataset.num_items),
        )
        return cls(chosen, seen, targets, profile)

    def metrics(self, parts: list[tuple[float, Rows]]) -> Metrics:
        """All users, all items; `parts` are weights and item rows, whose scores are added up."""
        ranks = []
        for first in range(0, len(self.seen), BLOCK):
            some = slice(first, first + BLOCK)
            scores = _scores(self.profile[some], parts)
            ranks.append(pessimistic_rank(scores, self.targets[some], self.seen[some]))
        return Metrics.from_ranks(np.concatenate(ranks))

    def cold_metrics(self, parts: list[tuple[float, Rows]], held: NDArray[np.bool_]) -> Metrics | None:
        """Users whose target is one of the items `held` [items], ranked among these."""
        users = np.flatnonzero(held[self.targets])
        if not len(users):
            return None
        place = np.cumsum(held) - 1
        scores = _scores(self.profile[users], parts, held)
        seen = [place[self.seen[user][held[self.seen[user]]]] for user in users]
        return Metrics.from_ranks(pessimistic_rank(scores, place[self.targets[users]], seen))


def _scores(
    profile: sparse.csr_matrix, parts: list[tuple[float, Rows]], held: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    total: Any = 0.0
    for weight, rows in parts:
        product = (profile @ rows) @ (rows if held is None else rows[held]).T
        total = total + weight * (product.toarray() if sparse.issparse(product) else np.asarray(product))
    return np.asarray(total, np.float32)


def check_texts(
    dataset: Dataset,
    encoder: str,
    cache_dir: Path,
    *,
    dim: int = 256,
    vocab: int = 8192,
    users: int = 4000,
    decay: float = 0.7,
    seed: int = 0,
) -> list[TextFigure]:
    """The figures of each way to read the texts; those of the encoder are left out when there is none.

    Args:
        encoder: see `resolve_encoder`; cache_dir: where its embeddings are kept.
        dim, vocab: of the word rows.
        users: at most so many, drawn by the seed.
    """
    material = Material(dataset, vocab)
    features, asked = material.features, Asked.of(material, users, decay, seed)
    held = np.random.default_rng(seed).random(dataset.num_items) < 0.1
    known = TextFeatures(features.weights[~held], features.idf)
    chosen = resolve_encoder(encoder)
    found: list[TextFigure] = []

    def add(name: str, *parts: tuple[float, Rows], cold: Callable[[], Rows] | None = None) -> None:
        every = asked.metrics(list(parts))
        new = asked.cold_metrics([(1.0, cold())] if cold else list(parts), held)
        figures = (new.ndcg, new.hr, new.users) if new else (None, None, 0)
        found.append(TextFigure(name, every.ndcg, every.hr, every.users, *figures))

    words = TfidfVectorizer(sublinear_tf=True).fit_transform(dataset.texts).astype(np.float32).tocsr()
    add("TF-IDF of words", (1.0, words))
    add("TF-IDF of tokens", (1.0, features.weights))
    add(
        f"word rows by latent semantic analysis, {dim} wide",
        (1.0, features.weights @ features.start_rows(dim, seed)),
        cold=lambda: features.weights @ known.start_rows(dim, seed),
    )
    if chosen is None:
        return found
    embeddings = encode_texts(dataset.texts, chosen, cache_dir)
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    add("encoder", (1.0, embeddings / np.maximum(length, 1e-12)))
    add("encoder, centred", (1.0, text_embeddings(embeddings, CENTRED)))
    for floor in SHOWN:
        add(f"encoder, whitened (floor {floor:g})", (1.0, text_embeddings(embeddings, floor)))
    every = distil(features, embeddings, dim, seed)
    others = distil(known, embeddings[~held], dim, seed)
    positions = Positions.held_out(
        material.ranker.histories, material.split, "validation", asked.users, LENGTH
    )
    best = every.choose_floor(features, positions)
    for floor in sorted({*SHOWN, best}):
        note = ", chosen" if floor == best else ""

        def cold(floor: float = floor) -> Any:
            return features.weights @ others.start_rows(floor)

        add(
            f"word rows from the encoder, {dim} wide (floor {floor:g}{note})",
            (1.0, features.weights @ every.start_rows(floor)),
            cold=cold,
        )
    add("TF-IDF of tokens + ½ encoder, whitened (floor 1)", (1.0, features.weights),
        (0.5, text_embeddings(embeddings, 1.0)))  # fmt: skip
    return found


def main(
    data: Annotated[Path, typer.Argument(help="data directory")],
    encoder: Annotated[str, typer.Option(help="minilm, a directory, a hub name, none or auto")] = "auto",
    cache: Annotated[Path, typer.Option(help="where embeddings are kept")] = Path("runs/texts"),
    dim: Annotated[int, typer.Option(help="width of the word rows")] = 256,
    vocab: Annotated[int, typer.Option(help="tokens of the word rows")] = 8192,
    users: Annotated[int, typer.Option(help="users, at most")] = 4000,
    decay: Annotated[float, typer.Option(help="say of an event beside the one after it")] = 0.7,
    seed: Annotated[int, typer.Option(help="draws users and items left out")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON document")] = False,
) -> None:
    """Rank validation targets by item texts alone, read in several ways."""
    show_progress()
    figures = check_texts(
        load_dataset(data), encoder, cache,
        dim=dim, vocab=vocab, users=users, decay=decay, seed=seed,
    )  # fmt: skip
    if as_json:
        print_json([asdict(figure) for figure in figures])
        return
    headers = ["item texts read as", "NDCG@10", "HR@10", "new NDCG@10", "new HR@10"]
    rows = [
        [f.name, *("–" if x is None else f"{x:.4f}" for x in (f.ndcg, f.hr, f.cold_ndcg, f.cold_hr))]
        for f in figures
    ]
    print_table(headers, rows, right=headers[1:])


if __name__ == "__main__":
    typer.run(main)
