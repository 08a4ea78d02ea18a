"""What the tests of histories share: the bytes of all files of one, and children that work on it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pocketrec.history import HistoryError


def bytes_on_disk(file: Path) -> bytes:
    """Everything that SQLite keeps of a history: the file, its log, the log's index, a journal."""
    return b"".join(path.read_bytes() for path in sorted(file.parent.glob(file.name + "*")))


def refused(call: object) -> str:
    """The code of the HistoryError that calling `call` raises; it has to come with a remedy."""
    assert callable(call)
    with pytest.raises(HistoryError) as caught:
        call()
    assert caught.value.remedy
    return caught.value.code


def child(program: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    """A Python process that runs `program`, with pipes."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )
