"""The command line as its users meet it: by what it prints and how it exits, in a process of its own where
that matters."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pocketrec import History, Recommender, __version__, signing
from pocketrec.cli import VERBS, load_verb, main
from pocketrec.output import human_bytes
from tiny_bundle import item_id, write_tiny_bundle


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def run(*arguments: object) -> Done:
    """In this process, which spares the start."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return Done(int(left.value.code or 0), out.getvalue(), err.getvalue())


def run_process(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pocketrec.cli", *map(str, arguments)]
    env = os.environ | environment
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=env, check=False)


def run_json(*arguments: object) -> tuple[int, Any]:
    done = run(*arguments, "--json")
    return done.returncode, json.loads(done.stdout)


def test_rank_items_is_rank(tiny_bundle_dir: Path, recommender: Recommender) -> None:
    status, document = run_json(
        "rank", tiny_bundle_dir, "--items", f"{item_id(3)},nobody,{item_id(9)}", "-k", 4
    )
    want = recommender.rank([item_id(3), "nobody", item_id(9)], 4)
    assert status == 0
    assert document["items"] == [item.to_dict() for item in want]
    assert (document["skipped"], document["fallback"], document["engine"]) == (1, False, "numpy")
    assert document["bundle_id"] == recommender.bundle.manifest.bundle_id


def test_rank_history_is_recommend(tiny_bundle_dir: Path, tmp_path: Path) -> None:
    with Recommender.open(tiny_bundle_dir, tmp_path / "me.db", "numpy") as rec:
        rec.record(item_id(5), "view", 1000)
        rec.record(item_id(6), "buy", 5000)
        want = rec.recommend(3)
    status, document = run_json(
        "rank", tiny_bundle_dir, "--history", tmp_path / "me.db", "-k", 3, "--engine", "numpy"
    )
    assert status == 0
    assert document["items"] == [item.to_dict() for item in want]
    with History(tmp_path / "me.db") as history:
        assert len(history) == 2


def test_rank_as_text(tiny_bundle_dir: Path, recommender: Recommender) -> None:
    done = run("rank", tiny_bundle_dir, "--items", item_id(3), "-k", 2)
    assert done.returncode == 0
    best = recommender.rank([item_id(3)], 2)
    lines = done.stdout.splitlines()
    assert lines[1].split()[:3] == ["1", f"{best[0].score:.4f}", best[0].item_id]
    assert best[1].title in lines[2]
    assert "most popular" in run("rank", tiny_bundle_dir, "--items", "").stdout


def test_inspect(tiny_bundle_dir: Path) -> None:
    status, document = run_json("inspect", tiny_bundle_dir)
    assert status == 0
    assert document["bytes"] == sum(path.stat().st_size for path in tiny_bundle_dir.iterdir())
    assert document["manifest"] == json.loads((tiny_bundle_dir / "manifest.json").read_text("utf-8"))
    assert document["usable_engines"] == ["numpy"]
    text = run("inspect", tiny_bundle_dir).stdout
    assert document["manifest"]["bundle_id"] in text
    assert "Apache-2.0" in text


def test_inspect_shows_every_figure_on_a_line_of_its_own(tmp_path: Path) -> None:
    figures = {"seed": 1234, "items": 12101, "members": [{"name": "rules", "weight": 0.25}, {"name": "text"}]}
    bundle = write_tiny_bundle(tmp_path / "b", figures=figures)
    lines = [re.split(r"\s{2,}", line.strip()) for line in run("inspect", bundle).stdout.splitlines()]
    assert [line for line in lines if line[0].startswith("figure")] == [
        ["figure seed", "1234"],
        ["figure items", "12,101"],
        ["figure members 1 name", "rules"],
        ["figure members 1 weight", "0.2500"],
        ["figure members 2 name", "text"],
    ]


def test_verify(tiny_bundle_dir: Path, copy_bundle: Callable[[], Path]) -> None:
    status, document = run_json("verify", tiny_bundle_dir)
    assert status == 0
    assert document["ok"]
    assert {check["name"]: check["status"] for check in document["checks"]} == {
        "bundle": "ok", "signature": "skipped", "golden": "ok", "numpy": "ok",
    }  # fmt: skip
    assert "agrees with all" in run("verify", tiny_bundle_dir).stdout
    harmed = copy_bundle()
    (harmed / "items.safetensors").write_bytes(b"")
    status, document = run_json("verify", harmed)
    assert status == 1
    assert not document["ok"]
    assert document["checks"][0]["code"] == "size-mismatch"


def test_verify_finds_a_model_that_answers_otherwise(tmp_path: Path) -> None:
    from pocketrec.golden import parse_golden

    other = write_tiny_bundle(tmp_path / "other", seed=5)
    golden = parse_golden((other / "golden.json").read_bytes())
    status, document = run_json("verify", write_tiny_bundle(tmp_path / "b", golden=golden))
    assert status == 1
    assert document["checks"][-1]["code"] == "golden-mismatch"


