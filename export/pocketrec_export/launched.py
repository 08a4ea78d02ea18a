"""Which of several processes of a run this is, told without torch, which takes seconds to load."""

from __future__ import annotations

import os


def is_main() -> bool:
    """Whether this is the process that reports and writes; a process that was started alone is."""
    return os.environ.get("RANK", "0") == "0"
