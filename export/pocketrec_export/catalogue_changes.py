"""The next catalogue out of the last one and a table of changes: what a shop does daily, without training.

The model stays what it is. An item that is added gets the row that its text makes through the bundle's own
word table (docs/bundle.md, section 3), which is the row that a build gives to an item nobody has seen. Where
a text changes, what behaviour taught stays: the row moves by the difference of the two text rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pocketrec.bundle import Bundle
from pocketrec.catalogue import ID_COLUMN
from pocketrec.errors import DataError
from pocketrec.golden import GOLDEN_NAME, Request, parse_golden
from pocketrec.manifest import RENAMED
from pocketrec.text import TextRows
from pocketrec_export.content import BundleContent, TableContent
from pocketrec_export.data_catalogue import joined, looks_like_ids
from pocketrec_export.data_files import SUFFIXES, Table, read_table
from pocketrec_export.data_report import refuse, short
from pocketrec_export.writer import write_bundle

ACTIONS = ("add", "change", "retire", "return", "rename")
_OWN = ("action", ID_COLUMN, "new_id", "prior")
_MADE_ANEW = ("items.safetensors", "catalogue.safetensors", GOLDEN_NAME)


class _RowError(Exception):
    """What is wrong with a row, and what to do."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message, self.remedy = message, remedy


@dataclass
class _Catalogue:
    """The catalogue while it is changed; `moved` are positions whose row follows a new text."""

    ids: list[str]
    display: dict[str, list[str]]
    prior: list[float]
    seen: list[int]
    retired: set[str]
    renamed: dict[str, str]
    place: dict[str, int] = field(init=False)
    moved: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.place = {item: position for position, item in enumerate(self.ids)}


@dataclass(frozen=True)
class _Kept(BundleContent):
    """Content whose other files are those of the bundle before, byte for byte."""

    kept: Mapping[str, bytes] = field(default_factory=dict)

    def tensor_files(self) -> dict[str, dict[str, NDArray[Any]]]:
        return {"items.safetensors": self.items.stored(), "catalogue.safetensors": self.catalogue_tensors()}

    def other_files(self) -> dict[str, bytes | Path]:
        return dict(self.kept)


def is_changes(path: str | Path) -> bool:
    """Whether the path names a table of changes rather than a bundle."""
    return Path(path).name.lower().endswith(SUFFIXES)


def write_next(
    old: str | Path,
    changes: str | Path,
    out: str | Path,
    *,
    text_columns: Sequence[str] | None = None,
    sign_key: bytes | None = None,
    force: bool = False,
) -> dict[str, int]:
    """Write the bundle that `changes` make of the bundle `old` at `out`, a directory; how often each action
    occurs.

    Its model is that of `old`, file for file; its `catalogue_version` is one higher. Its golden vectors ask
    what the old ones ask.

    Args:
        changes: CSV or Parquet with `action` and `item_id`, one row an item; display columns of `old`; and
            optionally `new_id` (of a `rename`) and `prior` (a number, what an empty history ranks by). A cell
            that is empty changes nothing; of an item that is added, it is an empty text, or 0.
        text_columns: display columns that make up the text of an item, in this order; None takes those that
            `build` would: all but columns of ids.
        sign_key: Ed25519 private key in PEM.

    Raises:
        DataError: `changes-invalid`, naming row and remedy; what `read_table` raises.
        BundleError: `old` is unsound.
        PocketrecError: as `write_bundle`.
    """
    table = read_table(Path(changes), ("action", ID_COLUMN))
    with Bundle.open(old) as bundle:
        before = _read(bundle)
        columns = _text_columns(before, bundle.catalogue.columns, text_columns, table.name)
        old_texts = _texts(before, columns)
        counts = _apply(table, before)
        content = _content(bundle, before, old_texts, columns)
        write_bundle(out, content=content, sign_key=sign_key, force=force)
    return {action: counts[action] for action in ACTIONS}


