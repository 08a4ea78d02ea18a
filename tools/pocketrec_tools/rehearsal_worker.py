"""One step of `rehearsal` in a process of its own, so that its time and memory are its own.

Standard input is the JSON of a job, `{"step": "write" | "run" | "compare", …}`; the last line of standard
output is the JSON of what the step returns.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pocketrec_tools.machine import peak_memory

SHAPES: dict[str, dict[str, Any]] = {
    # The students of `--size tiny` and `small`.
    "tiny": {
        "dim": 96, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 24, "intermediate": 192,
    },
    "small": {
        "dim": 256, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 64, "intermediate": 512,
    },
    # HuggingFaceTB/SmolLM2-135M: 30 layers, of its 135 M parameters 28 M are the token embedding.
    "smollm2-135m": {
        "dim": 576, "layers": 30, "heads": 9, "kv_heads": 3, "head_dim": 64, "intermediate": 1536,
        "rms_eps": 1e-5, "rope_theta": 100_000.0, "architecture": "llama",
    },
    # Qwen/Qwen3-0.6B: 28 layers, of its 0.6 B parameters 156 M are the token embedding.
    "qwen3-0.6b": {
        "dim": 1024, "layers": 28, "heads": 16, "kv_heads": 8, "head_dim": 128, "intermediate": 3072,
        "rope_theta": 1_000_000.0,
    },
}  # fmt: skip
# What transformers draws the weights of these models from, before training.
STANDARD_DEVIATION = 0.02


def random_backbone(shape: str, length: int, seed: int, every_position: bool = False) -> Any:
    """A `Backbone` of that shape with random weights; the recency path is zeros, as in a foreign checkpoint.

    Args:
        every_position: the last layer computes all rows and throws all but one away: what an export would
            be that does not know which row is used.
    """
    import torch

    from pocketrec_export.backbone import Backbone, BackboneShape, Layer

    class EveryPosition(Backbone):
        """`forward` reads `last` of each layer, so the last one is made like the others."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.layers[-1] = Layer(self.shape, self.length, self.dim, last=False)

        def forward(self, rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            x = rows.view(self.length, self.dim)
            bias = (self.causal * mask.view(1, 1, self.length) - 1.0) * 1e9
            for layer in self.layers:
                x = layer(x, bias)
            recent = torch.bmm(self.ones, rows * self.recency).view(1, self.dim)
            return self.norm(x)[self.length - 1 :] + recent

    sizes = dict(SHAPES[shape])
    dim = sizes.pop("dim")
    kind = EveryPosition if every_position else Backbone
    backbone = kind(BackboneShape(**sizes), length, dim).eval()
    generator = torch.Generator().manual_seed(seed)
    for linear in backbone.linears().values():
        linear.weight.data.normal_(0.0, STANDARD_DEVIATION, generator=generator)
    return backbone


def histories(length: int, dim: int, count: int, seed: int = 0) -> list[tuple[Any, Any]]:
    """Rows [1, L, d] and masks [1, L] of histories of 1 to L events, normally distributed."""
    random = np.random.default_rng(seed)
    found = []
    for used in np.linspace(1, length, count).astype(int):
        rows, mask = np.zeros((1, length, dim), np.float32), np.zeros((1, length), np.float32)
        rows[0, -used:], mask[0, -used:] = random.normal(size=(used, dim)) * 0.1, 1
        found.append((rows, mask))
    return found


def write(job: dict[str, Any]) -> dict[str, Any]:
    """Export one graph to the file `out`.

    Returns:
        parameters of the linears, and the schemes they are stored in; seconds of processor time of the
        export alone; its file's bytes; operators and how often they occur; held_bytes before, and peak_bytes,
        of the process, libraries and float32 weights included.
    """
    from pocketrec_export.precision import recipe, scheme_of

    backbone = random_backbone(job["shape"], job["length"], job["seed"], job["every_position"])
    precision = recipe(job["precision"])
    parameters = sum(linear.weight.numel() for linear in backbone.linears().values())
    held = peak_memory()
    began = time.process_time()
    data: bytes
    operators: Counter[str]
    if job["target"] == "onnx":
        from pocketrec_export.target_onnx import operators_onnx, to_onnx

        data = to_onnx(backbone, precision)
        operators = operators_onnx(data)
    else:
        from pocketrec_export.target_executorch import operators_executorch, to_executorch

        data = to_executorch(backbone, precision)
        operators = operators_executorch(data)
    seconds = time.process_time() - began
    peak = peak_memory()
    Path(job["out"]).write_bytes(data)
    schemes = {
        scheme_of(precision, name, tuple(linear.weight.shape)) for name, linear in backbone.linears().items()
    }
    return {
        "parameters": parameters,
        "schemes": sorted(schemes),
        "seconds": seconds,
        "bytes": len(data),
        "operators": dict(operators),
        "held_bytes": held,
        "peak_bytes": peak,
    }


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Load graphs and run them in turns, one thread.

    Returns:
        milliseconds of processor time: load_ms, first_ms and ms (one for each round), each a list with an
        entry for each of `files`; peak_bytes.
    """
    dim = SHAPES[job["shape"]]["dim"]
    inputs = histories(job["length"], dim, 4)
    make = _engine(job["engine"])
    engines, load_ms, first_ms = [], [], []
    for file in job["files"]:
        taken, engine = _timed(make, file, job["length"], dim)
        engines.append(engine)
        load_ms.append(taken)
        first_ms.append(_timed(engine.run, *inputs[0])[0])
    ms: list[list[float]] = [[] for _ in engines]
    for turn in range(-2, job["rounds"]):
        for taken_ms, engine in zip(ms, engines, strict=True):
            rows, mask = inputs[turn % len(inputs)]
            took, _ = _timed(engine.run, rows, mask)
            if turn >= 0:
                taken_ms.append(took)
    return {
        "version": engines[0].version,
        "load_ms": load_ms,
        "first_ms": first_ms,
        "ms": ms,
        "peak_bytes": peak_memory(),
    }


def compare(job: dict[str, Any]) -> dict[str, Any]:
    """Run a graph and the numpy engine on the same rows.

    Returns:
        distances: |difference| / |query| for a few histories; numpy_ms for each.
    """
    from pocketrec.engine_numpy import NumpyEngine
    from pocketrec_export.backbone import backbone_tensors
    from pocketrec_export.precision import recipe
    from pocketrec_export.targets import tolerances

    backbone = random_backbone(job["shape"], job["length"], job["seed"])
    tensors = backbone_tensors(backbone, recipe(job["precision"]))
    allowed = tolerances(backbone, tensors)
    for linear in backbone.linears().values():  # the float32 weights are not needed any more
        linear.weight = None
    reference = NumpyEngine(tensors, backbone.shape, backbone.length, backbone.dim)
    engine = _engine(job["engine"])(job["file"], backbone.length, backbone.dim)
    distances, numpy_ms = [], []
    for rows, mask in histories(backbone.length, backbone.dim, job["samples"], seed=1):
        taken, expected = _timed(reference.run, rows, mask)
        numpy_ms.append(taken)
        got = engine.run(rows, mask)
        distances.append(float(np.linalg.norm(got - expected) / np.linalg.norm(expected)))
    return {"distances": distances, "allowed": list(allowed), "numpy_ms": numpy_ms}


def _engine(name: str) -> Callable[[str, int, int], Any]:
    if name == "onnxruntime":
        from pocketrec.engine_onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine
    from pocketrec.engine_executorch import ExecutorchEngine

    return ExecutorchEngine


def _timed(call: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Milliseconds of processor time: engines run in the calling thread, and others may use the machine."""
    began = time.process_time()
    result = call(*arguments)
    return (time.process_time() - began) * 1e3, result


STEPS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "write": write,
    "run": run,
    "compare": compare,
}

if __name__ == "__main__":
    job = json.load(sys.stdin)
    # A line of its own, as a library may have printed something.
    sys.stdout.write("\n" + json.dumps(STEPS[job["step"]](job)) + "\n")
