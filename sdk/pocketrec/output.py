"""What a verb of the command line writes where.

Standard output holds the answer: one JSON document with `--json`, text otherwise. Progress, notes and errors
go to standard error. rich is loaded when text is first written.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any


def print_json(document: Any) -> None:
    """The one JSON document of a verb, on standard output; NaN and infinity are an error."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def note(message: str) -> None:
    """A line for the person at the terminal, on standard error."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()


def show_progress() -> None:
    """From here on, what ours log of their progress goes to standard error; of libraries only warnings."""
    import logging

    logging.basicConfig(
        stream=sys.stderr, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S", level=logging.WARNING
    )
    for name in ("pocketrec_export", "pocketrec_tools"):
        logging.getLogger(name).setLevel(logging.INFO)
    # torchao and torch disagree about enumerations, at every start; nobody who builds a bundle can help it.
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """An aligned table on standard output; the columns named in `right` are set to the right.

    Piped into a file or another program, no cell is cut or wrapped.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers:
        table.add_column(header, justify="right" if header in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(table)
        return
    console.width = 10_000
    with console.capture() as captured:
        console.print(table)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def human_bytes(size: int) -> str:
    """`size` as people read it: 512 B, 3.1 MB (powers of 1000)."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
