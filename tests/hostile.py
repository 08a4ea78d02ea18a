"""The hostile corpus: bundles that every runtime must refuse, each with the code it must refuse them with.

A case changes a good bundle directory in place and returns what to open: the directory, or an archive made of
it. `reseal` puts sizes, hashes and id right again, for faults that lie behind the hashes. Which step has to
refuse a case is its `stage`, see `hostile_base.Hostile`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile_graphs
from hostile_archives import members, pack
from hostile_base import (
    CASES,
    Header,
    Hostile,
    Manifest,
    case,
    edit_manifest,
    edit_tensors,
    manifest_case,
    reseal,
    tensors_case,
)
from hostile_graph_base import tiny_graph
from hostile_later import PINNED_KEY
from tiny_bundle import write_tiny_bundle

__all__ = [
    "CASES",
    "PINNED_KEY",
    "Hostile",
    "edit_manifest",
    "edit_tensors",
    "good_bundle",
    "members",
    "pack",
    "reseal",
]
assert hostile_graphs.__all__ == []  # importing it is what registers its cases


def good_bundle(out: Path) -> Path:
    """The sound bundle that every case starts from: a directory, unsigned, with a graph for ONNX Runtime
    (which is not the backbone: its golden vectors hold on the `numpy` engine alone)."""
    graph: bytes = tiny_graph().SerializeToString()
    return write_tiny_bundle(out, onnx=graph, engines={"onnxruntime": {"min_version": "1.20"}})


# Files and folders.


@case("size-mismatch")
def file_truncated(bundle: Path) -> None:
    path = bundle / "items.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


@case("hash-mismatch")
def one_bit_flipped(bundle: Path) -> None:
    path = bundle / "words.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


@case("file-missing")
def file_removed(bundle: Path) -> None:
    (bundle / "tokenizer.json").unlink()


@case("file-unlisted")
def file_added(bundle: Path) -> None:
    (bundle / "surplus.bin").write_bytes(b"x")


@case("name-invalid")
def hidden_file(bundle: Path) -> None:
    (bundle / ".hidden").write_bytes(b"x")


@case("file-special")
def folder_inside(bundle: Path) -> None:
    (bundle / "folder").mkdir()


@case("file-special")
def symbolic_link(bundle: Path) -> None:
    target = bundle / "items.safetensors"
    target.rename(bundle.parent / "outside")
    target.symlink_to(bundle.parent / "outside")


@case("file-special")
def named_pipe(bundle: Path) -> None:
    os.mkfifo(bundle / "pipe")


@case("manifest-missing")
def no_manifest(bundle: Path) -> None:
    (bundle / "manifest.json").unlink()


@case("too-large")
def manifest_of_two_megabytes(bundle: Path) -> None:
    with open(bundle / "manifest.json", "ab") as file:
        file.write(b" " * (2 << 20))


@case("too-many-files")
def hundred_files(bundle: Path) -> None:
    for number in range(100):
        (bundle / f"file{number}").write_bytes(b"")


@case("signature-invalid")
def signature_of_three_bytes(bundle: Path) -> None:
    (bundle / "manifest.sig").write_bytes(b"abc")


# The manifest.


@case("json-invalid")
def manifest_empty(bundle: Path) -> None:
    (bundle / "manifest.json").write_bytes(b"")


@case("json-invalid")
def manifest_with_byte_order_mark(bundle: Path) -> None:
    path = bundle / "manifest.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


@case("json-invalid")
def manifest_in_latin_1(bundle: Path) -> None:
    path = bundle / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"tiny"', b'"t\xefny"'))


@case("json-invalid")
def manifest_with_a_key_twice(bundle: Path) -> None:
    path = bundle / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b"{", b'{"name": "other",', 1))


@case("json-invalid")
def manifest_nested_without_end(bundle: Path) -> None:
    (bundle / "manifest.json").write_bytes(b'{"extra":' + b"[" * 200_000)


@case("json-invalid")
def manifest_with_nan(bundle: Path) -> None:
    path = bundle / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"figures": {}', b'"figures": {"a": NaN}'))


def _rename_file(manifest: Manifest, name: str) -> None:
    manifest["files"][name] = manifest["files"].pop("tokenizer.json")


manifest_case("manifest-invalid", "of-something-else", lambda m: m.update(format="zipfile"))
manifest_case("format-newer", "of-a-later-format", lambda m: m.update(format_version=2))
manifest_case("manifest-invalid", "format-version-as-text", lambda m: m.update(format_version="1"))
manifest_case("manifest-invalid", "format-version-true", lambda m: m.update(format_version=True))
manifest_case("feature-unknown", "requires-unknown", lambda m: m.update(requires=["telepathy"]))
manifest_case("manifest-invalid", "unknown-key", lambda m: m.update(surprise=1))
manifest_case("manifest-invalid", "unknown-key-deep", lambda m: m["graph"].update(surprise=1))
manifest_case("manifest-invalid", "key-missing", lambda m: m.pop("licences"))
manifest_case("manifest-invalid", "id-of-another", lambda m: m.update(bundle_id="0" * 64))
manifest_case("manifest-invalid", "version-zero", lambda m: m.update(model_version=0))
manifest_case("manifest-invalid", "version-as-float", lambda m: m.update(catalogue_version=1.0))
manifest_case("manifest-invalid", "created-without-z", lambda m: m.update(created="2026-01-02 03:04:05"))
manifest_case("manifest-invalid", "path-upwards", lambda m: _rename_file(m, "../tokenizer.json"))
manifest_case("manifest-invalid", "path-absolute", lambda m: _rename_file(m, "/etc/passwd"))
manifest_case("manifest-invalid", "path-backslash", lambda m: _rename_file(m, "..\\tokenizer.json"))
manifest_case("manifest-invalid", "path-with-nul", lambda m: _rename_file(m, "tokenizer\0.json"))
manifest_case("manifest-invalid", "path-with-newline", lambda m: _rename_file(m, "tokenizer.json\n"))
manifest_case("manifest-invalid", "lists-itself", lambda m: _rename_file(m, "manifest.json"))
manifest_case("manifest-invalid", "size-huge", lambda m: m["files"]["golden.json"].update(size=2**63))
manifest_case("manifest-invalid", "size-negative", lambda m: m["files"]["golden.json"].update(size=-1))
manifest_case("manifest-invalid", "hash-short", lambda m: m["files"]["golden.json"].update(sha256="ab"))
manifest_case("manifest-invalid", "dim-huge", lambda m: m["graph"].update(dim=2**40))
manifest_case("manifest-invalid", "dim-odd", lambda m: m["graph"].update(dim=33))
manifest_case("manifest-invalid", "length-zero", lambda m: m["graph"].update(length=0))
manifest_case("manifest-invalid", "layers-huge", lambda m: m["backbone"].update(layers=10**9))
manifest_case("manifest-invalid", "heads-do-not-divide", lambda m: m["backbone"].update(heads=3, kv_heads=2))
manifest_case("manifest-invalid", "eps-zero", lambda m: m["backbone"].update(rms_eps=0.0))
manifest_case(
    "manifest-invalid", "architecture-unknown", lambda m: m["backbone"].update(architecture="mamba")
)
manifest_case("manifest-invalid", "rows-huge", lambda m: m["tables"]["items"].update(rows=2**60))
manifest_case("manifest-invalid", "dims-differ", lambda m: m["tables"]["words"].update(dim=64))
manifest_case("manifest-invalid", "scheme-unknown", lambda m: m["tables"]["items"].update(scheme="int2"))
manifest_case("manifest-invalid", "table-unknown", lambda m: m["tables"].update(more=m["tables"]["items"]))
manifest_case("manifest-invalid", "table-missing", lambda m: m["tables"].pop("words"))
manifest_case(
    "manifest-invalid", "tables-swapped", lambda m: m["tables"]["items"].update(file="words.safetensors")
)
manifest_case(
    "manifest-invalid", "engine-unknown", lambda m: m["engines"].update(shell={"file": "golden.json"})
)
manifest_case(
    "manifest-invalid", "engine-file-absent", lambda m: m["engines"]["numpy"].update(file="nothing.bin")
)
manifest_case("manifest-invalid", "no-numpy", lambda m: m["engines"].pop("numpy"))
manifest_case("manifest-invalid", "first-event-named", lambda m: m.update(events=["view", ""]))
manifest_case("manifest-invalid", "event-twice", lambda m: m.update(events=["", "view", "view"]))
manifest_case("manifest-invalid", "gaps-fall", lambda m: m.update(gap_seconds=[60, 3600, 100]))
manifest_case("manifest-invalid", "display-item-id", lambda m: m.update(display=["title", "item_id"]))
manifest_case("manifest-invalid", "display-with-dot", lambda m: m.update(display=["title.bytes"]))
# Shapes that are allowed, but not those of the tables.
manifest_case("tensors-invalid", "rows-of-another-table", lambda m: m["tables"]["items"].update(rows=49))
manifest_case(
    "tensors-invalid", "scheme-of-another-table", lambda m: m["tables"]["items"].update(scheme="int4")
)
manifest_case("tensors-invalid", "one-event-more", lambda m: m.update(events=["", "view", "buy", "return"]))
manifest_case("tensors-invalid", "one-gap-less", lambda m: m.update(gap_seconds=[60, 3600]))
manifest_case("tensors-invalid", "a-column-less", lambda m: m.update(display=["title"]))


# Tensor files, behind hashes that are right.


@case("tensors-invalid")
def tensor_file_of_seven_bytes(bundle: Path) -> None:
    (bundle / "items.safetensors").write_bytes(b"1234567")
    reseal(bundle)


@case("tensors-invalid")
def tensor_header_longer_than_allowed(bundle: Path) -> None:
    (bundle / "items.safetensors").write_bytes(struct.pack("<Q", (1 << 20) + 1) + b" " * ((1 << 20) + 1))
    reseal(bundle)


@case("tensors-invalid")
def tensor_header_longer_than_the_file(bundle: Path) -> None:
    (bundle / "items.safetensors").write_bytes(struct.pack("<Q", 1000) + b"{}")
    reseal(bundle)


@case("tensors-invalid")
def tensor_header_of_2_to_the_64(bundle: Path) -> None:
    (bundle / "items.safetensors").write_bytes(b"\xff" * 8 + b"{}")
    reseal(bundle)


@case("json-invalid")
def tensor_header_no_json(bundle: Path) -> None:
    (bundle / "items.safetensors").write_bytes(struct.pack("<Q", 8) + b"not json")
    reseal(bundle)


def _overlap(header: Header, data: bytearray) -> None:
    first, second = sorted(
        (h for k, h in header.items() if k != "__metadata__"), key=lambda h: h["data_offsets"][0]
    )
    size = second["data_offsets"][1] - second["data_offsets"][0]
    second["data_offsets"] = [first["data_offsets"][1] - 4, first["data_offsets"][1] - 4 + size]
    del data[-4:]


def _gap(header: Header, data: bytearray) -> None:
    last = max((h for k, h in header.items() if k != "__metadata__"), key=lambda h: h["data_offsets"][0])
    last["data_offsets"] = [offset + 4 for offset in last["data_offsets"]]
    data.extend(b"1234")


def _set_float(name: str, index: int, value: float) -> Callable[[Header, bytearray], None]:
    def change(header: Header, data: bytearray) -> None:
        struct.pack_into("<f", data, header[name]["data_offsets"][0] + 4 * index, value)

    return change


def _set(name: str, **fields: Any) -> Callable[[Header, bytearray], None]:
    return lambda header, data: header[name].update(fields)


ITEMS = "items.safetensors"
tensors_case("tensors-invalid", "overlap", ITEMS, _overlap)
tensors_case("tensors-invalid", "gap", ITEMS, _gap)
tensors_case("tensors-invalid", "surplus-bytes", ITEMS, lambda header, data: data.extend(b"more"))
tensors_case("tensors-invalid", "data-missing", ITEMS, lambda header, data: data.pop())
tensors_case("tensors-invalid", "shape-too-large", ITEMS, _set("q", shape=[2**31, 2**31]))
tensors_case("tensors-invalid", "shape-negative", ITEMS, _set("q", shape=[-50, -32]))
tensors_case("tensors-invalid", "shape-of-floats", ITEMS, _set("q", shape=[50.0, 32.0]))
tensors_case("tensors-invalid", "shape-transposed", ITEMS, _set("q", shape=[32, 50]))
tensors_case("tensors-invalid", "rank-of-a-thousand", ITEMS, _set("q", shape=[1] * 1000))
tensors_case("tensors-invalid", "offsets-reversed", ITEMS, _set("q", data_offsets=[1600, 0]))
tensors_case("tensors-invalid", "offsets-negative", ITEMS, _set("q", data_offsets=[-1600, 0]))
tensors_case("tensors-invalid", "dtype-other", ITEMS, _set("q", dtype="U8"))
tensors_case("tensors-invalid", "dtype-unknown", ITEMS, _set("q", dtype="F4"))
tensors_case("tensors-invalid", "dtype-a-list", ITEMS, _set("q", dtype=[]))
tensors_case("tensors-invalid", "entry-with-more", ITEMS, _set("q", note="hello"))
tensors_case("tensors-invalid", "entry-a-number", ITEMS, lambda header, data: header.update(q=5))
tensors_case(
    "tensors-invalid", "metadata-a-number", ITEMS, lambda header, data: header.update(__metadata__=5)
)
tensors_case("tensors-invalid", "name-other", ITEMS, lambda header, data: header.update(Q=header.pop("q")))
tensors_case(
    "tensors-invalid", "one-too-many", ITEMS,
    lambda header, data: header.update(more={"dtype": "F32", "shape": [0], "data_offsets": [len(data)] * 2}),
)  # fmt: skip
tensors_case("values-invalid", "scale-nan", ITEMS, _set_float("scale", 3, float("nan")))
tensors_case("values-invalid", "scale-infinite", ITEMS, _set_float("scale", 3, float("inf")))
tensors_case("values-invalid", "scale-negative", ITEMS, _set_float("scale", 3, -1.0))
tensors_case("values-invalid", "event-row-nan", "inputs.safetensors", _set_float("events", 0, float("nan")))
tensors_case("values-invalid", "idf-nan", "inputs.safetensors", _set_float("idf", 3, float("nan")))
tensors_case("values-invalid", "idf-negative", "inputs.safetensors", _set_float("idf", 3, -1.0))
tensors_case("values-invalid", "gap-row-infinite", "inputs.safetensors", _set_float("gaps", 9, float("inf")))
tensors_case("values-invalid", "prior-nan", "catalogue.safetensors", _set_float("prior", 0, float("nan")))
tensors_case(
    "catalogue-invalid", "order-unsorted", "catalogue.safetensors",
    lambda header, data: struct.pack_into("<ii", data, header["item_id.order"]["data_offsets"][0], 1, 0),
)  # fmt: skip
