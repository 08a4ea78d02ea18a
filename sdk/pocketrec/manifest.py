"""`manifest.json` (docs/bundle.md, section 2): strict models, and a parser that refuses what it does not
know."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from pocketrec.errors import BundleError

FORMAT = "pocketrec-bundle"
FORMAT_VERSION = 1
LOW_RANK = "low-rank"
"""Some linear of the backbone is two (docs/bundle.md, section 5)."""

RETIRED = "retired"
RENAMED = "renamed"
KNOWN_FEATURES: frozenset[str] = frozenset({LOW_RANK, RETIRED, RENAMED})
"""Names that `requires` may hold (docs/bundle.md, section 2)."""

MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "manifest.sig"
MAX_MANIFEST_BYTES = 1 << 20
MAX_FILES = 64
MAX_FILE_BYTES = 8 << 30
MAX_ITEMS = 1 << 26
MAX_VALUES, MAX_KEYS = 1 << 16, 1 << 13
"""Commas and opening brackets of a JSON file, and keys of an object in it. Two letters of text can be sixty
bytes of memory, and a fault that pydantic finds in an object holds a copy of all of it."""

_MANY_FAULTS, _SMALL_BYTES = 1000, 1 << 16
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

REQUIRED_FILES = (
    "backbone.safetensors",
    "catalogue.safetensors",
    "golden.json",
    "inputs.safetensors",
    "items.safetensors",
    "tokenizer.json",
    "words.safetensors",
)

FileName = Annotated[str, StringConstraints(pattern=rf"^{FILE_NAME.pattern}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Version = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,6}(\.[0-9]{1,6}){0,3}$")]
Label = Annotated[str, StringConstraints(min_length=1, max_length=128)]
ColumnName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]
EngineName = Annotated[str, StringConstraints(pattern=r"^(numpy|onnxruntime|executorch)$")]
Scheme = Literal["fp32", "int8", "int4"]


class Part(BaseModel):
    """Base of every model here: no unknown keys, no silent conversion, no change after reading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class TensorSpec(Part):
    """One input or output of the graph."""

    name: Label
    dtype: Literal["float32"]
    shape: Annotated[tuple[int, ...], FailFast()]


class Graph(Part):
    """The shapes of the graph; `inputs` and `outputs` say the same again, for tools that read only them."""

    length: int = Field(ge=1, le=4096)
    dim: int = Field(ge=32, le=4096, multiple_of=32)
    inputs: Annotated[tuple[TensorSpec, ...], FailFast()]
    outputs: Annotated[tuple[TensorSpec, ...], FailFast()]

    @model_validator(mode="after")
    def _shapes(self) -> Graph:
        expected = graph_spec(self.length, self.dim)
        if (self.inputs, self.outputs) != expected:
            raise ValueError(f"inputs and outputs must be {expected[0]} and {expected[1]}")
        return self


class Backbone(Part):
    """Hyper-parameters of the graph (section 5)."""

    architecture: Literal["qwen3", "llama"]
    layers: int = Field(ge=1, le=128)
    heads: int = Field(ge=1, le=1024)
    kv_heads: int = Field(ge=1, le=1024)
    head_dim: int = Field(ge=2, le=1024, multiple_of=2)
    intermediate: int = Field(ge=1, le=65536)
    rms_eps: float = Field(gt=0, lt=1)
    rope_theta: float = Field(gt=1, lt=1e12)

    @model_validator(mode="after")
    def _heads(self) -> Backbone:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        return self


class EngineFile(Part):
    """The file one engine runs, and the releases of that engine that may run it."""

    file: FileName
    min_version: Version | None = None
    max_version: Version | None = None
    made_with: Label | None = None


class TableSpec(Part):
    """Shape and scheme of one table (section 3)."""

    file: FileName
    rows: int = Field(ge=1, le=MAX_ITEMS)
    dim: int = Field(ge=32, le=4096, multiple_of=32)
    scheme: Scheme


class FileEntry(Part):
    """What `files` says of one file."""

    size: int = Field(ge=0, le=MAX_FILE_BYTES)
    sha256: Digest


