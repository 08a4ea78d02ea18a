"""Hostile graphs of the corpus: each is what ONNX allows and the format does not, behind right hashes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hostile_graph_base import graph_case
from tiny_bundle import DIM, LENGTH

__all__: list[str] = []  # importing this registers the cases


def _before_query(model: Any, *nodes: Any) -> None:
    """Put nodes in front of the last one, which then multiplies by what they call "extra"."""
    last = model.graph.node.pop()
    model.graph.node.extend(nodes)
    model.graph.node.append(helper.make_node("Mul", ["product", "extra"], ["scaled"]))
    model.graph.node.append(last)
    last.input[0] = "scaled"


def _constant(model: Any, name: str, array: Any) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))


def _external(model: Any, location: str, **more: int) -> None:
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **more}.items():
        weight.external_data.add(key=key, value=str(value))


@graph_case("graph-data-in-a-file-outside")
def data_outside(model: Any, bundle: Path) -> None:
    secret = bundle.parent / "outside.bin"
    secret.write_bytes(np.eye(DIM, dtype=np.float32).tobytes())
    _external(model, "../outside.bin")


@graph_case("graph-data-in-an-absolute-file")
def data_absolute(model: Any, bundle: Path) -> None:
    _external(model, "/dev/zero", length=4 * DIM * DIM)


@graph_case("graph-data-in-a-file-of-the-bundle")
def data_inside(model: Any, bundle: Path) -> None:
    _external(model, "items.safetensors", offset=0, length=4 * DIM * DIM)


@graph_case("graph-data-location-without-data")
def data_nowhere(model: Any, bundle: Path) -> None:
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL


@graph_case("graph-constant-of-a-terabyte")
def huge_constant(model: Any, bundle: Path) -> None:
    _constant(model, "huge", np.array([2**20, 2**18], np.int64))
    _before_query(
        model,
        helper.make_node("ConstantOfShape", ["huge"], ["filled"]),
        helper.make_node("ReduceMax", ["filled"], ["extra"], keepdims=0),
    )


@graph_case("graph-expand-to-a-terabyte")
def huge_expand(model: Any, bundle: Path) -> None:
    _constant(model, "huge", np.array([2**20, 2**18], np.int64))
    _constant(model, "one", np.array([[1]], np.float32))
    _before_query(
        model,
        helper.make_node("Expand", ["one", "huge"], ["filled"]),
        helper.make_node("ReduceMax", ["filled"], ["extra"], keepdims=0),
    )


@graph_case("graph-grows-by-broadcasting")
def huge_broadcast(model: Any, bundle: Path) -> None:
    """Only operators that bundles use: a column plus a row, 2^14 each, is 2^28 numbers."""
    _constant(model, "column", np.zeros((1 << 14, 1), np.float32))
    _constant(model, "row", np.zeros((1, 1 << 14), np.float32))
    _before_query(
        model,
        helper.make_node("Add", ["column", "row"], ["square"]),
        helper.make_node("ReduceMax", ["square"], ["extra"], keepdims=0),
    )


@graph_case("graph-works-for-hours")
def many_products(model: Any, bundle: Path) -> None:
    """Each result is small enough; there are too many of them."""
    _constant(model, "matrix", np.zeros((1024, 1024), np.float32))
    nodes = [
        helper.make_node("MatMul", [f"m{n}" if n else "matrix", "matrix"], [f"m{n + 1}"]) for n in range(900)
    ]
    nodes.append(helper.make_node("ReduceMax", ["m900"], ["extra"], keepdims=0))
    _before_query(model, *nodes)


@graph_case("graph-tensor-larger-than-its-data")
def tensor_claims_more(model: Any, bundle: Path) -> None:
    model.graph.initializer[0].dims[0] = 2**40


@graph_case("graph-tensor-of-negative-size")
def tensor_negative(model: Any, bundle: Path) -> None:
    model.graph.initializer[0].dims[0] = -DIM


@graph_case("graph-tensor-size-overflows")
def tensor_overflows(model: Any, bundle: Path) -> None:
    model.graph.initializer[0].dims.extend([2**32, 2**32])


def _branch(name: str) -> Any:
    node = helper.make_node("Identity", ["product"], [name])
    value = helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, DIM])
    return helper.make_graph([node], name, [], [value])


@graph_case("graph-with-a-branch")
def branch(model: Any, bundle: Path) -> None:
    _constant(model, "yes", np.array(True))
    _before_query(
        model,
        helper.make_node("If", ["yes"], ["extra"], then_branch=_branch("then"), else_branch=_branch("else")),
    )


@graph_case("graph-with-a-loop-without-end")
def loop(model: Any, bundle: Path) -> None:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["goes_on"]),
            helper.make_node("Identity", ["carried"], ["carried_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, [1, DIM]),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried_on", TensorProto.FLOAT, [1, DIM]),
        ],
    )
    _constant(model, "yes", np.array(True))
    _before_query(model, helper.make_node("Loop", ["", "yes", "product"], ["extra"], body=body))


@graph_case("graph-with-a-subgraph-in-a-plain-operator")
def subgraph_attribute(model: Any, bundle: Path) -> None:
    model.graph.node[-1].attribute.append(helper.make_attribute("body", _branch("then")))


@graph_case("graph-with-an-operator-of-somebody")
def custom_operator(model: Any, bundle: Path) -> None:
    model.opset_import.append(helper.make_opsetid("evil.example", 1))
    _before_query(model, helper.make_node("Shell", ["product"], ["extra"], domain="evil.example"))


@graph_case("graph-with-an-operator-of-python")
def python_operator(model: Any, bundle: Path) -> None:
    model.opset_import.append(helper.make_opsetid("ai.onnx.contrib", 1))
    _before_query(model, helper.make_node("PyOp", ["product"], ["extra"], domain="ai.onnx.contrib"))


@graph_case("graph-with-an-operator-of-the-engine")
def engine_operator(model: Any, bundle: Path) -> None:
    """com.microsoft holds hundreds of operators beside the one that bundles use."""
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    node = helper.make_node("EPContext", ["product"], ["extra"], domain="com.microsoft", embed_mode=0)
    node.attribute.append(helper.make_attribute("ep_cache_context", "../outside.bin"))
    _before_query(model, node)


@graph_case("graph-with-a-function")
def function(model: Any, bundle: Path) -> None:
    twice = helper.make_node("Add", ["x", "x"], ["y"])
    opsets = [helper.make_opsetid("", 18)]
    model.functions.append(helper.make_function("local", "Twice", ["x"], ["y"], [twice], opsets))
    model.opset_import.append(helper.make_opsetid("local", 1))
    _before_query(model, helper.make_node("Twice", ["product"], ["extra"], domain="local"))


@graph_case("graph-with-training-in-it")
def training(model: Any, bundle: Path) -> None:
    model.training_info.add().algorithm.name = "sgd"


@graph_case("graph-with-a-sparse-tensor")
def sparse(model: Any, bundle: Path) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "sparse")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2**20, 2**20]))


@graph_case("graph-with-other-inputs")
def other_inputs(model: Any, bundle: Path) -> None:
    model.graph.input[1].name = "masque"
    model.graph.node[3].input[0] = "masque"


@graph_case("graph-with-one-input-more")
def one_more_input(model: Any, bundle: Path) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


@graph_case("graph-with-another-output")
def other_output(model: Any, bundle: Path) -> None:
    model.graph.output[0].name = model.graph.node[-1].output[0] = "answer"


@graph_case("graph-of-another-length")
def other_length(model: Any, bundle: Path) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = LENGTH + 1


@graph_case("graph-of-any-length")
def any_length(model: Any, bundle: Path) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "length"


@graph_case("graph-with-float64-inputs")
def double_inputs(model: Any, bundle: Path) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE


@graph_case("graph-whose-query-has-another-shape")
def query_of_another_shape(model: Any, bundle: Path) -> None:
    """The output says [1, d]; what is computed is [1, 1]."""
    model.graph.node[-1].input[0] = "any"


@graph_case("graph-that-computes-no-query")
def no_query(model: Any, bundle: Path) -> None:
    model.graph.node.pop()


@graph_case("graph-that-reads-what-is-not-there")
def dangling(model: Any, bundle: Path) -> None:
    model.graph.node[0].input[0] = "nothing"


@graph_case("graph-that-runs-in-a-circle")
def circle(model: Any, bundle: Path) -> None:
    model.graph.node[2].input[0] = "query"


@graph_case("graph-with-a-value-twice")
def value_twice(model: Any, bundle: Path) -> None:
    model.graph.node.append(helper.make_node("Neg", ["product"], ["query"]))


@graph_case("graph-of-an-old-opset")
def old_opset(model: Any, bundle: Path) -> None:
    model.opset_import[0].version = 7


@graph_case("graph-of-an-opset-to-come")
def later_opset(model: Any, bundle: Path) -> None:
    model.opset_import[0].version = 2**31


@graph_case("graph-cut-short")
def truncated(model: Any, bundle: Path) -> bytes:
    return bytes(model.SerializeToString()[:-40])


@graph_case("graph-empty")
def empty(model: Any, bundle: Path) -> bytes:
    return b""


@graph_case("graph-of-random-bytes")
def noise(model: Any, bundle: Path) -> bytes:
    return np.random.default_rng(0).bytes(4096)


@graph_case("graph-twice-in-one-model")
def graph_twice(model: Any, bundle: Path) -> bytes:
    """Protobuf merges a message that occurs twice; a reader that takes the last one sees another graph."""
    other = onnx.ModelProto()
    other.graph.node.append(helper.make_node("Neg", ["product"], ["more"]))
    return bytes(model.SerializeToString() + other.SerializeToString())


@graph_case("graph-with-an-unknown-field")
def unknown_field(model: Any, bundle: Path) -> bytes:
    return bytes(model.SerializeToString()) + b"\xc2\x3e\x01x"  # field 1000, one byte


@graph_case("graph-number-without-end")
def endless_number(model: Any, bundle: Path) -> bytes:
    return b"\x08" + b"\xff" * 64


@graph_case("graph-nested-without-end")
def nested(model: Any, bundle: Path) -> bytes:
    inner = b""
    for _ in range(5000):
        size, head = len(inner), b""
        while size >= 0x80:
            head, size = head + bytes([size & 0x7F | 0x80]), size >> 7
        inner = b"\x3a" + head + bytes([size]) + inner
    return inner
