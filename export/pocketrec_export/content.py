"""What goes into a bundle, in memory, and the bytes of its files (docs/bundle.md).

The same content always gives the same bytes; only `created` comes from the clock, when it is not given.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

import pocketrec
from pocketrec.catalogue import ID_COLUMN
from pocketrec.errors import DataError
from pocketrec.events import HistoryItem, check_text
from pocketrec.golden import DEFAULT_TOLERANCE, Golden, Request
from pocketrec.manifest import LOW_RANK, RENAMED, RETIRED, Backbone, EngineFile, Scheme
from pocketrec.quantise import quantise_rows_int4, quantise_rows_int8

Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class TableContent:
    """A table: float32 `rows` [n, d] to be stored by `scheme`, or the ready tensors of that scheme.

    Give one of `rows` and `tensors`.
    """

    scheme: Scheme
    rows: NDArray[np.float32] | None = None
    tensors: Tensors | None = None

    def stored(self) -> dict[str, NDArray[Any]]:
        """The tensors of the table's file (docs/bundle.md, section 3)."""
        if self.tensors is not None:
            return dict(self.tensors)
        if self.rows is None:
            raise DataError("a table needs rows or tensors.", code="content-invalid")
        rows = np.ascontiguousarray(self.rows, dtype=np.float32)
        if self.scheme == "fp32":
            return {"rows": rows}
        q, scale = quantise_rows_int8(rows) if self.scheme == "int8" else quantise_rows_int4(rows)
        return {"q": np.ascontiguousarray(q), "scale": np.ascontiguousarray(scale)}

    def shape(self) -> tuple[int, int]:
        """n and d."""
        stored = self.stored() if self.rows is None else {"rows": self.rows}
        array = stored.get("rows", stored.get("q"))
        if array is None or array.ndim != 2:
            raise DataError("a table needs rows or q of two dimensions.", code="content-invalid")
        return array.shape[0], array.shape[1] * (2 if self.rows is None and self.scheme == "int4" else 1)