class Manifest(Part):
    """The whole of `manifest.json`; the fields are described in docs/bundle.md, section 2."""

    format: Literal["pocketrec-bundle"]
    format_version: int = Field(ge=FORMAT_VERSION, le=FORMAT_VERSION)  # a Literal would admit true
    requires: Annotated[tuple[Label, ...], FailFast()]
    bundle_id: Digest
    name: Label
    model_version: int = Field(ge=1, lt=2**31)
    catalogue_version: int = Field(ge=1, lt=2**31)
    embedding_space: Label
    created: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    producer: Label
    precision: Label
    graph: Graph
    backbone: Backbone
    engines: dict[EngineName, EngineFile]
    tables: dict[str, TableSpec]
    events: Annotated[tuple[Annotated[str, StringConstraints(max_length=128)], ...], FailFast()] = Field(
        min_length=1, max_length=1024
    )
    gap_seconds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**53)], ...], FailFast()] = Field(
        max_length=1024
    )
    display: Annotated[tuple[ColumnName, ...], FailFast()] = Field(max_length=32)
    licences: dict[str, str]
    figures: dict[str, Any]
    extra: dict[str, Any]
    files: dict[FileName, FileEntry] = Field(max_length=MAX_FILES)

    @model_validator(mode="after")
    def _whole(self) -> Manifest:
        _require(self.bundle_id == bundle_id(self.files), "bundle_id is not the hash of the listing in files")
        _require(self.events[0] == "", 'events must begin with ""')
        _require(len(set(self.events)) == len(self.events), "events holds a type twice")
        rising = all(a < b for a, b in zip(self.gap_seconds, self.gap_seconds[1:], strict=False))
        _require(rising, "gap_seconds must rise")
        _require(len(set(self.display)) == len(self.display), "display holds a column twice")
        _require("item_id" not in self.display, "display must not hold item_id")
        _require(
            MANIFEST_NAME not in self.files and SIGNATURE_NAME not in self.files,
            "files must not list the manifest or its signature",
        )
        missing = [name for name in REQUIRED_FILES if name not in self.files]
        _require(not missing, f"files must list {missing}")
        _require("numpy" in self.engines, "engines must hold numpy")
        _require(self.engines["numpy"].file == "backbone.safetensors", "numpy runs backbone.safetensors")
        for engine, entry in self.engines.items():
            _require(
                entry.file in self.files, f"engines.{engine} names {entry.file}, which files does not list"
            )
        _require(set(self.tables) <= {"items", "words"}, "tables may hold items and words only")
        for name in ("items", "words"):
            table = self.tables.get(name)
            if table is None:
                raise ValueError(f"tables must hold {name}")
            _require(
                table.file == f"{name}.safetensors", f"the file of tables.{name} must be {name}.safetensors"
            )
            _require(table.dim == self.graph.dim, f"tables.{name}.dim must equal graph.dim")
        return self


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


def graph_spec(length: int, dim: int) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs that a graph of this length and width has."""
    rows = TensorSpec(name="rows", dtype="float32", shape=(1, length, dim))
    mask = TensorSpec(name="mask", dtype="float32", shape=(1, length))
    return (rows, mask), (TensorSpec(name="query", dtype="float32", shape=(1, dim)),)


def bundle_id(files: Mapping[str, FileEntry]) -> str:
    """The id of a bundle with these files: SHA-256 of the canonical listing, in hex."""
    listing = "".join(f"{name} {files[name].sha256}\n" for name in sorted(files, key=str.encode))
    return hashlib.sha256(listing.encode()).hexdigest()


def load_json(data: bytes, what: str, *, values: int = MAX_VALUES, keys: int = MAX_KEYS) -> Any:
    """JSON without a byte-order mark, duplicate keys, NaN or Infinity, of at most so many `values` (commas
    and opening brackets) and so many `keys` in an object; BundleError otherwise."""

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(pairs) > keys:
            raise ValueError(f"an object has {len(pairs)} keys; at most {keys} are allowed")
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key occurs twice in one object")
        return found

    def no_constants(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    try:
        if sum(map(data.count, (b",", b"[", b"{"))) > values:
            raise ValueError(f"it has more than {values} values")
        return json.loads(data.decode("utf-8"), object_pairs_hook=no_duplicates, parse_constant=no_constants)
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"{what} is not the JSON it should be: {error}.",
            code="json-invalid",
            remedy="Get the bundle again from where it was made.",
        ) from None


def parse_manifest(data: bytes) -> Manifest:
    """The manifest in `data`.

    Raises:
        BundleError: `json-invalid`, `format-newer` (made for a later runtime), `feature-unknown` (`requires`
            names something this runtime lacks), or `manifest-invalid` with the path and value of the first
            few faults.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise BundleError(
            f"{MANIFEST_NAME} has {len(data)} bytes; at most {MAX_MANIFEST_BYTES} are allowed.",
            code="too-large",
        )
    raw = load_json(data, MANIFEST_NAME)
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise BundleError(
            f"{MANIFEST_NAME} does not describe a {FORMAT}.",
            code="manifest-invalid",
            remedy="Point at a bundle that `pocketrec build` made.",
        )
    version = raw.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise BundleError(
            f"the bundle has format version {version}; this runtime reads {FORMAT_VERSION}.",
            code="format-newer",
            remedy="Update pocketrec, or build the bundle with this release.",
        )
    requires = raw.get("requires")
    if isinstance(requires, list):
        unknown = [name for name in requires if not isinstance(name, str) or name not in KNOWN_FEATURES]
        if unknown:
            raise BundleError(
                f"the bundle requires {unknown[:5]}, which this runtime does not know.",
                code="feature-unknown",
                remedy="Update pocketrec.",
            )
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise BundleError(
            f"{MANIFEST_NAME} is invalid: {describe_faults(error, data=data)}.",
            code="manifest-invalid",
            remedy="Build the bundle again.",
        ) from None


def describe_faults(error: ValidationError, limit: int = 3, *, data: bytes = b"") -> str:
    """The first few faults of a pydantic error in one line: path, message, value. Of very many, or
    where `data` (what was read) is long, no values: pydantic makes those of all faults at once."""
    if error.error_count() > _MANY_FAULTS:
        return f"{error.error_count()} faults"
    small = len(data) <= _SMALL_BYTES
    faults = []
    for fault in error.errors(include_url=False, include_context=False, include_input=small)[:limit]:
        where = ".".join(str(part) for part in fault["loc"]) or "the whole"
        value = repr(fault.get("input"))
        faults.append(f"{where}: {fault['msg']}" + (f" (got {value})" if small and len(value) <= 60 else ""))
    more = error.error_count() - len(faults)
    return "; ".join(faults) + (f"; and {more} more" if more > 0 else "")
