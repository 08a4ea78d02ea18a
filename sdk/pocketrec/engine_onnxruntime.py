"""The ONNX Runtime engine: `model.onnx` on the CPU, and for short histories a graph without the padding."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketrec.engines import CheckedEngine, FloatArray
from pocketrec.errors import BundleError, PocketrecError
from pocketrec.onnx_shapes import check_graph

# Releases from 1.29 on report usage over the network unless this is set before the library loads.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

if TYPE_CHECKING:
    from pocketrec.bundle import Bundle
    from pocketrec.onnx_short import ShortGraph


def load(bundle: Bundle, threads: int) -> OnnxRuntimeEngine:
    """The engine of this bundle; a graph that the format does not admit never reaches ONNX Runtime.

    Raises:
        BundleError: `graph-invalid`, see `onnx_shapes`.
        PocketrecError: `engine-failed`.
    """
    graph = bundle.manifest.graph
    model = bundle.path_or_bytes(bundle.manifest.engines["onnxruntime"].file)
    check_graph(model, bundle.manifest)
    engine = OnnxRuntimeEngine(model, graph.length, graph.dim, threads)
    from pocketrec import onnx_short  # which imports this module

    engine.short = onnx_short.load(bundle, threads, engine.run)
    return engine


class OnnxRuntimeEngine(CheckedEngine):
    """One session over `model` (a path, or the bytes of the file); threads may share it.

    Attributes:
        short: runs histories of up to `short.most` events instead; None: all go through `model`.

    Raises:
        PocketrecError: code "engine-failed", ONNX Runtime refuses the model.
        BundleError: `graph-invalid`, the inputs or outputs of the model are not those of L = `length` and
            d = `dim`.
    """

    name = "onnxruntime"
    version: str = onnxruntime.__version__

    def __init__(self, model: str | bytes, length: int, dim: int, threads: int = 1) -> None:
        super().__init__(length, dim)
        self.short: ShortGraph | None = None
        try:
            self.session: Any = onnxruntime.InferenceSession(
                model, session_options(threads), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the binding raises a dozen types of its own
            raise PocketrecError(
                f"ONNX Runtime {self.version} refuses the graph: {error}",
                code="engine-failed",
                remedy="Build the bundle again, or use another engine.",
            ) from error
        self._expect("inputs", self.session.get_inputs(), {"rows": [1, length, dim], "mask": [1, length]})
        self._expect("outputs", self.session.get_outputs(), {"query": [1, dim]})

    def _run(self, rows: FloatArray, mask: FloatArray) -> FloatArray:
        try:
            if self.short is not None:
                count = int(mask.sum())
                # What stands in the padding reaches the query by the recency path; `fuse` leaves zeros there.
                padding = rows[0, : self.length - count]
                if 0 < count <= self.short.most and mask[0, -count:].all() and not padding.any():
                    return self.short.run(rows[0, self.length - count :])
            (query,) = self.session.run(["query"], {"rows": rows, "mask": mask})
        except Exception as error:
            raise PocketrecError(
                f"ONNX Runtime {self.version} failed: {error}", code="engine-failed"
            ) from error
        return np.asarray(query, dtype=np.float32)

    def _free(self) -> None:
        self.session = self.short = None

    @staticmethod
    def _expect(what: str, nodes: list[Any], wanted: dict[str, list[int]]) -> None:
        got = {node.name: (node.type, list(node.shape)) for node in nodes}
        if got != {name: ("tensor(float)", shape) for name, shape in wanted.items()}:
            raise BundleError(
                f"the {what} of model.onnx are {got}, the manifest asks for float32 {wanted}.",
                code="graph-invalid",
                remedy="Build the bundle again.",
            )


def session_options(threads: int) -> Any:
    """One graph, run from start to end, by threads that sleep when idle: a phone has a battery."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options
