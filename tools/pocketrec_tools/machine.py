"""What figures depend on besides the bundle: the machine, and the versions of what ran."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from pathlib import Path

import pocketrec


def engine_version(name: str) -> str:
    """The version of the library behind an engine that is loaded here."""
    version = getattr(sys.modules.get(name), "__version__", None)
    return str(version or importlib.metadata.version(name))


def machine() -> dict[str, str | int]:
    """Processor, cores that may be used, system, and versions of Python and pocketrec."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "processor": _processor(),
        "cores": cores,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "pocketrec": pocketrec.__version__,
    }


def peak_memory() -> int:
    """Bytes of memory that this process held at most since it started its program.

    Linux' own counter is asked first: the portable one counts what the parent held when it started us, too.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import psutil

    info = psutil.Process().memory_info()
    if hasattr(info, "peak_wset"):  # Windows
        return int(info.peak_wset)
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
