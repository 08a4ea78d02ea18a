"""Rows and scores of the three schemes against the formulas of docs/bundle.md, sections 3 and 6, in plain
Python."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketrec.errors import BundleError, PocketrecError
from pocketrec.manifest import TableSpec
from pocketrec.quantise import quantise_rows_int4, quantise_rows_int8
from pocketrec.tables import Table, quantise_query

SCHEMES = ("fp32", "int8", "int4")


def make_table(rows: np.ndarray, scheme: Any) -> Table:
    if scheme == "fp32":
        tensors: dict[str, Any] = {"rows": rows}
    else:
        q, scale = quantise_rows_int8(rows) if scheme == "int8" else quantise_rows_int4(rows)
        tensors = {"q": q, "scale": scale}
    n, d = rows.shape
    return Table(TableSpec(file="items.safetensors", rows=n, dim=d, scheme=scheme), tensors)


def random_rows(n: int, d: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def score_by_definition(table: Table, tensors: dict[str, Any], i: int, query: np.ndarray) -> np.float32:
    """Section 6 for one row, with Python's integers."""
    if table.scheme == "fp32":
        products = [float(a) * float(b) for a, b in zip(query, tensors["rows"][i], strict=True)]
        return np.float32(sum(products))
    t, u = quantise_query(query)
    u_int = [int(x) for x in u]
    q, scale = tensors["q"][i], tensors["scale"][i]
    if table.scheme == "int8":
        total = sum(a * int(b) for a, b in zip(u_int, q, strict=True))
        return np.float32(total) * (t * scale)
    outer = 0.0
    for g in range(len(scale)):
        inner = 0
        for j in range(32 * g, 32 * g + 32):
            nibble = (int(q[j // 2]) >> 4) if j % 2 else (int(q[j // 2]) & 15)
            inner += u_int[j] * (nibble - 8)
        outer += float(scale[g]) * inner
    return np.float32(outer) * t


@pytest.mark.parametrize("scheme", SCHEMES)
@given(n=st.integers(1, 40), groups=st.integers(1, 4), seed=st.integers(0, 2**32 - 1), zeros=st.booleans())
def test_scores_are_those_of_the_definition(scheme: str, n: int, groups: int, seed: int, zeros: bool) -> None:
    d = 32 * groups
    rows = random_rows(n, d, seed)
    if zeros:
        rows[0] = 0
    table = make_table(rows, scheme)
    query = random_rows(1, d, seed + 1)[0]
    tensors = {"rows": table._q} if scheme == "fp32" else {"q": table._q, "scale": table._scale}
    got = table.scores(query)
    assert got.dtype == np.float32
    want = [score_by_definition(table, tensors, i, query) for i in range(n)]
    if scheme == "fp32":
        np.testing.assert_allclose(
            got, want, rtol=1e-6, atol=1e-6
        )  # the definition above adds in another order
    else:
        assert got.tolist() == [float(w) for w in want]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_subset_has_the_scores_of_the_whole_also_across_blocks(scheme: str) -> None:
    rows = random_rows(9000, 64, 3)  # several blocks of the scan
    table = make_table(rows, scheme)
    query = random_rows(1, 64, 4)[0]
    whole = table.scores(query)
    subset = np.random.default_rng(5).permutation(9000)[:8500]
    assert table.scores(query, subset).tolist() == whole[subset].tolist()
    assert table.scores(query, np.array([], dtype=np.int64)).tolist() == []


@pytest.mark.parametrize("d", [32, 1024, 1056, 4096])
def test_int8_sums_stay_exact_at_the_largest_values(d: int) -> None:
    """Every product at its largest: 1,024 is the widest that float32 can add, wider ones must not lose a
    unit."""
    q = np.full((2, d), -127, dtype=np.int8)
    q[0] = -128
    q[1, 0] = 126
    spec = TableSpec(file="items.safetensors", rows=2, dim=d, scheme="int8")
    table = Table(spec, {"q": q, "scale": np.ones(2, dtype=np.float32)})
    query = np.full(d, 127, dtype=np.float32)  # t = 1, u = 127
    expected = [-128 * 127 * d, 127 * (126 - 127 * (d - 1))]
    assert table.scores(query).tolist() == [float(np.float32(value)) for value in expected]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_rows_are_what_was_quantised(scheme: str) -> None:
    rows = random_rows(20, 64, 7)
    table = make_table(rows, scheme)
    got = table.rows(np.array([3, 3, 0]))
    assert got.dtype == np.float32
    step = {"fp32": 0.0, "int8": 1 / 127, "int4": 1 / 7}[scheme]
    largest = np.abs(rows[[3, 3, 0]]).max(axis=1, keepdims=True)
    assert (np.abs(got - rows[[3, 3, 0]]) <= largest * step * 0.51 + 1e-3 * (scheme == "int4")).all()
    assert (got[0] == got[1]).all()
    np.testing.assert_allclose(table.norms()[[3, 0]], np.linalg.norm(got[1:], axis=1), rtol=1e-6)


def test_a_query_of_zeros_and_a_tiny_one_give_scores() -> None:
    table = make_table(random_rows(5, 32, 1), "int8")
    assert table.scores(np.zeros(32, dtype=np.float32)).tolist() == [0.0] * 5
    tiny = np.zeros(32, dtype=np.float32)
    tiny[0] = 1e-45  # its 127th part is 0 in float32
    assert np.isfinite(table.scores(tiny)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_query_that_is_not_finite_is_an_error(bad: float) -> None:
    query = np.zeros(32, dtype=np.float32)
    query[5] = bad
    with pytest.raises(PocketrecError) as caught:
        make_table(random_rows(5, 32, 1), "int8").scores(query)
    assert caught.value.code == "query-invalid"


def test_scores_that_overflow_are_an_error() -> None:
    q = np.full((1, 32), 127, dtype=np.int8)
    spec = TableSpec(file="items.safetensors", rows=1, dim=32, scheme="int8")
    table = Table(spec, {"q": q, "scale": np.array([3e38], dtype=np.float32)})
    with pytest.raises(PocketrecError) as caught:
        table.scores(np.full(32, 1e5, dtype=np.float32))
    assert caught.value.code == "scores-invalid"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_bad_scales_are_refused(scheme: Any, bad: float) -> None:
    rows = random_rows(4, 32, 1)
    q, scale = quantise_rows_int8(rows) if scheme == "int8" else quantise_rows_int4(rows)
    scale.flat[2] = bad
    spec = TableSpec(file="items.safetensors", rows=4, dim=32, scheme=scheme)
    with pytest.raises(BundleError) as caught:
        Table(spec, {"q": q, "scale": scale})
    assert caught.value.code == "values-invalid"


def test_many_threads_scan_one_table() -> None:
    table = make_table(random_rows(3000, 32, 2), "int8")
    queries = random_rows(8, 32, 9)
    want = [table.scores(query).tolist() for query in queries]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(20):
            if table.scores(queries[index]).tolist() != want[index]:
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
