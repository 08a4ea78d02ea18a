"""Targets: what an export writes, each run and compared before it counts.

    artifact, agreement = export_target("onnx", backbone, recipe("int8"))

A target's file is only given out after its runtime has run it and agreed with the numpy engine on histories
of every length. How far two correct runtimes may differ: floats by their last digits, and where an
activation lies on a rounding border one integer by one, which moves the query by about a percent. What is
wrong (saturated integers, a transposed table, a mask on the wrong side, dropout left on) moves it by tens
of percents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketrec.engine_numpy import NumpyEngine
from pocketrec.engines import Engine
from pocketrec.errors import PocketrecError
from pocketrec_export.backbone import Backbone, backbone_tensors
from pocketrec_export.options import TARGETS
from pocketrec_export.precision import Precision

Sample = tuple[NDArray[np.float32], NDArray[np.float32]]
"""rows [1, L, d] and mask [1, L], as docs/bundle.md §4 makes them."""


@dataclass(frozen=True)
class Agreement:
    """How far an artifact's queries are from the numpy engine's: |difference| / |query|, over the samples."""

    median: float
    worst: float
    exact: float
    """Share of the samples within 1e-5: those where no integer differs."""

    def __str__(self) -> str:
        return f"to {self.median:.0e} of the query's length, {self.worst:.0e} at worst"


FLOAT_TOLERANCE = 1e-4
# For two layers. Integers that differ add up over the layers like the steps of a random walk. Measured with
# random weights: 2 layers of 128, median 2e-7, worst 2.4 %; 8 layers of 512, median 0.6 %, worst 2.7 %.
MEDIAN_TOLERANCE, WORST_TOLERANCE = 0.01, 0.05


def export_target(
    target: str, backbone: Backbone, precision: Precision, samples: Sequence[Sample] = ()
) -> tuple[bytes, Agreement]:
    """The bytes of the target's file, and how well they agreed.

    Args:
        target: a key of TARGETS.
        samples: rows and masks of real histories to compare on, besides the random ones.

    Raises:
        PocketrecError: code "target-unknown"; or as `to_onnx`, `to_executorch` and `check_artifact` raise.
    """
    artifact = _exporter(target)(backbone, precision)
    return artifact, check_artifact(
        target, artifact, backbone, backbone_tensors(backbone, precision), samples
    )


def check_artifact(
    target: str,
    artifact: bytes,
    backbone: Backbone,
    tensors: Mapping[str, NDArray[Any]],
    samples: Sequence[Sample] = (),
) -> Agreement:
    """Runs `artifact` with its runtime and `tensors` with the numpy engine on the same rows.

    Raises:
        PocketrecError: code "artifact-disagrees", the queries differ by more than rounding explains; or
            what the engine raises when it cannot run the artifact.
    """
    reference = NumpyEngine(tensors, backbone.shape, backbone.length, backbone.dim)
    engine = _engine(target, artifact, backbone)
    try:
        errors = np.array(
            [_distance(engine, reference, sample) for sample in [*random_samples(backbone), *samples]]
        )
    finally:
        engine.close()
    found = Agreement(float(np.median(errors)), float(errors.max()), float(np.mean(errors <= 1e-5)))
    median, worst = tolerances(backbone, tensors)
    if found.median > median or found.worst > worst:
        raise PocketrecError(
            f"{TARGETS[target][1]} run by {engine.name} {engine.version} differs from the numpy engine by "
            f"{found.median:.2%} in the median and {found.worst:.2%} at worst, over {len(errors)} histories; "
            f"{median:.2%} and {worst:.2%} are allowed.",
            code="artifact-disagrees",
            remedy="Leave this target out (--targets), and report it with the versions of both.",
        )
    return found


def tolerances(backbone: Backbone, tensors: Mapping[str, NDArray[Any]]) -> tuple[float, float]:
    """What a correct runtime's query may be off, as a part of its length: in the median, and at worst."""
    if not any(name.endswith(".q") for name in tensors):
        return FLOAT_TOLERANCE, FLOAT_TOLERANCE
    steps = max(backbone.shape.layers / 2, 1.0) ** 0.5
    return MEDIAN_TOLERANCE * steps, WORST_TOLERANCE * steps


def random_samples(backbone: Backbone, count: int = 24, seed: int = 0) -> Iterator[Sample]:
    """Histories of all lengths from 1 to L, of normally distributed rows from small to large."""
    random = np.random.default_rng(seed)
    for number in range(count):
        used = 1 + (backbone.length - 1) * number // max(count - 1, 1)
        rows = np.zeros((1, backbone.length, backbone.dim), dtype=np.float32)
        rows[:, -used:] = random.normal(size=(1, used, backbone.dim)) * 10.0 ** random.uniform(-2, 1)
        mask = np.zeros((1, backbone.length), dtype=np.float32)
        mask[:, -used:] = 1
        yield rows, mask


def _distance(engine: Engine, reference: Engine, sample: Sample) -> float:
    expected = reference.run(*sample)
    return float(np.linalg.norm(engine.run(*sample) - expected) / max(float(np.linalg.norm(expected)), 1e-12))


def _exporter(target: str) -> Callable[[Backbone, Precision], bytes]:
    if target == "onnx":
        from pocketrec_export.target_onnx import to_onnx

        return to_onnx
    if target == "executorch":
        from pocketrec_export.target_executorch import to_executorch

        return to_executorch
    raise PocketrecError(
        f"there is no target {target!r}.", code="target-unknown", remedy=f"Choose from {', '.join(TARGETS)}."
    )


def _engine(target: str, artifact: bytes, backbone: Backbone) -> Engine:
    if TARGETS[target][0] == "onnxruntime":
        from pocketrec.engine_onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(artifact, backbone.length, backbone.dim)
    from pocketrec.engine_executorch import ExecutorchEngine

    return ExecutorchEngine(artifact, backbone.length, backbone.dim)
