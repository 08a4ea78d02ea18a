"""Work done in pieces, so that memory does not follow the size of a set: the pieces make no difference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pocketrec_export import batches, known, metrics, ranking, text
from pocketrec_export.batches import Epoch, Histories
from pocketrec_export.data import load_dataset
from pocketrec_export.known import KnownItems
from pocketrec_export.metrics import popularity_ranks
from pocketrec_export.model import Material
from pocketrec_export.student import Shape

LENGTHS = st.lists(st.integers(0, 12), min_size=1, max_size=8)
SHAPE = Shape(dim=32, layers=1, heads=2, kv_heads=1, intermediate=64, vocab=200)


def histories(lengths: list[int]) -> Histories:
    """Five items at random, a minute to many between events."""
    rng = np.random.default_rng(len(lengths))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    n = int(offsets[-1])
    times = np.cumsum(rng.integers(0, 7200, n))
    return Histories.from_events(offsets, rng.integers(0, 5, n), np.zeros(n), times, (60, 3600))


@given(LENGTHS, st.integers(1, 6))
def test_gaps_and_known_items_by_blocks(lengths: list[int], block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        whole = histories(lengths)
        pairs = KnownItems.from_histories(whole.offsets, whole.items, 5)
        patch.setattr(batches, "BLOCK", block)
        patch.setattr(known, "BLOCK", block)
        parts = histories(lengths)
        assert np.array_equal(whole.gaps, parts.gaps)
        for name, tensor in vars(KnownItems.from_histories(whole.offsets, whole.items, 5)).items():
            assert name == "items" or torch.equal(tensor, getattr(pairs, name)), name
    assert pairs.keys[:-1].tolist() == sorted(
        {
            u * 5 + int(i)
            for u in range(len(lengths))
            for i in whole.items[whole.offsets[u] : whole.offsets[u + 1]]
        }
    )


def test_ranks_and_rows_by_blocks(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    material = Material(load_dataset(shop), 200)
    model = material.model(
        SHAPE, length=8, seed=0, kappa=2.0, recency_heads=4, input_dropout=0.1, hidden_dropout=0.1
    ).eval()
    whole = popularity_ranks(material.split, "test"), material.ranker.ranks(model, "test")
    monkeypatch.setattr(metrics, "_USERS", 7)
    monkeypatch.setattr(ranking, "CHUNK_BYTES", 4 * material.dataset.num_items * 5)
    assert np.array_equal(whole[0], popularity_ranks(material.split, "test"))
    assert [len(s) for s in material.ranker.scores(model, "test", material.split.users_for("test"))][:2] == [
        5,
        5,
    ]
    # Products of matrices of other shapes may differ in the last bit, which can turn near ties over.
    assert np.abs(whole[1] - material.ranker.ranks(model, "test")).max() <= 1
    with torch.no_grad():
        rows = model.rows(torch.arange(material.dataset.num_items))
    assert torch.equal(model.rows.table(block=7), rows)
    assert torch.equal(model.rows.table(), rows)


@given(LENGTHS, st.integers(1, 4), st.integers(1, 30), st.integers(0, 3))
def test_processes_share_each_batch(lengths: list[int], processes: int, positions: int, seed: int) -> None:
    hist = histories(lengths)
    alone = Epoch(hist, 4, positions, np.random.default_rng(seed))
    for number in range(len(alone)):
        whole, weight = alone.batch(number)
        assert weight == 1.0
        value = np.sqrt(whole.index[whole.segments > 0])  # any figure of a position
        shared: list[int] = []
        mean = 0.0
        for process in range(processes):
            part, weight = alone.batch(number, process, processes)
            index = part.index[part.segments > 0]
            assert len(index)
            assert 0 <= weight <= processes
            shared += index.tolist() if weight else []
            mean += weight * np.sqrt(index).mean() / processes
        assert sorted(shared) == sorted(whole.index[whole.segments > 0].tolist())
        assert mean == pytest.approx(value.mean())


def test_texts_by_blocks_and_word_rows_from_a_sample(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = load_dataset(shop).texts
    tokenizer = text.train_tokenizer(texts, 300)
    whole = text.text_features(texts, tokenizer)
    kept = float(np.square(whole.weights @ whole.start_rows(16, 0)).sum())
    monkeypatch.setattr(text, "BLOCK", 7)
    monkeypatch.setattr(text, "SAMPLE", len(texts) // 2)
    parts = text.text_features(texts, tokenizer)
    assert (whole.weights != parts.weights).nnz == 0
    assert np.array_equal(whole.idf, parts.idf)
    # The directions of half the items hold nearly as much of all texts as the best ones do.
    rows = parts.start_rows(16, 0)
    assert np.square(whole.weights @ rows).sum() > 0.8 * kept
    assert text.train_tokenizer(texts, 300).to_str() == text.train_tokenizer(texts, 300).to_str()
    assert text.train_tokenizer(texts, 300).to_str() != tokenizer.to_str()
