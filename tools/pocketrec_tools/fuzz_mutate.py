"""Mutators: what a stranger may change about bytes, JSON, tensor files and protobuf.

Each takes the sound bytes and a `random.Random`, and gives other bytes; the same chance gives the same ones.
Those that know a format keep it well-formed most of the time, so that what lies behind the first check is
reached too.
"""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from pocketrec.onnx_write import varint

Mutator = Callable[[bytes, random.Random], bytes]

_BORDERS = (b"0", b"-1", b"1e999", b"4294967296", b"9223372036854775808", b"true", b"null", b'""', b"[]")
_NUMBER = re.compile(rb"-?\d+")
_VALUES: tuple[Any, ...] = (
    0, 1, -1, 2, 31, 255, 4096, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30,
    0.0, -0.0, 0.5, 1e-45, 1e300, float("nan"), float("inf"), True, False, None, "", "x", "\0", "é", "\ud800",
    "item3", "../x", "A" * 200, "1.5", "(w|1)*$", "w*w*w*$", [], {}, [[]], {"": None}, [0] * 50,
)  # fmt: skip
_FLOATS = (float("nan"), float("inf"), -float("inf"), -1.0, -0.0, 1e-45, 3.4e38, 1e30)
_WIDTHS = {"F32": 4, "F16": 2, "I8": 1, "U8": 1, "I32": 4, "U32": 4, "I64": 8, "BF16": 2, "F64": 8, "BOOL": 1}
_INTEGERS = (0, 1, -1, 2**31 - 1, -(2**31), 2**53, 2**62, 2**63 - 1, -(2**63), 20, 21, 64)


def mutate_bytes(raw: bytes, chance: random.Random) -> bytes:
    """One to four of: a byte changed, a piece cut out, doubled or moved, a decimal number replaced."""
    data = bytearray(raw)
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(data) or 1)
        size = chance.choice((1, 2, 4, 8, 64, 1000))
        match chance.randrange(5):
            case 0 if data:
                data[start] ^= chance.randint(1, 255)
            case 1:
                del data[start : start + size]
            case 2:
                data[start:start] = data[start : start + size]
            case 3:
                piece = data[start : start + size]
                del data[start : start + size]
                place = chance.randrange(len(data) + 1)
                data[place:place] = piece
            case _:
                found = list(_NUMBER.finditer(data[:4096]))
                if found:
                    match = chance.choice(found)
                    data[match.start() : match.end()] = chance.choice(_BORDERS)
    return bytes(data)


def mutate_json(raw: bytes, chance: random.Random) -> bytes:
    """One to three values of the document replaced, removed, doubled, moved or renamed; it stays JSON, but
    for now and then a key twice, a nesting or a list without end, or NaN."""
    if chance.random() < 0.1:
        return mutate_bytes(raw, chance)
    whole = [json.loads(raw)]
    for _ in range(chance.randint(1, 3)):
        _edit_json(whole, chance)
    if chance.random() < 0.01:
        lists = [holder[key] for holder, key in _places(whole) if isinstance(holder[key], list)]
        if lists:
            chance.choice(lists).extend([chance.choice((0, "x", None))] * 50_000)
    text = json.dumps(whole[0], ensure_ascii=chance.random() < 0.5)
    match chance.randrange(40):
        case 0:
            text = text.replace("{", '{"name": 1,', 1)
        case 1:
            text = text.replace(":", ":" + "[" * chance.choice((100, 100_000)), 1)
        case 2:
            text = "\ufeff" + text
    return text.encode("utf-8", "surrogatepass")


def _edit_json(whole: list[Any], chance: random.Random) -> None:
    """Change one place; `whole` is the document in a list."""
    places = list(_places(whole))
    holder, key = chance.choice(places)
    match chance.randrange(7):
        case 0 | 1 | 2:
            holder[key] = deepcopy(chance.choice(_VALUES))
        case 3 if holder is not whole:
            del holder[key]
        case 4:
            other, place = chance.choice(places)
            if _size(other[place]) < 500:
                holder[key] = json.loads(json.dumps(other[place]))
        case 5 if isinstance(holder, dict):
            holder[chance.choice(("", "new", key + "x", key[:-1], "item_id"))] = holder.pop(key)
        case 6 if isinstance(holder, list) and holder is not whole:
            holder.insert(chance.randrange(len(holder) + 1), holder[key])
        case _:
            value = holder[key]
            if isinstance(value, int | float) and not isinstance(value, bool):
                holder[key] = value + chance.choice((1, -1, 0.5))
            else:
                holder[key] = chance.choice((str(value)[:50], [value], {"x": value}))


