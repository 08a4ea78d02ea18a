"""Engines: what runs the graph of a bundle.

An engine turns rows float32 [1, L, d] and a mask float32 [1, L] into a query float32 [d]. The engines are

* `onnxruntime` — `model.onnx`, part of every install, the default;
* `executorch`  — `model.pte` with XNNPACK. Its Python binding speaks torch tensors, so loading it imports
  torch; it is an extra for that reason. (On a phone ExecuTorch has no such weight.)
* `numpy`       — `backbone.safetensors`, slow and readable: the definition that the others are compared with.

Each engine is imported only when it is loaded. All pass one contract suite, `tests/sdk/test_engines.py`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import PocketrecError

if TYPE_CHECKING:
    from pocketrec.bundle import Bundle

FloatArray = NDArray[np.float32]

ENGINE_NAMES: tuple[str, ...] = ("onnxruntime", "executorch", "numpy")
"""In the order of preference: the first one available is the default."""

# Engine -> the distributions that bring it, and what to install when none of them is there.
_DISTRIBUTIONS = {
    "onnxruntime": (("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"), "onnxruntime"),
    "executorch": (("executorch",), "'pocketrec[executorch]'"),
    "numpy": (("numpy",), "numpy"),
}


class Engine(Protocol):
    """Runs one graph. Safe to call from several threads; `run` after `close` raises "engine-closed"."""

    name: str
    version: str

    def run(self, rows: FloatArray, mask: FloatArray) -> FloatArray:
        """The query float32 [d] of rows float32 [1, L, d], zeros where mask float32 [1, L] is 0.

        Raises:
            PocketrecError: code "bad-shape" for inputs of another shape or type; "engine-failed" when the
                runtime fails or the query is not finite.
        """

    def close(self) -> None:
        """Frees what the engine holds; may be called twice."""


class CheckedEngine(ABC):
    """What the engines share: the checks on what goes in and comes out. Subclasses write `_run`, `_free`."""

    name: str
    version: str

    def __init__(self, length: int, dim: int) -> None:
        self.length, self.dim = length, dim
        self._closed = False

    def run(self, rows: FloatArray, mask: FloatArray) -> FloatArray:
        if self._closed:
            raise PocketrecError(
                f"the {self.name} engine is closed.", code="engine-closed", remedy="Open the bundle again."
            )
        rows = _checked("rows", rows, (1, self.length, self.dim))
        mask = _checked("mask", mask, (1, self.length))
        if not ((mask == 0) | (mask == 1)).all():
            raise PocketrecError(
                "the mask holds something else than 0 and 1.",
                code="bad-shape",
                remedy="Build rows and mask with pocketrec.inputs.",
            )
        query = np.asarray(self._run(rows, mask), dtype=np.float32).reshape(-1)
        if query.shape != (self.dim,):
            raise PocketrecError(
                f"the {self.name} engine answered {query.size} numbers, not {self.dim}.",
                code="engine-failed",
                remedy="Build the bundle again.",
            )
        if not np.isfinite(query).all():
            raise PocketrecError(
                f"the {self.name} engine answered a query that is not finite.",
                code="engine-failed",
                remedy="Run `pocketrec verify` on the bundle.",
            )
        return query

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._free()

    @abstractmethod
    def _run(self, rows: FloatArray, mask: FloatArray) -> NDArray[np.floating]:
        """The graph itself; the inputs are contiguous and of the right shape; gives `dim` elements."""

    @abstractmethod
    def _free(self) -> None:
        """Drops what the engine holds."""


def available_engines(bundle: Bundle) -> list[str]:
    """Names of the engines that this bundle has a file for and that are installed in a version it admits.

    In the order of preference. Nothing is imported to find out.
    """
    offered = bundle.manifest.engines
    return [name for name in ENGINE_NAMES if name in offered and _refusal(name, bundle) is None]


def load_engine(name: str, bundle: Bundle, threads: int = 1) -> Engine:
    """The engine `name` (one of ENGINE_NAMES) for this bundle, ready to run on `threads` threads.

    Raises:
        PocketrecError: code "engine-unavailable" when the name is unknown, the bundle has no file for it, it
            is not installed, or its version is outside the range that the bundle states; "engine-failed" when
            the runtime refuses the file.
    """
    if name not in ENGINE_NAMES:
        raise _unavailable(f"there is no engine {name!r}.", f"Choose one of {', '.join(ENGINE_NAMES)}.")
    if name not in bundle.manifest.engines:
        raise _unavailable(
            f"the bundle has no graph for the engine {name!r}.",
            f"It has: {', '.join(sorted(bundle.manifest.engines))}.",
        )
    if threads < 1:
        raise PocketrecError(f"threads must be 1 or more, got {threads}.", code="bad-threads")
    refusal = _refusal(name, bundle)
    if refusal is not None:
        raise refusal
    module = importlib.import_module(f"pocketrec.engine_{name}")
    engine: Engine = module.load(bundle, threads)
    return engine


def version_admitted(version: str, minimum: str | None, maximum: str | None) -> bool:
    """Whether `version` lies in the range of docs/bundle.md §2: minimum inclusive, maximum with its patches.

    Anything after the three leading numbers ("1.4.1+cpu", "1.5.0rc1") is ignored; None is open.
    """
    have = _numbers(version)
    if minimum is not None and have < _numbers(minimum):
        return False
    return maximum is None or have[:2] <= _numbers(maximum)[:2]


def _numbers(version: str) -> tuple[int, int, int]:
    match = re.match(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?", version)
    if match is None:
        raise PocketrecError(f"{version!r} is not a version number.", code="bad-version")
    major, minor, patch = (int(part or 0) for part in match.groups())
    return major, minor, patch


def _refusal(name: str, bundle: Bundle) -> PocketrecError | None:
    """Why the engine cannot be used with this bundle here, or None when it can."""
    distributions, install = _DISTRIBUTIONS[name]
    version = next((found for d in distributions if (found := _installed(d)) is not None), None)
    if version is None or importlib.util.find_spec(name) is None:
        return _unavailable(f"the engine {name!r} is not installed.", f"pip install {install}")
    spec = bundle.manifest.engines[name]
    if version_admitted(version, spec.min_version, spec.max_version):
        return None
    wanted = f"{spec.min_version or 'any'} to {spec.max_version or 'any'}"
    return _unavailable(
        f"{name} {version} is outside the range that the bundle was made for, {wanted}.",
        f"Install a version in that range, or export the bundle again with {name} {version}.",
    )


@functools.cache  # reading it takes a third of a millisecond, several times in an opening
def _installed(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _unavailable(message: str, remedy: str) -> PocketrecError:
    return PocketrecError(message, code="engine-unavailable", remedy=remedy)


def _checked(what: str, array: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    got = np.asarray(array)
    if got.shape != shape or got.dtype != np.float32:
        raise PocketrecError(
            f"{what} must be float32 {list(shape)}, got {got.dtype} {list(got.shape)}.",
            code="bad-shape",
            remedy="Build both with pocketrec.inputs.",
        )
    return np.ascontiguousarray(got)
