"""Which floating-point type matrix products are to be computed in."""

from __future__ import annotations

import functools
import time

import torch

# Of one product in float32 over the same in bfloat16, from which the smaller type pays for its conversions.
ADVANTAGE = 1.25


@functools.cache
def bf16_is_fast() -> bool:
    """Whether matrix products in bfloat16 pay on this machine.

    A GPU says so itself. Processors are measured: that one multiplies in bfloat16 does not make it faster (an
    AMD EPYC with AVX-512 BF16 takes half the time of float32, an Intel Xeon with the same but without AMX
    takes more), so both are timed on a product like those of training, some 30 ms each.
    """
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    if not (supported and supported()):
        return False
    return _seconds(torch.float32) > ADVANTAGE * _seconds(torch.bfloat16)


def _seconds(dtype: torch.dtype, runs: int = 5) -> float:
    """The shortest of some runs: whatever else the machine does only makes them longer."""
    left, right = torch.ones(512, 128, dtype=dtype), torch.ones(4096, 128, dtype=dtype)
    left @ right.T
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        left @ right.T
        times.append(time.perf_counter() - began)
    return min(times)
