"""JSON of a stranger costs memory in proportion, however many faults it has.

pydantic notes every fault, and with each a copy of what it was found in: a megabyte could become hundreds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pocketrec.errors import BundleError
from pocketrec.golden import parse_golden
from pocketrec.manifest import parse_manifest
from support import not_applicable

HEAD = b'{"format": "pocketrec-bundle", "format_version": 1, "requires": [], '
BOUND = 100 << 20


def memory(key: str) -> int:
    """Bytes of memory of this process: `VmRSS` now, `VmHWM` at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key))


def grown_by(read: Callable[[bytes], object], raw: bytes) -> int:
    """Bytes by which a child grows that refuses `raw`; a fork counts its peak anew."""
    if not Path("/proc/self/status").exists():
        not_applicable("memory is asked of Linux")
    receive, send = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            before = memory("VmRSS")
            try:
                read(raw)
                answer = "taken"
            except BundleError:
                answer = str(memory("VmHWM") - before)
            os.write(send, answer.encode())
        finally:
            os._exit(0)
    os.close(send)
    with open(receive, "rb") as pipe:
        answer = pipe.read().decode()
    os.waitpid(pid, 0)
    return int(answer)


@pytest.mark.parametrize("values", [b"0,", b"[],", b'{"a":0},', b'"ab",'])
def test_a_megabyte_of_values(values: bytes) -> None:
    many = values * ((1 << 20) // len(values) - 100) + b"0"
    assert grown_by(parse_manifest, HEAD + b'"graph": {"inputs": [' + many + b"]}}") < BOUND
    assert grown_by(parse_golden, b'{"tolerance": 0, "cases": [' + many + b"]}") < BOUND


def test_many_values_within_the_bound() -> None:
    many = b"0," * 60_000 + b"0"
    assert grown_by(parse_manifest, HEAD + b'"graph": {"inputs": [' + many + b"]}}") < BOUND
    case = b'{"history": [], "k": 0, "filter_seen": 0, "exclude": [%s], "candidates": [%s], "fallback": 0,'
    case += b'"items": [%s], "scores": [%s]}'
    assert grown_by(parse_golden, b'{"tolerance": 0, "cases": [' + case % ((many,) * 4) + b"]}") < BOUND


def test_a_megabyte_of_keys() -> None:
    many = b",".join(b'"%x": 0' % number for number in range(80_000))
    some = b",".join(b'"%x": 0' % number for number in range(8_000))
    for keys in (many, some):
        for place in (b"%s}", b'"graph": {%s}}', b'"licences": {%s}}', b'"files": {%s}}'):
            assert grown_by(parse_manifest, HEAD + place % keys) < BOUND
        assert grown_by(parse_golden, b"{%s}" % keys) < BOUND
        assert grown_by(parse_golden, b'{"tolerance": 0, "cases": [{%s}]}' % keys) < BOUND
