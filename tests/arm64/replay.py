"""Replays the golden vectors of every bundle in a folder on the engines that a bare install has: FOLDER."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from pocketrec.verify import verify


def main(folder: Path) -> int:
    """Write one line a check; the number of bundles that fail one."""
    sys.stdout.write(f"{platform.machine()}, Python {platform.python_version()}\n")
    wrong = 0
    for path in sorted(folder.iterdir()):
        report = verify(path)
        for check in report.checks:
            sys.stdout.write(f"{path.name} {check.name}: {check.status} {check.detail}\n")
        sys.stdout.flush()
        wrong += not report.ok
    return wrong


if __name__ == "__main__":
    sys.exit(min(1, main(Path(sys.argv[1]))))