def _read(bundle: Bundle) -> _Catalogue:
    catalogue = bundle.catalogue
    ids = [catalogue.item_id(position) for position in range(catalogue.n)]
    renamed: dict[str, str] = {}
    tensors = bundle.tensors("catalogue.safetensors")
    if RENAMED in bundle.manifest.requires:
        sides = []
        for side in ("old", "new"):
            raw = tensors[f"{RENAMED}.{side}.bytes"].tobytes()
            ends = tensors[f"{RENAMED}.{side}.offsets"].tolist()
            sides.append([raw[a:b].decode() for a, b in pairwise(ends)])
        renamed = dict(zip(*sides, strict=True))
    return _Catalogue(
        ids,
        {
            name: [catalogue.text(name, position) for position in range(catalogue.n)]
            for name in catalogue.columns
        },
        catalogue.prior.tolist(),
        catalogue.seen.tolist(),
        {ids[position] for position in catalogue.retired.tolist()},
        renamed,
    )


def _text_columns(
    before: _Catalogue, columns: Sequence[str], chosen: Sequence[str] | None, file: str
) -> tuple[str, ...]:
    if chosen is None:
        return tuple(name for name in columns if not looks_like_ids(pl.Series(name, before.display[name])))
    if unknown := [name for name in chosen if name not in columns]:
        raise DataError(
            f"the bundle shows no column {unknown[0]!r}.",
            code="changes-invalid",
            remedy=f"Text columns can be {', '.join(columns)}.",
        )
    return tuple(chosen)


def _apply(table: Table, catalogue: _Catalogue) -> Counter[str]:
    """Do what every row says."""
    frame, counts = table.frame, Counter[str]()
    if unknown := [name for name in frame.columns if name not in (*_OWN, *catalogue.display)]:
        refuse(
            table.name,
            f"the bundle shows no column {short(unknown[0])}",
            f"Columns can be {', '.join((*_OWN, *catalogue.display))}.",
            code="changes-invalid",
        )
    texts = frame.select(pl.all().cast(pl.String, strict=False).fill_null(""))
    named: set[str] = set()
    for index, row in enumerate(texts.iter_rows(named=True)):
        try:
            if row[ID_COLUMN] in named:
                raise _RowError(f"{row[ID_COLUMN]!r} has a row above", "Keep one row for each item.")
            named.add(row[ID_COLUMN])
            _change(row, catalogue)
        except _RowError as error:
            refuse(table.name, error.message, error.remedy, code="changes-invalid", place=table.place(index))
        counts[row["action"]] += 1
    return counts


def _change(row: dict[str, str], catalogue: _Catalogue) -> None:
    action, item = row["action"], row[ID_COLUMN]
    if action not in ACTIONS:
        raise _RowError(f"there is no action {action!r}", f"Choose of {', '.join(ACTIONS)}.")
    if action == "add":
        _add(item, catalogue)
    place = catalogue.place.get(item)
    if place is None:
        now = catalogue.renamed.get(item)
        raise _RowError(
            f"{item!r} is not in the catalogue", f"It is {now!r} now." if now else "Add it first."
        )
    if action in ("retire", "return"):
        if (item in catalogue.retired) == (action == "retire"):
            raise _RowError(f"{action} {item!r}: it is so already", "Leave the row out.")
        catalogue.retired ^= {item}
    if bool(row.get("new_id")) != (action == "rename"):
        raise _RowError(
            f"{action} {item!r} with new_id {row.get('new_id', '')!r}", "A rename has one, nothing else has."
        )
    for name, texts in catalogue.display.items():
        if row.get(name):
            texts[place] = row[name]
            catalogue.moved.add(place)
    if row.get("prior"):
        catalogue.prior[place] = _prior(row["prior"])
    if action == "rename":
        _rename(item, row["new_id"], place, catalogue)


def _prior(text: str) -> float:
    try:
        prior = float(text)
    except ValueError:
        prior = -1.0
    if not 0 <= prior < 1e30:
        raise _RowError(
            f"the prior {text!r} is no number from 0 on", "Count interactions, or leave it empty."
        )
    return prior


def _add(item: str, catalogue: _Catalogue) -> None:
    if item in catalogue.place or item in catalogue.renamed:
        remedy = "`return` it." if item in catalogue.retired else "`change` it, or take another id."
        raise _RowError(f"{item!r} is in the catalogue, or was", remedy)
    catalogue.place[item] = len(catalogue.ids)
    catalogue.moved.add(len(catalogue.ids))
    catalogue.ids.append(item)
    catalogue.prior.append(0.0)
    catalogue.seen.append(0)
    for texts in catalogue.display.values():
        texts.append("")


