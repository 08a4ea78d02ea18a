"""What the verbs of this package say while they work."""

from __future__ import annotations

import logging
import sys


def show_progress() -> None:
    """Progress of ours on standard error; of libraries only warnings."""
    logging.basicConfig(
        stream=sys.stderr, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S", level=logging.WARNING
    )
    for name in ("pocketrec_export", "pocketrec_tools"):
        logging.getLogger(name).setLevel(logging.INFO)
