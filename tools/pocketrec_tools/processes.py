"""Python in processes of their own, with one thread: in one process, engines disturb each other."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from pocketrec.errors import PocketrecError

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",  # pools that spin starve whatever else runs
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "ORT_DISABLE_TELEMETRY": "1",
}


def run_python(*arguments: str, given: str = "", prefix: Sequence[str] = ()) -> str:
    """What this interpreter prints when it is started with these arguments.

    Args:
        given: on its standard input.
        prefix: a command that starts it.

    Raises:
        PocketrecError: `process-failed`, with what it said on standard error.
    """
    command = [*prefix, sys.executable, *arguments]
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, env=os.environ | ONE_THREAD, check=False
    )
    if done.returncode:
        shown = " ".join(["python", *arguments[:3]])
        raise PocketrecError(
            f"`{shown} …` ended with status {done.returncode}: {done.stderr.strip()[-2000:]}",
            code="process-failed",
            remedy="Run `pocketrec verify` on the bundle.",
        )
    return done.stdout