def _size(value: Any) -> int:
    return len(value) if isinstance(value, list | dict | str) else 1


def _places(holder: Any) -> Any:
    """Every (container, key) of the document."""
    for key, value in holder.items() if isinstance(holder, dict) else enumerate(holder):
        yield holder, key
        if isinstance(value, dict | list):
            yield from _places(value)


def mutate_tensors(raw: bytes, chance: random.Random) -> bytes:
    """One to three tensors of a safetensors file changed, offsets put right; or its header, or its bytes."""
    kind = chance.randrange(10)
    if kind == 0:
        return mutate_bytes(raw, chance)
    size = int.from_bytes(raw[:8], "little")
    head, data = raw[8 : 8 + size], raw[8 + size :]
    if kind == 1:
        head = mutate_json(head, chance)
        claimed = (
            len(head) if chance.random() < 0.8 else chance.choice((0, 1 << 20, (1 << 20) + 1, 2**64 - 1))
        )
        return struct.pack("<Q", claimed) + head + data
    header = json.loads(head)
    header.pop("__metadata__", None)
    tensors = {
        name: [entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])]]
        for name, entry in header.items()
    }
    for _ in range(chance.randint(1, 3)):
        if tensors:
            _edit_tensor(tensors, chance)
    if chance.random() < 0.1:
        order = list(tensors.items())
        chance.shuffle(order)
        tensors = dict(order)
    header, data = {}, b""
    for name, (dtype, shape, values) in tensors.items():
        header[name] = {
            "dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(values)],
        }  # fmt: skip
        data += values
    head = json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + data


