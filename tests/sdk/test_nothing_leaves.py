"""The whole runtime, where no network can be reached and every socket is counted: none is opened.

Three traps, of which the last sees what C++ does, too: a network namespace without an interface, Python's
audit events, and strace on every system call of the network. The environment says nothing of telemetry here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pocketrec.manifest import Backbone
from pocketrec_export.backbone import backbone_tensors
from pocketrec_export.precision import RECIPES
from pocketrec_export.target_onnx import to_onnx
from support import ROOT, not_applicable, require_tool
from tiny_backbone import random_backbone, tiny_shape
from tiny_bundle import write_tiny_bundle

ENGINES = ("numpy", "onnxruntime")
TELEMETRY = ("ORT_", "HF_", "DO_NOT_TRACK", "DISABLE_TELEMETRY")
NEVER_LOADED = {
    "huggingface_hub",
    "requests",
    "httpx",
    "urllib3",
    "aiohttp",
    "torch",
    "transformers",
    "ssl",
    "http.client",
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    backbone, recipe = random_backbone(tiny_shape(layers=1)), RECIPES["int8"]
    return write_tiny_bundle(
        tmp_path_factory.mktemp("offline") / "bundle",
        backbone=Backbone(**vars(backbone.shape)),
        backbone_tensors=backbone_tensors(backbone, recipe),
        onnx=to_onnx(backbone, recipe),
    )


def run(bundle: Path, folder: Path, engine: str, *control: str, prefix: Sequence[str] = ()) -> dict[str, Any]:
    """What a session says of itself."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(TELEMETRY)}
    script = str(ROOT / "tests" / "offline_session.py")
    command = [*prefix, sys.executable, script, str(bundle), str(folder), engine, *control]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert not done.returncode, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def traced(bundle: Path, folder: Path, engine: str, *control: str) -> tuple[dict[str, Any], list[str]]:
    """What a session says, and its system calls of the network, its threads' and children's included."""
    strace = require_tool("strace", "apt-get install strace")
    if subprocess.run([strace, "-qq", "true"], capture_output=True, check=False).returncode:
        not_applicable("this system does not let a process trace another")
    log = folder / "calls"
    # io_uring could open sockets without any of the other calls.
    what = ["-e", "trace=%network,io_uring_setup", "-e", "signal=none"]
    prefix = [str(strace), "-f", "-qq", *what, "-o", str(log)]
    said = run(bundle, folder, engine, *control, prefix=prefix)
    return said, [line for line in log.read_text("utf-8").splitlines() if "(" in line]


@pytest.mark.parametrize("engine", ENGINES)
def test_no_socket_is_opened(bundle: Path, tmp_path: Path, engine: str) -> None:
    said, calls = traced(bundle, tmp_path, engine)
    assert calls == []
    assert said["touched"] == []
    assert said["verified"]
    assert [len(ranked["items"]) for ranked in said["lists"]] == [5, 5, 5, 5]
    assert not NEVER_LOADED & set(said["modules"])


@pytest.mark.parametrize("control", ["python", "native"])
def test_the_traps_see_a_socket(bundle: Path, tmp_path: Path, control: str) -> None:
    said, calls = traced(bundle, tmp_path, "numpy", control)
    assert len([line for line in calls if "socket(" in line]) == 1
    assert bool(said["touched"]) == (control == "python")


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_lists_where_there_is_no_network(bundle: Path, tmp_path: Path, engine: str) -> None:
    unshare = shutil.which("unshare")
    if not unshare or subprocess.run([unshare, "-rn", "true"], capture_output=True, check=False).returncode:
        not_applicable(
            "no network namespaces here: a Linux whose kernel.unprivileged_userns_clone is 1 has them"
        )
    said = []
    for name, prefix in (("without", [str(unshare), "-rn"]), ("with", [])):
        folder = tmp_path / name
        folder.mkdir()
        said.append(run(bundle, folder, engine, prefix=prefix))
    assert said[0]["touched"] == []
    assert said[0]["lists"] == said[1]["lists"]


def test_telemetry_is_off_before_a_library_loads(bundle: Path, tmp_path: Path) -> None:
    """tests/test_versions.py refuses the releases that would report by default; this is the second lock."""
    assert run(bundle, tmp_path, "onnxruntime")["telemetry"] == {"onnxruntime": "1"}


def test_every_commit_is_on_the_disk_before_it_is_acknowledged(tmp_path: Path) -> None:
    """Between the write of an event's log and the answer there is an fsync of the log."""
    strace = require_tool("strace", "apt-get install strace")
    if subprocess.run([strace, "-qq", "true"], capture_output=True, check=False).returncode:
        not_applicable("this system does not let a process trace another")
    program = (
        "import os, sys; from pocketrec import History; h = History(sys.argv[1]); h.record('warm');"
        "[(os.write(2, b'<begin>'), h.record('x'), os.write(2, b'<done>')) for _ in range(5)]; os._exit(0)"
    )
    log = tmp_path / "calls"
    calls = "trace=write,pwrite64,fsync,fdatasync"
    command = [
        strace,
        "-f",
        "-y",
        "-qq",
        "-e",
        calls,
        "-o",
        log,
        sys.executable,
        "-c",
        program,
        tmp_path / "me.db",
    ]
    subprocess.run([str(part) for part in command], capture_output=True, check=True)
    lines = log.read_text("utf-8").splitlines()
    begins = [number for number, line in enumerate(lines) if "<begin>" in line]
    ends = [number for number, line in enumerate(lines) if "<done>" in line]
    assert len(begins) == len(ends) == 5
    for begin, end in zip(begins, ends, strict=True):
        wal = [line for line in lines[begin:end] if "me.db-wal" in line]
        assert any("pwrite64(" in line for line in wal)
        assert "sync(" in wal[-1], wal
