"""Several processes of one run, as `accelerate launch` or `torchrun` start them.

Alone, a process is the main one and agrees with itself; nothing here then costs anything.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env
from torch import Tensor, distributed

T = TypeVar("T")

# The others wait while the main process does what only one can do, such as writing a bundle.
PATIENCE = timedelta(days=7)


def processes() -> PartialState:
    """Number, count and device of this process.

    The first call joins the run, so it comes before all else of accelerate.
    """
    launched = "LOCAL_RANK" in os.environ
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or (launched and not torch.accelerator.is_available())
    return PartialState(cpu=cpu, timeout=PATIENCE)


def agreed(value: T) -> T:
    """What the main process has, on every process: for what a clock or a file decides. All must call it."""
    if processes().num_processes == 1:
        return value
    box = [value]
    broadcast_object_list(box)
    return box[0]


def gathered(value: T) -> list[T]:
    """What each process has, in their order, on every process. All must call it."""
    if processes().num_processes == 1:
        return [value]
    everyone: list[T] = gather_object([value])
    return everyone


def mean_rows(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over processes of a sparse gradient of the rows of a table; all must call it.

    Only rows that a batch named travel, on any backend; distributed training of torch would send whole tables
    or know sparse ones on some backends only.

    Returns:
        rows: int64 [m] ascending, and their gradients, float [m, dim]; the same on every process.
    """
    gradient = gradient.coalesce()
    count = processes().num_processes
    if count == 1:
        return gradient.indices()[0], gradient.values()
    rows, values = gradient.indices()[0], gradient.values()
    sizes = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(count)]
    distributed.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))
    longest = int(torch.cat(sizes).max())
    parts = []
    for tensor in (rows, values):
        padded = tensor.new_zeros(longest, *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        received = [torch.empty_like(padded) for _ in range(count)]
        distributed.all_gather(received, padded)
        parts.append(torch.cat([r[: int(size)] for r, size in zip(received, sizes, strict=True)]))
    total = torch.sparse_coo_tensor(
        parts[0][None], parts[1], gradient.shape, check_invariants=False
    ).coalesce()
    return total.indices()[0], total.values() / count
