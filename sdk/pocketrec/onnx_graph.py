"""`model.onnx` as the format admits it (docs/bundle.md, section 5), read without ONNX Runtime or protobuf.

ONNX is a language: a file may name other files, hold functions, loops and operators of anybody's library, or
make a tensor of a terabyte out of two numbers. A bundle's graph does none of this, so that a reader of the
few messages it uses can be strict: a field it does not know, a field twice, a shape that its data does not
fill are refused, and a second parser has nothing left to understand in another way. Weights are not copied.
What may be computed is in `onnx_shapes`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pocketrec.errors import BundleError

MAX_NODES = 1 << 16
MAX_TENSORS = 1 << 16
MAX_RANK = 8
MAX_NAME_BYTES = 1024
_FEW = 64
"""Integers of a constant that shapes are made from: no graph of ours has more."""

_FLOAT, _INT64 = 1, 7
ITEM_BYTES = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2}
"""Bytes of an element by ONNX data type: float, uint8, int8, int32, int64, bool, float16."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Constant:
    """An initializer: its shape, and its numbers where it is a short list of int64."""

    shape: Shape
    ints: tuple[int, ...] | None


@dataclass(frozen=True)
class Node:
    """One operator; `attributes` holds an int, a tuple of ints, or None for what shapes do not depend on."""

    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Graph:
    """The whole: nodes in the order of the file."""

    nodes: list[Node]
    constants: dict[str, Constant]
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    opsets: dict[str, int] = field(default_factory=dict)


def refuse(what: str) -> BundleError:
    """The error for a graph that the format does not admit."""
    return BundleError(f"model.onnx: {what}.", code="graph-invalid", remedy="Build the bundle again.")


def read_graph(model: bytes | memoryview) -> Graph:
    """The graph in the bytes of `model.onnx`.

    Raises:
        BundleError: `graph-invalid`.
    """
    known = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2}
    parts = _message(memoryview(model), "the model", known, many={8, 14})
    if 7 not in parts:
        raise refuse("it holds no graph")
    opsets: dict[str, int] = {}
    for part in parts.get(8, ()):
        entry = _message(part, "an opset", {1: 2, 2: 0})
        name = _text(entry, 1)
        if name in opsets:
            raise refuse(f"it imports the operators of {name!r} twice")
        opsets[name] = _signed(entry.get(2, [0])[0])
    return _graph(parts[7][0], opsets)


def _graph(view: memoryview, opsets: dict[str, int]) -> Graph:
    known = {1: 2, 2: 2, 5: 2, 10: 2, 11: 2, 12: 2, 13: 2, 16: 2}
    parts = _message(view, "the graph", known, many={1, 5, 11, 12, 13, 16})
    nodes, tensors = parts.get(1, []), parts.get(5, [])
    if len(nodes) > MAX_NODES or len(tensors) > MAX_TENSORS:
        raise refuse(f"it has {len(nodes)} nodes and {len(tensors)} tensors")
    constants: dict[str, Constant] = {}
    for part in tensors:
        name, constant = _tensor(part)
        if not name or name in constants:
            raise refuse(f"a tensor has no name, or {name!r} is there twice")
        constants[name] = constant
    return Graph(
        [_node(part) for part in nodes],
        constants,
        _values(parts.get(11, []), "input"),
        _values(parts.get(12, []), "output"),
        opsets,
    )


def _node(view: memoryview) -> Node:
    parts = _message(view, "a node", {1: 2, 2: 2, 3: 2, 4: 2, 5: 2, 6: 2, 7: 2, 9: 2}, many={1, 2, 5, 9})
    attributes: dict[str, Any] = {}
    for part in parts.get(5, ()):
        name, value = _attribute(part)
        if name in attributes:
            raise refuse(f"a node has the attribute {name!r} twice")
        attributes[name] = value
    names = [tuple(_decode(part) for part in parts.get(number, ())) for number in (1, 2)]
    return Node(_text(parts, 4), _text(parts, 7), names[0], names[1], attributes)


def _attribute(view: memoryview) -> tuple[str, Any]:
    # Not among them: tensors, graphs (loops and branches) and references to a function's attributes.
    known = {1: 2, 2: 5, 3: 0, 4: 2, 7: 2, 8: None, 13: 2, 20: 0}
    parts = _message(view, "an attribute", known, many={8})
    if len(parts.keys() & {2, 3, 4, 7, 8}) > 1:
        raise refuse(f"the attribute {_text(parts, 1)!r} has two values")
    if 3 in parts:
        return _text(parts, 1), _signed(parts[3][0])
    if 8 in parts:
        return _text(parts, 1), tuple(_signed(n) for n in _numbers(parts[8], _FEW))
    return _text(parts, 1), None