def test_verify_a_signature(tmp_path: Path) -> None:
    ours, other = signing.generate_key(), signing.generate_key()
    (tmp_path / "ours.pem").write_bytes(ours.public_pem)
    (tmp_path / "other.pem").write_bytes(other.public_pem)
    bundle = write_tiny_bundle(tmp_path / "b.zip", sign_key=ours.private_pem, as_zip=True)
    status, document = run_json("verify", bundle, "--public-key", tmp_path / "ours.pem")
    assert (status, document["checks"][1]["status"]) == (0, "ok")
    status, document = run_json("verify", bundle, "--public-key", tmp_path / "other.pem")
    assert (status, document["checks"][0]["code"]) == (1, "signature-invalid")
    both = ("--public-key", tmp_path / "other.pem", "--public-key", tmp_path / "ours.pem")
    assert run_json("rank", bundle, "--items", "x", *both)[0] == 0
    status, document = run_json("rank", bundle, "--items", "x", "--public-key", tmp_path / "other.pem")
    assert (status, document["error"]["code"]) == (2, "signature-invalid")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("rank", "no-such-bundle", "--items", "a"), "bundle-missing"),
        (("inspect", "no-such-bundle"), "bundle-missing"),
        (("verify", "no-such-bundle"), "bundle-missing"),
        (("rank", "BUNDLE"), "history-invalid"),
        (("rank", "BUNDLE", "--items", "a", "--history", "me.db"), "history-invalid"),
        (("rank", "BUNDLE", "--history", "no-such.db"), "history-missing"),
        (("rank", "BUNDLE", "--items", "a", "--engine", "abacus"), "engine-unavailable"),
        (("rank", "BUNDLE", "--items", "a", "--public-key", "no-such.pem"), "key-invalid"),
    ],
)
def test_bad_input_exits_with_2_and_without_a_traceback(
    tiny_bundle_dir: Path, tmp_path: Path, arguments: tuple[str, ...], code: str
) -> None:
    places = {
        "BUNDLE": tiny_bundle_dir,
        "no-such-bundle": tmp_path / "absent",
        "no-such.db": tmp_path / "absent.db",
    }
    arguments = tuple(str(places.get(argument, argument)) for argument in arguments)
    done = run(*arguments, "--json")
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert error["code"] == code
    assert done.stderr == f"error: {error['message']} {error['remedy']}\n"
    plain = run(*arguments)
    assert (plain.returncode, plain.stdout, plain.stderr) == (2, "", done.stderr)
    assert not (tmp_path / "absent.db").exists()


def test_wrong_usage_exits_with_2(tiny_bundle_dir: Path) -> None:
    for arguments in (
        ("rnak",),
        ("rank",),
        ("rank", tiny_bundle_dir, "-k", "0", "--items", "a"),
        ("--nonsense",),
    ):
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert "Traceback" not in done.stderr
    assert "Did you mean 'rank'" in run("rnak").stderr


def test_help_lists_every_verb_and_imports_none() -> None:
    done = run_process("--help", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    for name, verb in VERBS.items():
        assert f"{name} " in done.stdout
        assert verb.summary in done.stdout
    imported = {
        line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "import time:" in line
    }
    assert "pocketrec.cli" in imported or "pocketrec.output" in imported
    heavy = {
        "numpy",
        "pydantic",
        "onnxruntime",
        "tokenizers",
        "cryptography",
        "rich.console",
        "sqlite3",
        "torch",
    }
    assert not imported & heavy
    assert not any(module.startswith(("pocketrec_export", "pocketrec_tools")) for module in imported)


def test_rank_imports_no_build_side(tiny_bundle_dir: Path) -> None:
    done = run_process("rank", tiny_bundle_dir, "--items", item_id(1), "--json", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert not imported & {
        "torch",
        "transformers",
        "polars",
        "pocketrec_export",
        "pocketrec_tools",
        "cryptography",
    }


@pytest.mark.parametrize("name", VERBS)
def test_help_says_all_that_the_code_says_of_an_option(name: str) -> None:
    """What stands in brackets, too: a default, the name of a section."""
    done = run(name, "--help")
    assert done.returncode == 0
    assert "--json" in done.stdout
    shown = re.sub(r"\s+", " ", done.stdout)
    for parameter in load_verb(name).params:
        if parameter.name != "help":
            assert parameter.help, f"{name}: {parameter.name} has no help"
            assert re.sub(r"\s+", " ", parameter.help) in shown


WITHOUT_POLARS = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
import types
module = types.ModuleType("pocketrec_export.verbs")
def cli_build(data: str) -> None:
    import polars
    import executorch
module.cli_build = cli_build
sys.modules["pocketrec_export.verbs"] = module
from pocketrec.cli import main
main(["build", "somewhere"])
"""


@pytest.mark.parametrize(
    ("hidden", "extra"),
    [("polars,executorch", "'pocketrec[export]'"), ("executorch", "'pocketrec[executorch]'")],
)
def test_a_verb_without_its_packages_says_what_to_install(hidden: str, extra: str) -> None:
    pytest.importorskip("polars")
    command = [sys.executable, "-c", WITHOUT_POLARS, hidden]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert f"pip install {extra}" in done.stderr
    assert "Traceback" not in done.stderr


def test_version() -> None:
    assert run("--version") == Done(0, f"pocketrec {__version__}\n", "")


def test_the_process_exits_as_main_does(tiny_bundle_dir: Path, tmp_path: Path) -> None:
    for arguments in (
        ("rank", tiny_bundle_dir, "--items", item_id(3), "--json"),
        ("verify", tmp_path / "absent"),
    ):
        done, inside = run_process(*arguments), run(*arguments)
        assert (done.returncode, done.stdout, done.stderr) == (
            inside.returncode,
            inside.stdout,
            inside.stderr,
        )


def test_bytes_as_people_read_them() -> None:
    sizes = [0, 999, 1000, 1_540_000, 3 * 10**9, 5 * 10**12]
    assert [human_bytes(size) for size in sizes] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "1.5 MB",
        "3.0 GB",
        "5000.0 GB",
    ]