def _rename(item: str, new: str, place: int, catalogue: _Catalogue) -> None:
    if new in catalogue.place or catalogue.renamed.get(new, item) != item:
        raise _RowError(f"{new!r} is another item, or was", "Take another id.")
    renamed = {old: new if now == item else now for old, now in catalogue.renamed.items() if old != new}
    catalogue.renamed = renamed | {item: new}
    catalogue.ids[place] = new
    catalogue.place[new] = catalogue.place.pop(item)
    if item in catalogue.retired:
        catalogue.retired = catalogue.retired - {item} | {new}


def _texts(catalogue: _Catalogue, columns: Sequence[str]) -> list[str]:
    """The text of every item."""
    if not columns:
        return [""] * len(catalogue.ids)
    texts: list[str] = joined(pl.DataFrame({name: catalogue.display[name] for name in columns})).to_list()
    return texts


def _content(
    bundle: Bundle, after: _Catalogue, old_texts: Sequence[str], columns: Sequence[str]
) -> BundleContent:
    manifest, golden = bundle.manifest, parse_golden(bundle.file_bytes(GOLDEN_NAME))
    inputs: dict[str, NDArray[Any]] = bundle.tensors("inputs.safetensors")
    asked = set(Request.model_fields)
    kept = {name: bundle.file_bytes(name) for name in manifest.files if name not in _MADE_ANEW}
    return _Kept(
        name=manifest.name,
        precision=manifest.precision,
        length=manifest.graph.length,
        backbone=manifest.backbone,
        backbone_tensors=bundle.tensors("backbone.safetensors"),
        items=_items(bundle, after, old_texts, columns),
        words=TableContent(manifest.tables["words"].scheme, tensors=bundle.tensors("words.safetensors")),
        event_rows=inputs["events"],
        gap_rows=inputs["gaps"],
        idf=inputs["idf"],
        events=manifest.events,
        gap_seconds=manifest.gap_seconds,
        item_ids=after.ids,
        prior=np.array(after.prior, np.float32),
        seen=np.array(after.seen, np.uint32),
        tokenizer=kept["tokenizer.json"],
        display=after.display,
        retired=after.retired,
        renamed=after.renamed,
        onnx=kept.get("model.onnx"),
        pte=kept.get("model.pte"),
        engines={name: engine.model_dump(exclude={"file"}) for name, engine in manifest.engines.items()},
        golden=[Request(**case.model_dump(include=asked)) for case in golden.cases],
        tolerance=golden.tolerance,
        model_version=manifest.model_version,
        catalogue_version=manifest.catalogue_version + 1,
        embedding_space=manifest.embedding_space,
        licences=manifest.licences,
        figures=manifest.figures,
        extra=manifest.extra,
        kept=kept,
    )


def _items(
    bundle: Bundle, after: _Catalogue, old_texts: Sequence[str], columns: Sequence[str]
) -> TableContent:
    """The item table: rows that stay as they are stored, rows that follow a text quantised anew."""
    table, texts, rows_of = bundle.tables["items"], _texts(after, columns), TextRows(bundle)
    stored = {name: np.array(values) for name, values in bundle.tensors("items.safetensors").items()}
    added = len(after.ids) - table.n
    for name, values in stored.items():
        stored[name] = np.concatenate([values, np.zeros((added, *values.shape[1:]), values.dtype)])
    moved, rows = [], []
    for position in sorted(after.moved):
        old = old_texts[position] if position < table.n else None
        if texts[position] == old:
            continue  # only what is shown changed
        row = rows_of.row(texts[position])
        if old is None and not row.any():
            raise DataError(
                f"the new item {after.ids[position]!r} has no text that the bundle's tokenizer knows.",
                code="changes-invalid",
                remedy=f"Give it one in {', '.join(columns) or 'a bundle with text columns'}.",
            )
        if old is not None and after.seen[position]:
            row = table.rows(np.array([position]))[0] + row - rows_of.row(old)
        moved.append(position)
        rows.append(row)
    if moved:
        for name, values in TableContent(table.scheme, rows=np.stack(rows)).stored().items():
            stored[name][moved] = values
    return TableContent(table.scheme, tensors=stored)