def _tensor(view: memoryview) -> tuple[str, Constant]:
    # Not among them: external data (13), segments (3), strings, and kinds of numbers that no graph here has.
    known = {1: None, 2: 0, 4: 2, 5: 2, 7: 2, 8: 2, 9: 2, 12: 2, 14: 0}
    parts = _message(view, "a tensor", known, many={1})
    name = _text(parts, 8)
    shape = tuple(_signed(n) for n in _numbers(parts.get(1, []), MAX_RANK))
    kind = parts.get(2, [0])[0]
    if kind not in ITEM_BYTES or any(n < 0 for n in shape) or parts.get(14, [0])[0] != 0:
        raise refuse(f"the tensor {name!r} has the type {kind}, the shape {shape}, or its data elsewhere")
    count, data = math.prod(shape), [number for number in (4, 5, 7, 9) if number in parts]
    if len(data) > 1 or (count and not data):
        raise refuse(f"the tensor {name!r} has data of {len(data)} kinds")
    ints: tuple[int, ...] | None = None
    if data == [9]:
        raw = parts[9][0]
        if len(raw) != count * ITEM_BYTES[kind]:
            raise refuse(f"the tensor {name!r} of shape {shape} has {len(raw)} bytes")
        if kind == _INT64 and count <= _FEW:
            ints = tuple(int.from_bytes(raw[8 * i : 8 * i + 8], "little", signed=True) for i in range(count))
    elif data:
        ints = _typed(parts[data[0]][0], data[0], kind, count, name)
    elif kind == _INT64:
        ints = ()
    return name, Constant(shape, ints)


def _typed(view: memoryview, where: int, kind: int, count: int, name: str) -> tuple[int, ...] | None:
    """Data in the field for its type rather than as raw bytes; checked to be as much as the shape says."""
    fits = where == (4 if kind == _FLOAT else 7 if kind == _INT64 else 5)
    # Of numbers of any length, each ends with a byte below 128.
    found = len(view) / 4 if where == 4 else sum(byte < 0x80 for byte in view)
    if not fits or found != count:
        raise refuse(f"the tensor {name!r} should have {count} numbers, and has {found}")
    return tuple(_signed(n) for n in _numbers([view], _FEW)) if kind == _INT64 and count <= _FEW else None


def _values(parts: list[Any], what: str) -> dict[str, Shape]:
    """Names and shapes of inputs or outputs: float32, every dimension a number."""
    found: dict[str, Shape] = {}
    for part in parts:
        value = _message(part, what, {1: 2, 2: 2, 3: 2, 4: 2}, many={4})
        name = _text(value, 1)
        kind = _message(_only(value, 2, what), what, {1: 2, 6: 2})
        tensor = _message(_only(kind, 1, what), what, {1: 0, 2: 2})
        if name in found or tensor.get(1, [0])[0] != _FLOAT:
            raise refuse(f"the {what} {name!r} is there twice, or is not float32")
        dims = _message(_only(tensor, 2, what), what, {1: 2}, many={1}).get(1, [])
        if len(dims) > MAX_RANK:
            raise refuse(f"the {what} {name!r} has {len(dims)} dimensions")
        sizes = [_message(dim, what, {1: 0, 3: 2}) for dim in dims]
        found[name] = tuple(_signed(_only(size, 1, what)) for size in sizes)
    return found


def _message(
    view: memoryview, what: str, known: Mapping[int, int | None], many: set[int] | None = None
) -> dict[int, list[Any]]:
    """The fields of a message by number.

    Args:
        known: the numbers that may occur, and their wire type; None admits numbers one by one and packed.
        many: those that may occur more than once.
    """
    found: dict[int, list[Any]] = {}
    for number, wire, value in _fields(view, what):
        if number not in known or wire not in ((0, 2) if known[number] is None else (known[number],)):
            raise refuse(f"{what} has the field {number} of the wire type {wire}, which no bundle uses")
        if number in found and number not in (many or ()):
            raise refuse(f"{what} has the field {number} twice")
        found.setdefault(number, []).append(value)
    return found


def _fields(view: memoryview, what: str) -> Iterator[tuple[int, int, Any]]:
    at, end = 0, len(view)
    while at < end:
        tag, at = _varint(view, at, what)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(view, at, what)
            yield number, wire, value
            continue
        if wire == 2:
            size, at = _varint(view, at, what)
        elif wire == 5:
            size = 4
        else:
            raise refuse(f"{what} has the wire type {wire}")
        if size > end - at:
            raise refuse(f"{what} ends in the middle of the field {number}")
        yield number, wire, view[at : at + size]
        at += size


def _varint(view: memoryview, at: int, what: str) -> tuple[int, int]:
    value = 0
    for place in range(10):
        if at >= len(view):
            break
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, at
    raise refuse(f"{what} holds a number that does not end")


def _numbers(parts: list[Any], most: int) -> list[int]:
    """Numbers that stand one by one, packed, or both."""
    found: list[int] = []
    for part in parts:
        if isinstance(part, int):
            found.append(part)
            continue
        at = 0
        while at < len(part) and len(found) <= most:
            value, at = _varint(part, at, "a list of numbers")
            found.append(value)
    if len(found) > most:
        raise refuse(f"a list has more than {most} numbers")
    return found


def _only(parts: dict[int, list[Any]], number: int, what: str) -> Any:
    if number not in parts:
        raise refuse(f"an {what} has no type, no shape, or a dimension without a size")
    return parts[number][0]


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _text(parts: dict[int, list[Any]], number: int) -> str:
    return _decode(parts[number][0]) if number in parts else ""


def _decode(view: memoryview) -> str:
    if len(view) > MAX_NAME_BYTES:
        raise refuse(f"a name has {len(view)} bytes")
    try:
        return bytes(view).decode("utf-8")
    except UnicodeDecodeError:
        raise refuse("a name is not UTF-8") from None
