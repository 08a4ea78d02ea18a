"""The student: rows fused under the gate, packing that changes nothing, no look into the future."""

from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import sparse

from pocketrec_export.student import ItemRows, Shape, Student
from pocketrec_export.text import text_features, train_tokenizer

SHAPE = Shape(dim=32, layers=2, heads=4, kv_heads=2, intermediate=48, vocab=200)
TEXTS = [
    f"{colour} {thing}" for colour in ("red", "blue", "green") for thing in ("tent", "lamp", "mug", "rope")
] + [""]
LENGTH = 8


@pytest.fixture(scope="module")
def student() -> Student:
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS, SHAPE.vocab)
    features = text_features(TEXTS, tokenizer)
    seen = np.arange(len(TEXTS))  # the first item was never seen
    rows = ItemRows(features.weights, seen, features.start_rows(SHAPE.dim, 0), kappa=2.0)
    model = Student(SHAPE, LENGTH, rows, events=3, gap_seconds=(60, 3600))
    with torch.no_grad():
        model.event_rows.normal_()
        model.gap_rows.normal_()
    return model.eval()


def queries(model: Student, items: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
    rows = model.rows(torch.arange(len(TEXTS)))
    events, gaps = items % 3, items % 4
    with torch.no_grad():
        return model.queries(rows[items], events, gaps, segments)


def test_an_unseen_item_is_its_text(student: Student) -> None:
    with torch.no_grad():
        rows, text = student.rows(torch.arange(len(TEXTS))), student.rows.text(torch.arange(len(TEXTS)))
    assert torch.equal(rows[0], text[0])
    assert not torch.allclose(rows[1], text[1])


def test_an_item_without_text_is_its_behaviour(student: Student) -> None:
    last = len(TEXTS) - 1
    with torch.no_grad():
        row = student.rows(torch.tensor([last]))[0]
    assert torch.allclose(row, student.rows.behaviour[last] * last / (last + 2.0))


def test_rows_of_a_subset_are_the_same_rows(student: Student) -> None:
    some = torch.tensor([7, 2, 7, 12, 0])
    with torch.no_grad():
        assert torch.allclose(student.rows(some), student.rows(torch.arange(len(TEXTS)))[some], atol=1e-6)


def test_text_rows_are_weighted_sums_of_word_rows(student: Student) -> None:
    tokenizer = train_tokenizer(TEXTS, SHAPE.vocab)
    dense = torch.from_numpy(text_features(TEXTS, tokenizer).weights.toarray())
    with torch.no_grad():
        assert torch.allclose(
            student.rows.text(torch.arange(len(TEXTS))), dense @ student.rows.words, atol=1e-6
        )


def test_dropping_all_behaviour_leaves_the_text(student: Student) -> None:
    everything = torch.arange(len(TEXTS))
    with torch.no_grad():
        assert torch.equal(student.rows(everything, drop_behaviour=1.0), student.rows.text(everything))


def test_packing_histories_into_one_row_changes_nothing(student: Student) -> None:
    first, second = torch.tensor([[3, 5, 1]]), torch.tensor([[8, 2, 2, 9]])
    alone = [queries(student, h, torch.ones_like(h)) for h in (first, second)]
    packed = queries(student, torch.cat([first, second], 1), torch.tensor([[1, 1, 1, 2, 2, 2, 2]]))
    assert torch.allclose(packed, torch.cat(alone, 1), atol=1e-5)


def test_padding_on_the_left_changes_nothing(student: Student) -> None:
    history = torch.tensor([[3, 5, 1]])
    padded = torch.tensor([[0, 0, 0, 0, 0, 3, 5, 1]])
    a = queries(student, history, torch.ones_like(history))[:, -1]
    b = queries(student, padded, (torch.arange(8) >= 5).long()[None])[:, -1]
    assert torch.allclose(a, b, atol=1e-5)


def test_no_position_sees_a_later_one(student: Student) -> None:
    ones = torch.ones(1, 6, dtype=torch.long)
    a = queries(student, torch.tensor([[3, 5, 1, 7, 4, 2]]), ones)
    b = queries(student, torch.tensor([[3, 5, 1, 9, 11, 6]]), ones)
    assert torch.equal(a[:, :3], b[:, :3])
    assert not torch.allclose(a[:, 3:], b[:, 3:])


def test_the_query_depends_on_every_event_it_may_use(student: Student) -> None:
    ones = torch.ones(1, LENGTH, dtype=torch.long)
    base = torch.tensor([[3, 5, 1, 7, 4, 2, 8, 10]])
    whole = queries(student, base, ones)[:, -1]
    for place in range(LENGTH):
        changed = base.clone()
        changed[0, place] = 11
        assert not torch.allclose(whole, queries(student, changed, ones)[:, -1], atol=1e-6)


def test_a_copy_is_evaluated_without_the_originals_dropout(student: Student) -> None:
    twin = copy.deepcopy(student)
    ones, history = torch.ones(1, 4, dtype=torch.long), torch.tensor([[3, 5, 1, 7]])
    still = queries(student, history, ones)
    student.train()
    try:
        assert torch.equal(queries(twin, history, ones), still)
        assert not torch.equal(queries(student, history, ones), still)
    finally:
        student.eval()


def test_start_rows_keep_text_similarity() -> None:
    tokenizer = train_tokenizer(TEXTS, SHAPE.vocab)
    features = text_features(TEXTS, tokenizer)
    rows = features.weights @ features.start_rows(64, 0)
    exact = (features.weights @ features.weights.T).toarray()
    assert np.abs(rows @ rows.T - exact).max() < 1e-4
    norms = np.sqrt(np.diag(exact))
    assert np.allclose(norms[:-1], 1.0, atol=1e-5)
    assert norms[-1] == 0  # no text, no row


def test_the_tokenizer_is_the_same_in_every_process() -> None:
    program = (
        "from pocketrec_export.text import train_tokenizer;"
        "import sys; texts = [f'{a}{b} {b}{a}{a}' for a in 'tabulé' for b in ('ent', 'ope', 'ug')];"
        "sys.stdout.write(train_tokenizer(texts, 60).to_str())"
    )
    command = [sys.executable, "-c", program]
    first, second = (subprocess.run(command, capture_output=True, check=True).stdout for _ in range(2))
    assert first == second


def test_text_features_of_texts_without_any_word() -> None:
    tokenizer = train_tokenizer(["", ""], 50)
    features = text_features(["", ""], tokenizer)
    assert isinstance(features.weights, sparse.csr_matrix)
    assert features.weights.shape[0] == 2
    assert not features.start_rows(16, 0).any()
