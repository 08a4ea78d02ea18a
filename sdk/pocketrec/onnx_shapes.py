"""What a bundle's `model.onnx` may compute: a list of operators, and the size of everything they make.

Every shape in a bundle's graph is known before it runs, so that the size of each result can be worked out
from the shapes of its inputs and a few constants (docs/bundle.md, section 5). A graph that asks for more
memory or work than the manifest's own figures explain is refused before ONNX Runtime sees it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from pocketrec.manifest import Manifest
from pocketrec.onnx_graph import ITEM_BYTES, MAX_RANK, Constant, Graph, Node, Shape, read_graph, refuse

MICROSOFT = "com.microsoft"
OPSETS = {"": range(18, 25), MICROSOFT: range(1, 2)}
MOST_ELEMENTS = 1 << 28
_FLOOR = 1 << 20
_NODES_A_LAYER = 256

_SAME = (
    "Abs", "Cast", "Clip", "DequantizeLinear", "Erf", "Exp", "Identity", "Neg", "QuantizeLinear",
    "Reciprocal", "Relu", "Round", "Sigmoid", "Softmax", "Sqrt", "Tanh",
)  # fmt: skip
_BROADCAST = ("Add", "Div", "Max", "Min", "Mul", "Pow", "Sub", "Where")
_PRODUCTS = ("Gemm", "MatMul", "MatMulInteger", "MatMulNBits")
_REDUCE = ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum")


def check_graph(model: bytes, manifest: Manifest) -> None:
    """Return when the format admits the graph in `model`, the bytes of `model.onnx`.

    Raises:
        BundleError: `graph-invalid`.
    """
    graph = read_graph(model)
    length, dim = manifest.graph.length, manifest.graph.dim
    if graph.inputs != {"rows": (1, length, dim), "mask": (1, length)} or graph.outputs != {
        "query": (1, dim)
    }:
        raise refuse(f"its inputs are {graph.inputs} and its outputs {graph.outputs}, not the manifest's")
    for domain, version in graph.opsets.items():
        if version not in OPSETS.get(domain, ()):
            raise refuse(f"it imports version {version} of the operators {domain!r}")
    if "" not in graph.opsets:
        raise refuse("it imports no standard operators")
    b = manifest.backbone
    widest = max(dim, b.intermediate, b.heads * b.head_dim)
    most = min(MOST_ELEMENTS, 4 * max(length * widest, b.heads * length * length, _FLOOR // 4))
    made = shapes(graph, most, most * _NODES_A_LAYER * (b.layers + 1), widest)
    if made.get("query") != (1, dim):
        raise refuse(f"the query it computes has the shape {made.get('query')}")


def shapes(graph: Graph, most: int, total: int, widest: int) -> dict[str, Shape]:
    """The shape of every value that the graph computes.

    Args:
        most: elements that one value may have.
        total: those of all; an element that sums over n products counts n / `widest` times, at least once.
    """
    known: dict[str, Shape] = {name: constant.shape for name, constant in graph.constants.items()}
    if clash := known.keys() & graph.inputs.keys():
        raise refuse(f"{sorted(clash)} are inputs and constants")
    known |= graph.inputs
    made: dict[str, Shape] = {}
    for node in graph.nodes:
        rule = _RULES.get((node.domain if node.domain != "ai.onnx" else "", node.op))
        if rule is None or node.domain not in graph.opsets:
            raise refuse(f"it uses the operator {node.domain or 'ai.onnx'}::{node.op}, which no bundle does")
        if len(node.outputs) != 1 or not node.outputs[0] or node.outputs[0] in known:
            raise refuse(f"{node.op} makes {node.outputs}: not one new value")
        if not node.inputs or any(name and name not in known for name in node.inputs):
            raise refuse(f"{node.op} reads {node.inputs}, not all of which are there")
        try:
            shape = rule(node, [known[name] if name else () for name in node.inputs], graph.constants)
        except (ValueError, IndexError, KeyError, TypeError) as error:
            raise refuse(f"the shapes or attributes of {node.op} do not fit: {error}") from None
        size = math.prod(shape)
        total -= size * max(1, max(known[node.inputs[0]]) // widest if node.op in _PRODUCTS else 1)
        if size > most or total < 0 or len(shape) > MAX_RANK:
            raise refuse(f"{node.op} makes {list(shape)}: more than the manifest's figures explain")
        known[node.outputs[0]] = made[node.outputs[0]] = shape
    return made


Rule = Callable[[Node, list[Shape], dict[str, Constant]], Shape]


def _same(node: Node, inputs: list[Shape], constants: dict[str, Constant]) -> Shape:
    if node.op == "Cast" and node.attributes["to"] not in ITEM_BYTES:
        raise ValueError(f"to {node.attributes['to']}")
    return inputs[0]


def _broadcast(node: Node, inputs: list[Shape], constants: dict[str, Constant]) -> Shape:
    return _broadcasted(inputs)


def _broadcasted(inputs: Sequence[Shape]) -> Shape:
    rank = max(map(len, inputs))
    columns = zip(*((1,) * (rank - len(shape)) + shape for shape in inputs), strict=True)
    out: list[int] = []
    for column in columns:
        sizes = set(column) - {1}
        if len(sizes) > 1:
            raise ValueError(f"{inputs} do not broadcast")
        out.append(sizes.pop() if sizes else 1)
    return tuple(out)


def _ints(node: Node, index: int, constants: dict[str, Constant]) -> tuple[int, ...]:
    """Numbers of the input `index`, which must be a constant."""
    found = constants[node.inputs[index]].ints
    if found is None:
        raise ValueError(f"{node.inputs[index]!r} is no short list of integers")
    return found


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ValueError(f"there is no axis {axis}")
    return axis % rank


def _reshape(node: Node, inputs: list[Shape], constants: dict[str, Constant]) -> Shape:
    asked = list(_ints(node, 1, constants))
    if node.attributes.get("allowzero", 0) == 0:
        asked = [inputs[0][i] if n == 0 else n for i, n in enumerate(asked)]
    if asked.count(-1) == 1:
        rest = math.prod(n for n in asked if n != -1)
        asked[asked.index(-1)] = math.prod(inputs[0]) // rest if rest else 0
    if min(asked, default=0) < 0 or math.prod(asked) != math.prod(inputs[0]):
        raise ValueError(f"{inputs[0]} cannot become {asked}")
    return tuple(asked)


def _slice(node: Node, inputs: list[Shape], constants: dict[str, Constant]) -> Shape:
    shape = list(inputs[0])
    starts, ends = _ints(node, 1, constants), _ints(node, 2, constants)
    given = len(node.inputs)
    axes = _ints(node, 3, constants) if given > 3 and node.inputs[3] else tuple(range(len(starts)))
    steps = _ints(node, 4, constants) if given > 4 and node.inputs[4] else (1,) * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = _axis(axis, len(shape))
        shape[place] = len(range(shape[place])[start:end:step])
    return tuple(shape)


def _concat(node: Node, inputs: list[Shape], constants: dict[str, Constant]) -> Shape:
    axis = _axis(node.attributes["axis"], len(inputs[0]))
    rests = {shape[:axis] + shape[axis + 1 :] for shape in inputs}
    if len(rests) > 1:
        raise ValueError(f"{inputs} cannot be joined")
    return (*inputs[0][:axis], sum(shape[axis] for shape in inputs), *inputs[0][axis + 1 :])


def _transpose(node: Node, inputs: list[Shape], constants: dict[str, Constant]) -> Shape:
    rank = len(inputs[0])
    order = node.attributes.get("perm", tuple(reversed(range(rank))))
    if sorted(order) != list(range(rank)):
        raise ValueError(f"{order} is no order of {rank} axes")
    return tuple(inputs[0][axis] for axis in order)


def _reduce(node: Node, inputs: list[Shape], constants: dict[str, Constant]) -> Shape:
    rank = len(inputs[0])
    axes = _ints(node, 1, constants) if len(node.inputs) > 1 and node.inputs[1] else ()
    if not axes and node.attributes.get("noop_with_empty_axes", 0):
        return inputs[0]
    gone = {_axis(axis, rank) for axis in axes or range(rank)}
    if node.attributes.get("keepdims", 1):
        return tuple(1 if axis in gone else n for axis, n in enumerate(inputs[0]))
    return tuple(n for axis, n in enumerate(inputs[0]) if axis not in gone)


def _matmul(node: Node, inputs: list[Shape], constants: dict[str, Constant]) -> Shape:
    a, b = inputs[:2]
    if len(a) < 2 or len(b) < 2 or a[-1] != b[-2]:
        raise ValueError(f"{a} and {b} cannot be multiplied")
    return (*_broadcasted([a[:-2], b[:-2]]), a[-2], b[-1])


def _gemm(node: Node, inputs: list[Shape], constants: dict[str, Constant]) -> Shape:
    (rows, inner), (inner_b, columns) = inputs[:2]
    if node.attributes.get("transA", 0):
        rows, inner = inner, rows
    if node.attributes.get("transB", 0):
        inner_b, columns = columns, inner_b
    if inner != inner_b:
        raise ValueError(f"{inputs} cannot be multiplied")
    return (rows, columns)


def _matmul_nbits(node: Node, inputs: list[Shape], constants: dict[str, Constant]) -> Shape:
    k, n, bits, block = (node.attributes[name] for name in ("K", "N", "bits", "block_size"))
    if bits != 4 or block != 32 or k < 1 or n < 1 or inputs[0][-1] != k:
        raise ValueError(f"K {k}, N {n}, bits {bits}, block_size {block}, input {inputs[0]}")
    # A kernel reads these by the attributes, not by the shapes.
    blocks = -(-k // block)
    if inputs[1] != (n, blocks, block // 2) or math.prod(inputs[2]) != n * blocks or len(inputs) > 3:
        raise ValueError(f"weights {inputs[1:]} for K {k} and N {n}")
    return (*inputs[0][:-1], n)


_RULES: dict[tuple[str, str], Rule] = {
    **{("", name): _same for name in _SAME},
    **{("", name): _broadcast for name in _BROADCAST},
    **{("", name): _reduce for name in _REDUCE},
    ("", "Concat"): _concat,
    ("", "Gemm"): _gemm,
    ("", "MatMul"): _matmul,
    ("", "MatMulInteger"): _matmul,
    ("", "Reshape"): _reshape,
    ("", "Slice"): _slice,
    ("", "Transpose"): _transpose,
    (MICROSOFT, "MatMulNBits"): _matmul_nbits,
}
OPERATORS = frozenset(name for _, name in _RULES)
"""The operators that docs/bundle.md lists."""
