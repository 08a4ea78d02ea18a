"""A sound `model.onnx` of the tiny bundle's shape, and what changes one into a hostile graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hostile_base import case, reseal
from tiny_bundle import DIM, LENGTH

GRAPH = "model.onnx"


def tiny_graph() -> Any:
    """query = one linear over the last row: not the graph of the bundle, but one that a runtime can run."""
    weight = np.eye(DIM, dtype=np.float32)
    constants = {
        "weight": weight,
        "starts": np.array([LENGTH - 1], np.int64),
        "ends": np.array([LENGTH], np.int64),
        "axes": np.array([1], np.int64),
        "shape": np.array([1, DIM], np.int64),
    }
    nodes = [
        helper.make_node("Slice", ["rows", "starts", "ends", "axes"], ["last"]),
        helper.make_node("Reshape", ["last", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["product"]),
        helper.make_node("ReduceMax", ["mask"], ["any"], keepdims=1),
        helper.make_node("Mul", ["product", "any"], ["query"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info("rows", TensorProto.FLOAT, [1, LENGTH, DIM]),
            helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, LENGTH]),
        ],
        [helper.make_tensor_value_info("query", TensorProto.FLOAT, [1, DIM])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def graph_case(name: str) -> Callable[[Callable[[Any, Path], Any]], Callable[[Any, Path], Any]]:
    """Register a function that changes the model (and may write files); it may return the bytes to store."""

    def register(change: Callable[[Any, Path], Any]) -> Callable[[Any, Path], Any]:
        def make(bundle: Path) -> None:
            model = onnx.load_from_string((bundle / GRAPH).read_bytes())
            raw = change(model, bundle)
            (bundle / GRAPH).write_bytes(raw if isinstance(raw, bytes) else model.SerializeToString())
            reseal(bundle)

        case("graph-invalid", name, stage="graph")(make)
        return change

    return register