@dataclass(frozen=True)
class BundleContent:
    """Everything that a bundle holds; shapes with n items, width d, and as docs/bundle.md describes them.

    Attributes:
        name, precision: labels for the manifest.
        length: events that the graph reads.
        backbone, backbone_tensors: hyper-parameters, and the tensors of section 5 in the form they are stored
            in.
        items, words: the tables; row i of `words` belongs to token i of the tokenizer.
        event_rows, gap_rows: float32 [number of events, d] and [number of gap_seconds + 2, d].
        idf: float32 [words], what a token weighs in a text.
        events, gap_seconds: event types, the first of them "", and rising thresholds.
        item_ids: n distinct ids, in catalogue order.
        prior, seen: n numbers each: what an empty history ranks by; training interactions (default: the
            same).
        tokenizer: the bytes of `tokenizer.json`.
        display: columns of n texts each; `title` is shown by the runtime.
        retired: ids, of `item_ids`, that are never ranked, and still read in a history.
        renamed: ids that items had before, and those they have now.
        onnx, pte: the graph for ONNX Runtime and ExecuTorch, bytes or a file; `engines` says their versions.
        engines: by engine, what the manifest says of versions, such as
            `{"onnxruntime": {"min_version": "1.20", "made_with": "1.28.0"}}`.
        golden: requests (or plain histories) whose answers by the `numpy` engine become the golden vectors;
            or the finished vectors.
        tolerance: of the golden vectors.
        most_off: when the engines at hand differ by more than the half of `tolerance` on the vectors
            themselves, but by no more than this, the tolerance becomes twice what they differ by.
        embedding_space: None derives it from the backbone and the input rows.
        created: UTC, RFC 3339; None takes the clock.
    """

    name: str
    precision: str
    length: int
    backbone: Backbone | Mapping[str, Any]
    backbone_tensors: Tensors
    items: TableContent
    words: TableContent
    event_rows: NDArray[np.float32]
    gap_rows: NDArray[np.float32]
    idf: NDArray[np.float32]
    events: Sequence[str]
    gap_seconds: Sequence[int]
    item_ids: Sequence[str]
    prior: NDArray[Any]
    tokenizer: bytes
    seen: NDArray[Any] | None = None
    display: Mapping[str, Sequence[str]] = field(default_factory=dict)
    retired: Collection[str] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    onnx: bytes | Path | None = None
    pte: bytes | Path | None = None
    engines: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)
    golden: Golden | Sequence[Request | Sequence[HistoryItem]] = ()
    tolerance: float = DEFAULT_TOLERANCE
    most_off: float = 0.0
    model_version: int = 1
    catalogue_version: int = 1
    embedding_space: str | None = None
    licences: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    created: str | None = None
    producer: str = f"pocketrec {pocketrec.__version__}"

    def requires(self) -> tuple[str, ...]:
        """The features that a reader has to know."""
        low_rank = any(name.endswith((".a", ".a.q")) for name in self.backbone_tensors)
        used = {LOW_RANK: low_rank, RETIRED: self.retired, RENAMED: self.renamed}
        return tuple(name for name, used in used.items() if used)

    def tensor_files(self) -> dict[str, dict[str, NDArray[Any]]]:
        """The safetensors files, by name."""
        return {
            "backbone.safetensors": dict(self.backbone_tensors),
            "items.safetensors": self.items.stored(),
            "words.safetensors": self.words.stored(),
            "inputs.safetensors": {
                "events": np.ascontiguousarray(self.event_rows, dtype=np.float32),
                "gaps": np.ascontiguousarray(self.gap_rows, dtype=np.float32),
                "idf": np.ascontiguousarray(self.idf, dtype=np.float32),
            },
            "catalogue.safetensors": self.catalogue_tensors(),
        }

    def other_files(self) -> dict[str, bytes | Path]:
        """Files taken as they are, by name."""
        files: dict[str, bytes | Path] = {"tokenizer.json": self.tokenizer}
        if self.onnx is not None:
            files["model.onnx"] = self.onnx
        if self.pte is not None:
            files["model.pte"] = self.pte
        return files

    def engine_files(self) -> dict[str, EngineFile]:
        """What the manifest says of engines."""
        files = {"numpy": "backbone.safetensors"}
        if self.onnx is not None:
            files["onnxruntime"] = "model.onnx"
        if self.pte is not None:
            files["executorch"] = "model.pte"
        surplus = sorted(set(self.engines) - set(files))
        if surplus:
            raise DataError(f"engines names {surplus}, for which there is no graph.", code="content-invalid")
        return {
            name: EngineFile(file=file, **dict(self.engines.get(name, {}))) for name, file in files.items()
        }

    def catalogue_tensors(self) -> dict[str, NDArray[Any]]:
        """The tensors of `catalogue.safetensors`.

        Raises:
            DataError: an id that is empty, too long or there twice, or a column of another length.
        """
        n = len(self.item_ids)
        encoded = [check_text(item_id, "item id").encode() for item_id in self.item_ids]
        order = sorted(range(n), key=encoded.__getitem__)
        for before, after in itertools.pairwise(order):
            if encoded[before] == encoded[after]:
                raise DataError(
                    f"the item id {self.item_ids[after]!r} is there twice (positions {before}, {after}).",
                    code="item-id-invalid",
                    remedy="Give every item an id of its own.",
                )
        if b"" in encoded:
            raise DataError(f"the item id at position {encoded.index(b'')} is empty.", code="item-id-invalid")
        seen = self.prior if self.seen is None else self.seen
        for what, values in (("prior", self.prior), ("seen", seen)):
            if len(values) != n or not (np.isfinite(values) & (np.asarray(values) >= 0)).all():
                raise DataError(
                    f"{what} must be {n} finite numbers that are not negative.", code="content-invalid"
                )
        tensors: dict[str, NDArray[Any]] = {
            "prior": np.ascontiguousarray(self.prior, dtype=np.float32),
            "seen": np.ascontiguousarray(seen, dtype=np.uint32),
            f"{ID_COLUMN}.order": np.array(order, dtype=np.int32),
            **_column(ID_COLUMN, encoded),
        }
        for name, texts in self.display.items():
            if len(texts) != n:
                raise DataError(
                    f"the column {name} has {len(texts)} entries for {n} items.", code="content-invalid"
                )
            tensors |= _column(name, [clean_text(text).encode() for text in texts])
        if unknown := ({*self.retired, *self.renamed.values()} - set(self.item_ids)) | (
            self.renamed.keys() & set(self.item_ids)
        ):
            raise DataError(
                f"{sorted(unknown)[:5]}: retired items and new names must be in the catalogue, former not.",
                code="content-invalid",
            )
        if self.retired:
            gone = set(self.retired)
            tensors[f"{RETIRED}.flags"] = np.array([item in gone for item in self.item_ids], dtype=np.uint8)
        if self.renamed:
            tensors |= _column(f"{RENAMED}.old", [old.encode() for old in self.renamed])
            tensors |= _column(f"{RENAMED}.new", [new.encode() for new in self.renamed.values()])
        return tensors

    def created_or_now(self) -> str:
        """`created`, or the clock."""
        return self.created or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def clean_text(text: str) -> str:
    """Display text without lone surrogates, which UTF-8 cannot hold; each becomes U+FFFD."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _column(name: str, encoded: list[bytes]) -> dict[str, NDArray[Any]]:
    offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
    np.cumsum([len(text) for text in encoded], out=offsets[1:])
    return {f"{name}.bytes": np.frombuffer(b"".join(encoded), dtype=np.uint8), f"{name}.offsets": offsets}


def tensor_bytes(tensors: Tensors) -> bytes:
    """A safetensors file of these tensors; the same tensors give the same bytes."""
    return safetensors.numpy.save({name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)})


def json_bytes(value: Any, indent: int | None = 1) -> bytes:
    """JSON as the bundle's files are written: UTF-8, keys in the order given, a newline at the end; `indent`
    None leaves out all white space that means nothing."""
    separators = (",", ":") if indent is None else None
    text = json.dumps(value, indent=indent, separators=separators, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def compact_json(data: bytes) -> bytes:
    """The same JSON without white space that means nothing. Tokenizers are saved indented, a merge on four
    lines: that is three fifths of their bytes."""
    return json_bytes(json.loads(data), indent=None)
