"""The wheel, installed with nothing but the runtime's own dependencies, in an environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from support import ROOT, require_package

pytestmark = pytest.mark.timeout(600)

# Nothing of the surrounding environment may lend the bare one its packages.
ENV = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
NO_REGISTRY = ("error sending request", "Could not connect", "dns error", "network was disabled")
ENV |= {"COLUMNS": "200", "NO_COLOR": "1"}  # messages in one piece


def call(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The finished command, with what it wrote."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=ENV,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def uv(*arguments: str | Path, cwd: Path) -> None:
    """Run uv; skip when the package registry cannot be reached."""
    require_package("uv")
    from uv import find_uv_bin

    run = call(find_uv_bin(), *arguments, cwd=cwd)
    if run.returncode and any(sign in run.stderr for sign in NO_REGISTRY):
        pytest.skip(f"no package registry can be reached: {run.stderr.strip().splitlines()[-1]}")
    assert run.returncode == 0, run.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: in the working tree it would leave a `build/` that the next wheel would pack."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt"):
        shutil.copy(ROOT / name, source)
    for name in ("sdk", "export", "tools"):
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    out = tmp_path_factory.mktemp("wheel")
    uv("build", "--wheel", "--build-constraint", "constraints.txt", "--out-dir", out, cwd=source)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands of an environment that holds the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("bare")
    uv("venv", "--python", sys.executable, "venv", cwd=folder)
    commands = folder / "venv" / "bin"
    uv("pip", "install", "--python", commands / "python", "-c", ROOT / "constraints.txt", wheel, cwd=folder)
    return commands


def test_the_wheel_holds_the_three_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == {"pocketrec", "pocketrec_export", "pocketrec_tools"}
    for package in top:
        assert f"{package}/py.typed" in names
        (folder,) = ROOT.glob(f"*/{package}")
        sources = {path.relative_to(folder.parent).as_posix() for path in folder.rglob("*.py")}
        assert sources <= names, f"the wheel lacks {sorted(sources - names)}"


def test_a_bare_install_stays_small(bare: Path) -> None:
    code = "import importlib.metadata as m; print(*sorted({d.name.lower() for d in m.distributions()}))"
    run = call(bare / "python", "-c", code)
    installed = set(run.stdout.split())
    assert "pocketrec" in installed, run.stderr
    assert not installed & {"torch", "transformers", "polars", "executorch", "onnx", "scikit-learn", "pandas"}


def test_a_bare_install_imports(bare: Path) -> None:
    code = "import pocketrec; print(pocketrec.__version__, pocketrec.Recommender.__name__)"
    run = call(bare / "python", "-c", code)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["0.1.0", "Recommender"]


def test_a_bare_install_says_help(bare: Path) -> None:
    run = call(bare / "pocketrec", "--help")
    assert run.returncode == 0, run.stderr
    for verb in ("build", "rank", "verify", "inspect"):
        assert verb in run.stdout


def test_a_verb_without_its_extra_says_which(bare: Path, tmp_path: Path) -> None:
    run = call(bare / "pocketrec", "build", "data", "--out", "bundle", cwd=tmp_path)
    assert run.returncode == 2, run.stdout + run.stderr
    assert "pip install 'pocketrec[export]'" in " ".join(run.stderr.split())
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "bundle").exists()


def test_a_bare_install_ranks_nothing_it_cannot_read(bare: Path, tmp_path: Path) -> None:
    """The runtime itself works, down to a typed error for a bundle that is not there."""
    run = call(bare / "pocketrec", "rank", "no-such-bundle", "--items", "a", cwd=tmp_path)
    assert run.returncode == 2, run.stdout + run.stderr
    assert "no-such-bundle" in " ".join(run.stderr.split())
    assert "Traceback" not in run.stderr
