"""Product codes in simulation: they come near the rows, nearer when turned, and are judged by ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import typer

from pocketrec.bundle import Bundle
from pocketrec.errors import DataError
from pocketrec_export.build import build
from pocketrec_export.bundle_ranks import bundle_queries
from pocketrec_export.config import BuildConfig
from pocketrec_export.options import ExportOptions
from pocketrec_export.precision_graph import HistoryGraph, Prefixes
from pocketrec_tools.batched_ranks import ranks_of
from pocketrec_tools.demo_data import make_demo_data
from pocketrec_tools.held_out import HeldOut
from pocketrec_tools.product_codes import (
    CENTROIDS,
    main,
    measure,
    product_codes,
    training_histories,
    turned_codes,
    weighed,
)
from pocketrec_tools.product_codes_taught import taught_codes

QUICK = {
    "student": {"size": "tiny", "length": 8, "dropout": 0.1},
    "training": {"epochs": 1, "positions": 256, "warmup_steps": 5, "mixed_precision": "no"},
}


def correlated(n: int, d: int) -> np.ndarray:
    random = np.random.default_rng(3)
    mixed = random.normal(size=(n, d)) @ random.normal(size=(d, d))
    return (mixed * np.geomspace(1, 0.02, d)).astype(np.float32)


def test_few_rows_are_their_own_centroids() -> None:
    rows = correlated(CENTROIDS // 2, 16)
    assert np.allclose(product_codes(rows, 4)[0], rows, rtol=1e-3, atol=1e-3)


def test_a_rotation_takes_errors_off_and_weights_move_them_to_where_no_query_looks() -> None:
    rows = correlated(3000, 16)
    plain, turned = (
        np.square(coded - rows).sum() for coded in (product_codes(rows, 4)[0], turned_codes(rows, 4))
    )
    assert turned < 0.9 * plain
    queries = np.random.default_rng(4).normal(size=(500, 16)) * np.geomspace(1, 0.01, 16)
    moment = queries.T @ queries / len(queries)
    by_score = weighed(rows, moment, lambda there: turned_codes(there, 4))
    of_scores = [np.square(queries @ (coded - rows).T).mean() for coded in (by_score, turned_codes(rows, 4))]
    assert of_scores[0] < 0.9 * of_scores[1]


def test_taught_codes_keep_their_codes_and_come_nearer_to_the_lists(tmp_path: Path) -> None:
    data = make_demo_data(tmp_path / "data", seed=3, users=300, items=400)
    made = build(
        data,
        tmp_path / "bundle",
        BuildConfig.model_validate(QUICK),
        ExportOptions(targets=(), precision="fp32"),
        teacher="none",
    ).bundle
    with Bundle.open(made) as bundle:
        table = bundle.tables["items"]
        rows = np.array(table.rows(np.arange(table.n)), np.float32)
        training = training_histories(bundle, HeldOut.load(data, bundle.catalogue))
        prefixes = Prefixes.drawn(training, bundle.manifest.graph.length, 2000, 0)
        fitted, centroids = product_codes(rows, 16)
        coded, graph = taught_codes(bundle, rows, centroids, prefixes, 3, 0)

        def scores(items: np.ndarray, graph: HistoryGraph | None = None) -> torch.Tensor:
            table = torch.from_numpy(items)
            return torch.log_softmax(bundle_queries(bundle, prefixes, table, graph) @ table.T, 1)

        def divergence(given: torch.Tensor) -> float:
            return float(torch.nn.functional.kl_div(given, whole, log_target=True, reduction="batchmean"))

        whole = scores(rows)
        assert divergence(scores(coded, graph)) < 0.9 * divergence(scores(fitted))
    # Rows that shared a centroid still do.
    for old, new in zip(np.split(fitted, 16, axis=1), np.split(coded, 16, axis=1), strict=True):
        assert len(np.unique(new, axis=0)) <= len(np.unique(old, axis=0)) <= CENTROIDS


@pytest.mark.parametrize("pieces", ["64,x", "", "0"])
def test_wrong_numbers_of_pieces_are_named(pieces: str, tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="give numbers from 1"):
        main(tmp_path / "bundle", tmp_path, pieces=pieces)


def test_every_table_is_measured_on_the_same_users(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_demo_data(tmp_path / "data", seed=3, users=120, items=80)
    config = BuildConfig.model_validate(QUICK)
    made = {}
    for precision in ("fp32", "int8"):
        options = ExportOptions(targets=(), precision=precision)
        made[precision] = build(
            data, tmp_path / precision, config, options, teacher="none", work_dir=tmp_path / "work"
        ).bundle
    ways = {way.name: way for way in measure(made["fp32"], data, None, 0, passes=1, numbers=(32, 5))}
    assert {name for name in ways if name.startswith("codes")} == {
        f"codes 32{way}" for way in ("", ", turned", ", turned and weighed", ", taught")
    }
    assert "left out: 5 pieces do not divide" in capsys.readouterr().err
    ranks = ranks_of(made["fp32"], data, None, 0)
    assert ways["fp32"].ndcg == pytest.approx(np.mean(np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0)))
    assert ways["fp32"].change == 0
    # 80 rows have a centroid of their own in every piece: codes lose what half precision loses.
    assert ways["codes 32"].change == pytest.approx(0, abs=0.02)
    assert ways["codes 32, taught"].bytes == ways["codes 32"].bytes
    assert ways["codes 32, taught"].change == pytest.approx(0, abs=0.05)
    with Bundle.open(made["int8"]) as bundle:
        assert ways["int8"].bytes == sum(
            bundle.tensors("items.safetensors")[name].nbytes for name in ("q", "scale")
        )
    with pytest.raises(DataError, match="item table is int8"):
        measure(made["int8"], data, None, 0)
