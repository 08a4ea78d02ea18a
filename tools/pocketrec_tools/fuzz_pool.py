"""Child processes that take input after input, under a limit of memory and of time for each.

A child takes every n-th input and says after each what became of it. Its address space may grow by
`ROOM_BYTES` beyond what the sound inputs needed (`RLIMIT_AS`), so that an allocation out of proportion fails
in it and is found. The parent looks at the processor time since its last word: a child that has used
`LONGEST_SECONDS` on one input, or has been waiting ten minutes, is ended. Where a child dies, the next one
goes on behind the input that it died of.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import selectors
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pocketrec_tools.fuzz_targets import Targets
from pocketrec_tools.fuzz_world import World, make_world
from pocketrec_tools.machine import peak_memory

ROOM_BYTES = 256 << 20
LONGEST_SECONDS = 5.0
_WAIT_SECONDS = 600.0
_LIFE = 20_000
"""Inputs of one child: afterwards a new one begins, so that what it holds by then says nothing."""

_WARM = 100
_SILENT = "peak"
_MOST_FINDINGS = 50  # then it ends: the rest would say the same


Judge = Callable[[Targets, int, int], tuple[str, str]]
"""What a child does with the input of a seed and a number: (target, outcome)."""


@dataclass
class Result:
    """What came of a run.

    Attributes:
        counts: by (target, outcome). seconds: processor time by target. slowest: (seconds, input) of one.
        peak_bytes: the most memory that a child held, and `warm_bytes` after sound and first inputs.
        findings: by input, what law was broken and where.
        finished: inputs that were judged. children: processes that were used.
    """

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, int] = (0.0, -1)
    peak_bytes: int = 0
    warm_bytes: int = 0
    findings: dict[int, str] = field(default_factory=dict)
    finished: int = 0
    children: int = 0


@dataclass
class _Child:
    pid: int
    pipe: int
    following: int  # the input that it is at
    left: int
    rest: bytes = b""
    spoke: float = 0.0
    used: float = 0.0


def run_pool(
    runs: int,
    seed: int,
    processes: int,
    *,
    seconds: float | None = None,
    stop: Callable[[Result], bool] = lambda result: False,
    judge: Judge | None = None,
) -> Result:
    """Judge the inputs 0 … `runs` − 1 of `seed`.

    Args:
        processes: children at a time.
        seconds: end after so long, wherever it is by then.
        stop: called with what was found so far, once a second and oftener; True ends the run.
        judge: for tests.
    """
    result = Result()
    begun, how = time.monotonic(), judge or judge_one
    with work_folder() as root:
        world = make_world(root)
        selector = selectors.DefaultSelector()
        for index in range(min(processes, runs)):
            _start(selector, root, world, result, seed, index, processes, runs, how)
        while selector.get_map():
            for key, _ in selector.select(timeout=1.0):
                child: _Child = key.data
                data = os.read(child.pipe, 1 << 16)
                if data:
                    _hear(child, data, result, processes)
                    continue
                selector.unregister(child.pipe)
                os.close(child.pipe)
                if not _ended(child, result, seed):
                    child.following += processes
                if child.following < runs:
                    _start(selector, root, world, result, seed, child.following, processes, runs, how)
            late = seconds is not None and time.monotonic() - begun > seconds
            over = late or len(result.findings) >= _MOST_FINDINGS or stop(result)
            for key in list(selector.get_map().values()):
                if over:
                    os.kill(key.data.pid, signal.SIGKILL)
                    os.waitpid(key.data.pid, 0)
                    selector.unregister(key.fd)
                    os.close(key.fd)
                elif _overdue(key.data):
                    result.findings[key.data.following] = "it takes too long"
                    os.kill(key.data.pid, signal.SIGKILL)
    return result


@contextmanager
def work_folder() -> Iterator[Path]:
    """A folder in memory, where there is one: the disk is no part of what is tried."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="fuzz-", dir=shared if os.access(shared, os.W_OK) else None
    ) as folder:
        yield Path(folder)


def judge_one(targets: Targets, seed: int, run: int) -> tuple[str, str]:
    """Make the input and judge it."""
    case = targets.make(seed, run)
    return case.target, targets.judge(case)


def _start(
    selector: selectors.BaseSelector,
    root: Path,
    world: World,
    result: Result,
    seed: int,
    first: int,
    step: int,
    runs: int,
    judge: Judge,
) -> None:
    receive, send = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(receive)
        try:
            _work(root / f"work-{os.getpid()}", world, seed, range(first, runs, step)[:_LIFE], send, judge)
            os._exit(0)
        except BaseException as error:  # nothing of the parent's may go on here
            os.write(2, f"the fuzzer itself failed: {error!r}\n".encode())
            os._exit(1)
    os.close(send)
    result.children += 1
    child = _Child(pid, receive, first, _LIFE, spoke=time.monotonic())
    selector.register(receive, selectors.EVENT_READ, child)


def _work(
    work: Path,
    world: World,
    seed: int,
    runs: range,
    pipe: int,
    judge: Judge,
) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)  # ONNX Runtime writes there what it also raises
    faulthandler.disable()
    work.mkdir()
    targets = Targets(world, work)
    for run in range(_WARM):  # of another seed: everything is imported and has grown
        with suppress(Exception):
            judge_one(targets, -1 - seed, run)
    warm = peak_memory()
    limit = _address_space() + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for run in runs:
        start = time.process_time()
        try:
            target, outcome = judge(targets, seed, run)
        except BaseException as error:  # a panic of a library in Rust is no Exception
            target, outcome = targets.make(seed, run).target, "FINDING " + _where(error)
        line = (run, target, outcome, time.process_time() - start)
        os.write(pipe, json.dumps(line).encode() + b"\n")
        if run % 1000 < runs.step or run == runs[-1]:
            os.write(pipe, json.dumps((_SILENT, warm, peak_memory(), 0)).encode() + b"\n")
    targets.close()
    shutil.rmtree(work)


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    places = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames))
    return f"{type(error).__name__}: {str(error)[:300]} ({places})"


def _hear(child: _Child, data: bytes, result: Result, step: int) -> None:
    *lines, child.rest = (child.rest + data).split(b"\n")
    for line in lines:
        run, target, outcome, seconds = json.loads(line)
        if run == _SILENT:
            result.warm_bytes = max(result.warm_bytes, target)
            result.peak_bytes = max(result.peak_bytes, outcome)
            continue
        if outcome.startswith("FINDING "):
            result.findings[run] = outcome.removeprefix("FINDING ")
            outcome = "a law broken"
        result.counts[target, outcome] += 1
        result.seconds[target] += seconds
        result.slowest = max(result.slowest, (seconds, run))
        result.finished += 1
        child.following = run + step
    child.spoke, child.used = time.monotonic(), _processor_seconds(child.pid)


def _ended(child: _Child, result: Result, seed: int) -> bool:
    """Whether the child ended well; if not, the input it was at is a finding."""
    status = os.waitpid(child.pid, 0)[1]
    if os.WIFEXITED(status) and not os.WEXITSTATUS(status):
        return True
    how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"status {os.WEXITSTATUS(status)}"
    result.findings.setdefault(child.following, f"the process died of it, {how}")
    return False


def _overdue(child: _Child) -> bool:
    silent = time.monotonic() - child.spoke
    if silent < LONGEST_SECONDS:
        return False
    return silent > _WAIT_SECONDS or _processor_seconds(child.pid) - child.used > LONGEST_SECONDS + 5 * (
        child.used == 0  # it is warming up
    )


def _processor_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")