def _edit_tensor(tensors: dict[str, list[Any]], chance: random.Random) -> None:
    name = chance.choice(list(tensors))
    dtype, shape, values = tensors[name]
    width = _WIDTHS.get(dtype, 1)
    match chance.randrange(9):
        case 0 | 1 | 2 | 3 if len(values) >= width:
            place = chance.randrange(len(values) // width) * width
            tensors[name][2] = values[:place] + _number(dtype, chance) + values[place + width :]
        case 4 if values and shape:
            tensors[name][2] = _resize(tensors[name], chance)
        case 5:
            tensors[chance.choice((name + "x", "more", "rows", "q.q"))] = tensors.pop(name)
        case 6:
            del tensors[name]
        case 7:
            other = chance.choice(list(tensors))
            tensors[name], tensors[other] = tensors[other], tensors[name]
        case _:
            same = [kind for kind, bytes_each in _WIDTHS.items() if bytes_each == width]
            tensors[name][0] = chance.choice(same)


def _number(dtype: str, chance: random.Random) -> bytes:
    """One element of the type: a value at a border, or any bits."""
    width = _WIDTHS.get(dtype, 1)
    if chance.random() < 0.3:
        return chance.randbytes(width)
    if dtype == "F32":
        return struct.pack("<f", chance.choice(_FLOATS))
    if dtype == "F16":
        return struct.pack("<e", chance.choice((float("nan"), float("inf"), -1.0, 65504.0, 6e-8)))
    return (chance.choice(_INTEGERS) % (1 << 8 * width)).to_bytes(width, "little")


def _resize(tensor: list[Any], chance: random.Random) -> bytes:
    """One row more or less, shape and bytes together."""
    _, shape, values = tensor
    row = len(values) // max(shape[0], 1)
    more = chance.choice((1, -1))
    shape[0] += more
    data: bytes = values + values[:row] if more > 0 else values[: len(values) - row]
    return data


# Field number -> the kind of message in it, of what a `model.onnx` of ours is made.
_ONNX: dict[str, dict[int, str]] = {
    "model": {7: "graph", 8: "opset", 14: "pair"},
    "graph": {1: "node", 5: "tensor", 11: "value", 12: "value", 13: "value"},
    "node": {5: "attribute"},
    "value": {2: "type"},
    "type": {1: "tensor_type"},
    "tensor_type": {2: "shape"},
    "shape": {1: "dim"},
}
_DEEP = {
    "graph": 0.95,
    "node": 0.5,
    "tensor": 1.0,
    "value": 0.6,
    "type": 0.8,
    "tensor_type": 0.8,
    "shape": 0.7,
}
_OPS = (
    b"Loop", b"If", b"Reshape", b"Slice", b"Concat", b"Gemm", b"MatMul", b"Transpose", b"ReduceMax", b"Where",
    b"Expand", b"ConstantOfShape", b"Softmax", b"Cast", b"QuantizeLinear", b"DequantizeLinear", b"Clip",
    b"MatMulInteger", b"MatMulNBits", b"Pow", b"Identity", b"",
)  # fmt: skip


def mutate_onnx(raw: bytes, chance: random.Random) -> bytes:
    """A model with one to three fields changed at any depth, lengths put right."""
    if chance.random() < 0.1:
        return mutate_bytes(raw, chance)
    for _ in range(chance.randint(1, 3)):
        raw = _edit_message(raw, "model", chance)
    return raw


def _edit_message(raw: bytes, kind: str, chance: random.Random) -> bytes:
    try:
        fields = read_fields(raw)
    except (IndexError, ValueError):
        return mutate_bytes(raw, chance)
    inner = [i for i, (number, wire, _) in enumerate(fields) if wire == 2 and number in _ONNX.get(kind, {})]
    if inner and chance.random() < _DEEP.get(kind, 0.9):
        # Weights are many and dull; nodes hold the meaning.
        at = chance.choice([i for i in inner if fields[i][0] == 1] if chance.random() < 0.4 else inner) if (
            kind == "graph" and any(fields[i][0] == 1 for i in inner)
        ) else chance.choice(inner)  # fmt: skip
        number, wire, value = fields[at]
        fields[at] = (number, wire, _edit_message(value, _ONNX[kind][number], chance))
    elif fields:
        _edit_field(fields, kind, chance)
    return write_fields(fields)


def _edit_field(fields: list[tuple[int, int, Any]], kind: str, chance: random.Random) -> None:
    at = chance.randrange(len(fields))
    number, wire, value = fields[at]
    match chance.randrange(8):
        case 0:
            del fields[at]
        case 1:
            fields.insert(chance.randrange(len(fields) + 1), fields[at])
        case 2:
            fields[at] = (chance.choice((number + 1, max(1, number - 1), 3, 6, 13, 20, 25)), wire, value)
        case 3:
            other = chance.randrange(len(fields))
            fields[at], fields[other] = fields[other], fields[at]
        case 4:
            other = chance.randrange(len(fields))
            fields[at] = (number, fields[other][1], fields[other][2])
        case _ if wire == 0:
            fields[at] = (number, wire, chance.choice((value + 1, value ^ 1, *_INTEGERS)) % (1 << 64))
        case _ if kind == "node" and number == 4:
            fields[at] = (number, wire, chance.choice(_OPS))
        case _ if len(value) >= 8 and chance.random() < 0.5:
            place = chance.randrange(len(value) // 8) * 8
            some = (chance.choice(_INTEGERS) % (1 << 64)).to_bytes(8, "little")
            fields[at] = (number, wire, value[:place] + some + value[place + 8 :])
        case _:
            fields[at] = (number, wire, mutate_bytes(value, chance))


def read_fields(raw: bytes) -> list[tuple[int, int, Any]]:
    """The fields of a protobuf message: number, wire type, and an int (wire type 0) or the bytes.

    Raises:
        IndexError, ValueError: it is none.
    """
    fields: list[tuple[int, int, Any]] = []
    at = 0
    while at < len(raw):
        tag, at = _read_varint(raw, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _read_varint(raw, at)
            fields.append((number, wire, value))
            continue
        if wire == 2:
            size, at = _read_varint(raw, at)
        else:
            size = {1: 8, 5: 4}.get(wire, -1)
        if size < 0 or at + size > len(raw):
            raise ValueError(wire)
        fields.append((number, wire, raw[at : at + size]))
        at += size
    return fields


def write_fields(fields: list[tuple[int, int, Any]]) -> bytes:
    """The message of these fields."""
    out = bytearray()
    for number, wire, value in fields:
        out += varint(number << 3 | wire)
        if wire == 0:
            out += varint(value if isinstance(value, int) else len(value))
        elif isinstance(value, int):
            out += varint(8) * (wire == 2) + (value % (1 << 64)).to_bytes(8, "little")
        else:
            out += (varint(len(value)) if wire == 2 else b"") + value
    return bytes(out)


def _read_varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
