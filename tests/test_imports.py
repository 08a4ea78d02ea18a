"""The import rules of the design: what may know what.

sdk/ is embedded by apps. It may use the standard library without its network modules, its declared
dependencies, and nothing else; `executorch` only inside its engine, the two heavier packages only where the
command line dispatches to them. The rules are read off the source, so an import inside a function counts too.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from support import ROOT

PACKAGES = {
    "pocketrec": ROOT / "sdk" / "pocketrec",
    "pocketrec_export": ROOT / "export" / "pocketrec_export",
    "pocketrec_tools": ROOT / "tools" / "pocketrec_tools",
}

RUNTIME_LIBRARIES = {
    "numpy", "onnxruntime", "tokenizers", "safetensors", "pydantic", "pydantic_core", "typer", "click",
    "rich", "cryptography",
}  # fmt: skip
NETWORK = {
    "asyncio", "ftplib", "http", "imaplib", "nntplib", "poplib", "select", "selectors", "smtplib", "socket",
    "socketserver", "ssl", "telnetlib", "urllib", "webbrowser", "wsgiref", "xmlrpc",
}  # fmt: skip
RUNTIME_ALLOWED = (set(sys.stdlib_module_names) - NETWORK) | RUNTIME_LIBRARIES | {"pocketrec"}
EXCEPTIONS = {
    # Its own runtime, whose inputs and outputs are torch tensors: it brings torch along itself.
    "engine_executorch.py": {"executorch", "torch"},
    # SQLCipher, an extra: only for who gives a key.
    "history_cipher.py": {"sqlcipher3"},
    # An extra: faster products over mapped int8 rows.
    "scan.py": {"simsimd"},
    # A verb whose package is not installed says which extra to install.
    "cli.py": {"pocketrec_export", "pocketrec_tools"},
}
TESTS = {"tests", "conftest", "support", "pytest", "hypothesis"}

DYNAMIC_IMPORTS = {"import_module", "__import__", "find_spec", "run_module", "reload"}


def imported_names(source: str, package: str) -> Iterator[tuple[int, str]]:
    """(line, top-level module) of every import in `source`, those inside functions and by name included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, package if node.level else str(node.module).split(".")[0]
        elif isinstance(node, ast.Call):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            if name in DYNAMIC_IMPORTS and node.args and isinstance(node.args[0], ast.Constant):
                module = str(node.args[0].value)
                yield node.lineno, package if module.startswith(".") else module.partition(".")[0]


def all_imports(package: str) -> list[tuple[Path, int, str]]:
    """(file, line, module) of every import of the package."""
    files = sorted(PACKAGES[package].rglob("*.py"))
    assert files, f"{PACKAGES[package]} holds no Python file"
    return [
        (path, line, module)
        for path in files
        for line, module in imported_names(path.read_text("utf-8"), package)
    ]


def described(found: list[tuple[Path, int, str]]) -> str:
    return "\n".join(f"{path.relative_to(ROOT)}:{line} imports {module}" for path, line, module in found)


def test_every_kind_of_import_is_seen() -> None:
    source = (
        "import torch.nn as nn\n"
        "def f():\n"
        "    from urllib import request\n"
        "    from . import errors\n"
        "    importlib.import_module('polars.io')\n"
        "    __import__('socket')\n"
    )
    assert list(imported_names(source, "pocketrec")) == [
        (1, "torch"), (3, "urllib"), (4, "pocketrec"), (5, "polars"), (6, "socket"),
    ]  # fmt: skip


def test_runtime_imports_only_what_it_declares() -> None:
    wrong = [
        (path, line, module)
        for path, line, module in all_imports("pocketrec")
        if module not in RUNTIME_ALLOWED | EXCEPTIONS.get(path.name, set())
    ]
    assert not wrong, described(wrong)


def test_export_does_not_know_the_tools() -> None:
    wrong = [found for found in all_imports("pocketrec_export") if found[2] == "pocketrec_tools"]
    assert not wrong, described(wrong)


def test_nothing_imports_the_tests() -> None:
    wrong = [found for package in PACKAGES for found in all_imports(package) if found[2] in TESTS]
    assert not wrong, described(wrong)


def run_python(code: str, *args: str, env: dict[str, str] | None = None) -> str:
    """What `code` prints in a fresh interpreter; the test fails with its traceback if it raises."""
    run = subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=120, env=env, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def runtime_modules() -> list[str]:
    """Every module of sdk/ but the ExecuTorch engine, which loads torch through its own runtime."""
    stems = sorted(path.stem for path in PACKAGES["pocketrec"].glob("*.py"))
    left_out = {"__init__", "__main__", "engine_executorch"}
    return ["pocketrec", *(f"pocketrec.{stem}" for stem in stems if stem not in left_out)]


HEAVY = (
    "torch transformers polars pandas sklearn onnx executorch huggingface_hub requests httpx "
    "pocketrec_export pocketrec_tools"
)

LOAD_AND_LIST = """
import importlib, sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.bind", "socket.sendto"):
        raise RuntimeError(f"{event} {arguments}")
sys.addaudithook(refuse)
for name in sys.argv[1].split():
    importlib.import_module(name)
print(" ".join(name for name in sys.argv[2].split() if name in sys.modules))
"""


def test_loading_the_whole_runtime_loads_nothing_heavy_and_opens_no_connection() -> None:
    assert run_python(LOAD_AND_LIST, " ".join(runtime_modules()), HEAVY).split() == []


def test_import_pocketrec_is_light() -> None:
    lazy = "numpy onnxruntime tokenizers safetensors pydantic typer rich cryptography sqlite3"
    assert run_python(LOAD_AND_LIST, "pocketrec", f"{HEAVY} {lazy}").split() == []


def test_command_line_starts_without_the_engines() -> None:
    assert run_python(LOAD_AND_LIST, "pocketrec.cli", f"{HEAVY} numpy onnxruntime tokenizers").split() == []


AUDITED_ENGINE = """
import os, sys
def check(event, arguments):
    if event == "import" and arguments[0] == "onnxruntime" and os.environ.get("ORT_DISABLE_TELEMETRY") != "1":
        raise SystemExit("onnxruntime is loaded before its telemetry is switched off")
sys.addaudithook(check)
import pocketrec.engine_onnxruntime
import onnxruntime
"""


def test_telemetry_is_off_before_onnxruntime_loads() -> None:
    """Importing our engine is enough, whether it loads the library at once or later."""
    env = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    run_python(AUDITED_ENGINE, env=env)
