"""Small ONNX models as bytes, written by hand (field numbers of onnx.proto3): the runtime does not depend on
the onnx package.

    graph = GraphWriter()
    x = graph.input("x", FLOAT, ("rows", 128))
    y = graph.node("MatMul", x, graph.constant(weights), name="y")
    model = graph.model({"y": (FLOAT, ("rows", 64))})
    options.add_external_initializers(list(graph.constants), …)

Large constants are not in the bytes but handed over apart: ONNX Runtime would keep them beside what it makes
of them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FLOAT, UINT8, INT32, INT64 = 1, 2, 6, 7
MICROSOFT = "com.microsoft"
_OPSET, _IR_VERSION = 21, 10
_TYPES = {"float32": FLOAT, "uint8": UINT8, "int32": INT32, "int64": INT64}
_FLOAT, _INT, _INTS = 1, 2, 7  # of attributes
_SMALL_BYTES = 1024  # shapes and axes have to be seen by whoever reads the model

Shape = Sequence[int | str]
"""Dimensions; a word stands for one that is known when the model runs."""

Attribute = int | float | Sequence[int]


class GraphWriter:
    """A graph, node by node.

    Attributes:
        constants: large tensors by name, to be handed over as external initialisers.
    """

    def __init__(self) -> None:
        self.constants: dict[str, NDArray[Any]] = {}
        self._small: list[bytes] = []
        self._nodes: list[bytes] = []
        self._inputs: list[bytes] = []
        self._names = 0

    def input(self, name: str, kind: int, shape: Shape) -> str:
        """Declare an input; returns its name."""
        self._inputs.append(value(name, kind, shape))
        return name

    def constant(self, data: Any) -> str:
        """A tensor; small integers and floats become int64 and float32. Returns its name."""
        array = np.asarray(data)
        if array.dtype.name not in _TYPES:
            array = array.astype(np.int64 if array.dtype.kind in "iu" else np.float32)
        name = self._name()
        if array.nbytes <= _SMALL_BYTES:
            self._small.append(_tensor(name, array.dtype.name, array.shape) + _bytes(9, array.tobytes()))
        else:
            self.constants[name] = np.ascontiguousarray(array)
        return name

    def node(
        self, op: str, *inputs: str, name: str | None = None, domain: str = "", **attributes: Attribute
    ) -> str:
        """An operator with one output, which is returned."""
        return self.nodes(op, *inputs, names=[name or self._name()], domain=domain, **attributes)[0]

    def nodes(
        self,
        op: str,
        *inputs: str,
        names: Sequence[str] | int,
        domain: str = "",
        **attributes: Attribute,
    ) -> list[str]:
        """An operator with these outputs, or so many of them."""
        outputs = [self._name() for _ in range(names)] if isinstance(names, int) else list(names)
        self._nodes.append(node(op, inputs, outputs, domain, attributes))
        return outputs

    def model(self, outputs: Mapping[str, tuple[int, Shape]]) -> bytes:
        """The bytes of a ModelProto with these outputs."""
        apart = [external(name, array.dtype.name, array.shape) for name, array in self.constants.items()]
        made = [value(name, kind, shape) for name, (kind, shape) in outputs.items()]
        return model(self._nodes, self._small + apart, self._inputs, made)

    def _name(self) -> str:
        self._names += 1
        return f"v{self._names}"


def model(
    nodes: Sequence[bytes], tensors: Sequence[bytes], inputs: Sequence[bytes], outputs: Sequence[bytes]
) -> bytes:
    """A ModelProto of these parts."""
    graph = b"".join(_bytes(1, part) for part in nodes) + _bytes(2, b"graph")
    for field, parts in ((5, tensors), (11, inputs), (12, outputs)):
        graph += b"".join(_bytes(field, part) for part in parts)
    opsets = _bytes(8, _bytes(1, b"") + _int(2, _OPSET))
    opsets += _bytes(8, _bytes(1, MICROSOFT.encode()) + _int(2, 1))
    return _int(1, _IR_VERSION) + _bytes(7, graph) + opsets


def node(
    op: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    domain: str = "",
    attributes: Mapping[str, Attribute] | None = None,
) -> bytes:
    """A NodeProto; attributes are numbers or lists of integers."""
    out = b"".join(_bytes(1, name.encode()) for name in inputs)
    out += b"".join(_bytes(2, name.encode()) for name in outputs) + _bytes(4, op.encode())
    for name, given in (attributes or {}).items():
        if isinstance(given, int):
            numbers = _int(3, given) + _int(20, _INT)
        elif isinstance(given, float):
            numbers = varint(2 << 3 | 5) + struct.pack("<f", given) + _int(20, _FLOAT)
        else:
            numbers = b"".join(_int(8, number) for number in given) + _int(20, _INTS)
        out += _bytes(5, _bytes(1, name.encode()) + numbers)
    return out + (_bytes(7, domain.encode()) if domain else b"")


def external(name: str, dtype: str, shape: Sequence[int]) -> bytes:
    """A TensorProto whose data is handed over apart."""
    return (
        _tensor(name, dtype, shape) + _bytes(13, _bytes(1, b"location") + _bytes(2, b"memory")) + _int(14, 1)
    )


def _tensor(name: str, dtype: str, shape: Sequence[int]) -> bytes:
    return b"".join(_int(1, size) for size in shape) + _int(2, _TYPES[dtype]) + _bytes(8, name.encode())


def value(name: str, kind: int, shape: Shape) -> bytes:
    """A ValueInfoProto of a tensor."""
    dims = b"".join(
        _bytes(1, _int(1, size) if isinstance(size, int) else _bytes(2, size.encode())) for size in shape
    )
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, _int(1, kind) + _bytes(2, dims)))


def _bytes(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def _int(field: int, number: int) -> bytes:
    return varint(field << 3) + varint(number)


_SHORT = [bytes([number]) for number in range(128)]


def varint(number: int) -> bytes:
    """A number as protobuf writes it, in groups of seven bits, the lowest first."""
    if 0 <= number < 128:  # nearly all: tags and short lengths
        return _SHORT[number]
    number &= (1 << 64) - 1  # negative ones as two's complement
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)
