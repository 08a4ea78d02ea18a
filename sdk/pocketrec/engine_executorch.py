"""The ExecuTorch engine: `model.pte`, XNNPACK on the CPU.

ExecuTorch's Python binding takes and gives torch tensors, so this module imports torch, which takes a few
seconds and half a gigabyte. There is no lighter binding in its packages; on a phone the runtime is a small
library. The compiled binding is used as it is: `executorch.runtime`, its wrapper, also imports the compiler,
eight seconds more for nothing that is needed here.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketrec.engines import CheckedEngine, FloatArray
from pocketrec.errors import BundleError, PocketrecError

if TYPE_CHECKING:
    from pocketrec.bundle import Bundle

_NOISE = re.compile(r"^\[[\w./-]+\.(cpp|c|h):\d+\] ")
_loading = threading.Lock()


def load(bundle: Bundle, threads: int) -> ExecutorchEngine:
    """The engine of this bundle; the graph's inputs and outputs are compared with the manifest."""
    graph = bundle.manifest.graph
    program = bundle.path_or_bytes(bundle.manifest.engines["executorch"].file)
    return ExecutorchEngine(program, graph.length, graph.dim, threads)


class ExecutorchEngine(CheckedEngine):
    """One program (a path, or the bytes of the file). Threads take turns: a method runs once at a time.

    ExecuTorch has one pool of threads for the whole process: `threads` sets it for every program loaded so
    far, and must not change while one of them runs.

    Raises:
        PocketrecError: code "engine-failed", ExecuTorch refuses the program.
        BundleError: the inputs or outputs of the program are not those of L = `length` and d = `dim`.
    """

    name = "executorch"
    version: str = version("executorch")

    def __init__(self, program: str | bytes, length: int, dim: int, threads: int = 1) -> None:
        super().__init__(length, dim)
        self._turn = threading.Lock()
        try:
            with _loading, _quiet():
                binding = _binding(threads)
                load = (
                    binding._load_program if isinstance(program, str) else binding._load_program_from_buffer
                )
                check = binding.Verification.InternalConsistency
                self._bytes = program  # the program reads from them as long as it lives
                self._program: Any = load(program, program_verification=check)
                self._method: Any = self._program.load_method("forward")
        except Exception as error:  # RuntimeError for most, KeyError without a method of that name
            raise PocketrecError(
                f"ExecuTorch {self.version} refuses the program: {error}",
                code="engine-failed",
                remedy="Build the bundle again with this release, or use another engine.",
            ) from error
        self._expect([[1, length, dim], [1, length]], [[1, dim]])

    def _run(self, rows: FloatArray, mask: FloatArray) -> FloatArray:
        import torch

        with self._turn:
            if self._closed:
                raise PocketrecError("the executorch engine is closed.", code="engine-closed")
            try:
                inputs = [torch.from_numpy(np.require(x, requirements="W")) for x in (rows, mask)]
                (query,) = self._method.call(inputs)
            except Exception as error:
                raise PocketrecError(
                    f"ExecuTorch {self.version} failed: {error}", code="engine-failed"
                ) from error
            out: FloatArray = query.numpy()
            return out

    def _free(self) -> None:
        with self._turn:
            self._method = self._program = None
            self._bytes = b""

    def _expect(self, inputs: list[list[int]], outputs: list[list[int]]) -> None:
        meta = self._method.method_meta()
        got = [list(meta.input_tensor_meta(i).sizes()) for i in range(meta.num_inputs())]
        given = [list(meta.output_tensor_meta(i).sizes()) for i in range(meta.num_outputs())]
        if (got, given) != (inputs, outputs):
            raise BundleError(
                f"model.pte takes {got} and gives {given}, the manifest asks for {inputs} and {outputs}.",
                code="graph-invalid",
                remedy="Build the bundle again.",
            )


def _binding(threads: int) -> Any:
    import torch  # noqa: F401  (the binding needs its libraries loaded)
    from executorch.extension.pybindings import _portable_lib

    if _portable_lib._threadpool_get_thread_count() != threads:
        _portable_lib._unsafe_reset_threadpool(threads)
    return _portable_lib


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps back what ExecuTorch's C++ writes to standard error while it starts ("[cpuinfo_utils.cpp:71] …").

    Anything else that was written there meanwhile is passed on.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept:
        own = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(own, 2)
            os.close(own)
            kept.seek(0)
            for line in kept.read().decode(errors="replace").splitlines(keepends=True):
                if not _NOISE.match(line):
                    sys.stderr.write(line)
