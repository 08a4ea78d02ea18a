"""Two processes with batches of B are one process with batches of 2 B."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import scale_worker
import torch
from scale_worlds import circle, settings, trained

from pocketrec.verify import verify
from support import ROOT

Weights = dict[str, torch.Tensor]


RECIPE = """
[student]
size = "tiny"
length = 8
[training]
epochs = 2
positions = 128
mixed_precision = "no"
[teacher]
size = "tiny"
dropouts = [0.2]
"""


def launched(arguments: list[str]) -> str:
    """What two processes say on standard output.

    accelerate's own launcher hands processors over to mpirun; torch's starts the same processes without it.
    """
    paths = os.pathsep.join(str(ROOT / "tests" / part) for part in ("", "export"))
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left behind."""
    directory = tmp_path_factory.mktemp("two")
    launched([str(Path(scale_worker.__file__)), str(directory)])
    return directory


def left(directory: Path, name: str, number: int) -> Weights:
    return safetensors.torch.load_file(directory / f"{name}-{number}.safetensors")


def far_apart(one: Weights, other: Weights) -> dict[str, float]:
    """Largest differences of weights, in steps of the optimiser."""
    return {
        name: float((value - other[name]).abs().max()) / scale_worker.PLAIN["learning_rate"]
        for name, value in one.items()
    }


@pytest.mark.slow
def test_two_processes_are_one_with_batches_twice_as_large(two: Path, tmp_path: Path) -> None:
    material = circle(tmp_path / "data")
    for name, changes in (("dense", {}), ("lazy", {}), ("whole", {"negatives": 0})):
        config = settings(
            positions=2 * scale_worker.POSITIONS, epochs=scale_worker.EPOCHS, **(scale_worker.PLAIN | changes)
        )
        alone, result = trained(material, config, tmp_path / name, dropout=0.0, lazy=name == "lazy")
        alone["losses"] = torch.tensor([r.loss for r in result.epochs])
        apart = far_apart(alone, left(two, name, 0))
        assert max(apart.values()) < 0.5, (name, apart)
        untrained, _ = trained(
            material, config.model_copy(update={"learning_rate": 1e-12}), tmp_path / f"{name}0", dropout=0.0
        )
        moved = far_apart({n: v for n, v in alone.items() if n != "losses"}, untrained)
        assert max(moved.values()) > 5, (name, moved)


@pytest.mark.slow
def test_every_process_ends_with_the_same_weights_and_a_killed_run_too(two: Path) -> None:
    for name in ("dense", "lazy", "whole", "resumed"):
        first, second = left(two, name, 0), left(two, name, 1)
        assert all(torch.equal(value, second[key]) for key, value in first.items()), name
    whole, resumed = left(two, "lazy", 0), left(two, "resumed", 0)
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())


@pytest.mark.slow
def test_a_build_of_two_processes_leaves_one_bundle(shop: Path, tmp_path: Path) -> None:
    recipe, out = tmp_path / "recipe.toml", tmp_path / "bundle"
    recipe.write_text(RECIPE)
    command = ["-m", "pocketrec", "build", str(shop), "--out", str(out), "--teacher", "sequence", "--json"]
    answer = launched([*command, "--targets", "", "--config", str(recipe)])
    figures = json.loads(answer)["figures"]  # one document, of the main process
    assert 0 < figures["student"]["test"]["ndcg@10"] < 1
    assert figures["student"]["test"]["users"] == 150
    assert verify(out).ok
    assert not list(out.parent.glob("bundle.build/*.state*"))
