"""The scan: whatever reads the table, the scores and the best are those of the definition, to the bit."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pocketrec import scan, scan_packed, tables
from pocketrec.errors import PocketrecError
from pocketrec.manifest import TableSpec
from pocketrec.quantise import GROUP, pack_nibbles, unpack_nibbles
from pocketrec.ranking import Best, Part
from pocketrec.scan import MappedScan, Query
from pocketrec.scan_packed import Segment, packing
from pocketrec.tables import Table
from support import require_package

WIDTHS = (32, 96, 128, 256, 288, 512)


def raw_table(scheme: str, n: int, d: int, seed: int, kind: str = "any") -> dict[str, Any]:
    """Tensors with integers over the whole range of the type; `kind`: any, extreme, or few distinct rows."""
    rng = np.random.default_rng(seed)
    if scheme == "fp32":
        return {"rows": rng.normal(size=(n, d)).astype(np.float32)}
    low, high = (-128, 127) if scheme == "int8" else (-8, 7)
    q = rng.integers(low, high + 1, (n, d)).astype(np.int8)
    if kind == "extreme":
        q = np.where(q < 0, low, high).astype(np.int8)
    groups = () if scheme == "int8" else (d // GROUP,)
    scale = np.exp(rng.normal(size=(n, *groups)))
    if kind == "few":
        q, scale = q[rng.integers(0, min(3, n), n)], np.ones((n, *groups))
    if scheme == "int8":
        return {"q": q, "scale": scale.astype(np.float32)}
    return {"q": pack_nibbles(q), "scale": scale.astype(np.float16)}


def table_of(scheme: Any, tensors: dict[str, Any], d: int) -> Table:
    n = len(next(iter(tensors.values())))
    return Table(TableSpec(file="items.safetensors", rows=n, dim=d, scheme=scheme), tensors)


def by_definition(scheme: str, tensors: dict[str, Any], query: np.ndarray) -> np.ndarray:
    """Section 6 with 64-bit integers; float32 [n]."""
    asked = Query.of(query)
    u = asked.u.astype(np.int64)
    if scheme == "fp32":
        return np.vecdot(tensors["rows"].astype(np.float64), query.astype(np.float64)).astype(np.float32)
    if scheme == "int8":
        sums = (tensors["q"].astype(np.int64) @ u).astype(np.float32)
        return np.asarray(sums * (asked.t * tensors["scale"]))
    q = unpack_nibbles(tensors["q"]).astype(np.int64)
    inner = (q * u).reshape(len(q), -1, GROUP).sum(axis=2)
    outer = (inner * tensors["scale"].astype(np.float64)).sum(axis=1)
    return np.asarray(outer.astype(np.float32) * asked.t)


def sorted_best(scores: np.ndarray, k: int, allowed: np.ndarray) -> list[tuple[int, float]]:
    order = sorted(allowed.tolist(), key=lambda i: (-scores[i], i))[:k]
    return [(i, float(scores[i])) for i in order]


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "SEGMENT_BYTES", 1 << 17)


@pytest.fixture
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_packed, "SMALL", 0)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), how=st.sampled_from(["mapped", "packed", "auto"]), seed=st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("scheme", ["fp32", "int8", "int8, large", "int4"])
def test_the_best_are_the_head_of_all_scores_sorted(
    scheme: str, data: st.DataObject, how: Any, seed: int, request: pytest.FixtureRequest
) -> None:
    if scheme.endswith("large"):
        request.getfixturevalue("everything_is_large")
        scheme = "int8"
    d = data.draw(st.sampled_from(WIDTHS))
    n = data.draw(st.sampled_from([1, 255, 256, 257, 3000]))
    k = data.draw(st.sampled_from([1, 10, 300, 4000]))
    tensors = raw_table(scheme, n, d, seed, data.draw(st.sampled_from(["any", "extreme", "few"])))
    table = table_of(scheme, tensors, d)
    table.use(how)
    rng = np.random.default_rng(seed)
    query = (rng.normal(size=d) * rng.choice([0, 1e-3, 1, 50])).astype(np.float32)
    want = by_definition(scheme, tensors, query)
    banned = np.flatnonzero(rng.random(n) < data.draw(st.sampled_from([0.0, 0.01, 0.9])))
    allowed = np.setdiff1d(np.arange(n), banned)
    for _ in range(3):  # "auto" packs in between
        positions, scores = table.best(query, k, banned=banned)
        assert list(zip(positions.tolist(), scores.tolist(), strict=True)) == sorted_best(want, k, allowed)
    among = np.flatnonzero(rng.random(n) < data.draw(st.sampled_from([0.0, 0.02, 0.8])))
    positions, scores = table.best(query, k, banned=banned, among=among)
    left = np.intersect1d(allowed, among)
    assert list(zip(positions.tolist(), scores.tolist(), strict=True)) == sorted_best(want, k, left)
    assert table.scores(query).tolist() == want.tolist()
    position = int(rng.integers(n))
    row, lengths = table.rows(np.array([position]))[0], table.norms()
    per = lengths * lengths[position]
    cosine = np.divide(by_definition(scheme, tensors, row), per, out=np.zeros_like(per), where=per > 0)
    positions, scores = table.nearest(position, k, banned=banned)
    assert list(zip(positions.tolist(), scores.tolist(), strict=True)) == sorted_best(cosine, k, allowed)


@pytest.mark.parametrize("d", WIDTHS)
@pytest.mark.parametrize("how", ["int8", "upper", "int4"])
@pytest.mark.parametrize("kind", ["any", "extreme"])
def test_no_score_is_above_its_bound(how: Any, d: int, kind: str) -> None:
    scheme = "int4" if how == "int4" else "int8"
    tensors = raw_table(scheme, 500, d, d, kind)
    segment = Segment(how, tensors["q"], tensors["scale"])
    assert segment.exact == (how == "int8" and d <= 256)
    rng = np.random.default_rng(d)
    for query in (rng.normal(size=d), np.full(d, -3.0), rng.choice([-1.0, 1.0], d), rng.normal(size=d) ** 5):
        asked = Query.of(query.astype(np.float32))
        out = np.empty(500, dtype=np.float32)
        segment.bounds(asked, out)
        want = by_definition(scheme, tensors, asked.exact)
        if segment.exact:
            assert out.tolist() == want.tolist()
        else:
            bounds = float(asked.t) * out.astype(np.float64)
            assert (want <= bounds + 2.0**-20 * np.abs(bounds)).all()


@pytest.mark.parametrize("d", [32, 128, 256])
def test_the_bounds_of_upper_bits_are_no_wider_than_they_say(d: int) -> None:
    """So that few rows are scored twice: at most twice Cauchy–Schwarz above the score."""
    tensors = raw_table("int8", 500, d, d)
    segment = Segment("upper", tensors["q"], np.ones(500, dtype=np.float32))
    asked = Query.of(np.random.default_rng(d).normal(size=d).astype(np.float32))
    out = np.empty(500, dtype=np.float32)
    segment.bounds(asked, out)
    rest = np.linalg.norm((tensors["q"] & 15) - 7.5, axis=1).max()
    over = out.astype(np.float64) - tensors["q"].astype(np.int64) @ asked.u.astype(np.int64)
    assert over.min() >= 0
    assert over.max() <= 2 * np.linalg.norm(asked.u) * rest * (1 + 1e-6)


def test_how_a_table_is_packed() -> None:
    assert packing("int8", 256, 12_000) == "int8", "ONNX Runtime's MatMulNBits does not add as it should here"
    assert packing("int8", 128, 200_000) == "upper"
    assert packing("int8", 512, 100) == "upper"  # a row of two blocks has no exact scores
    assert packing("int4", 128, 100) == "int4"
    assert packing("fp32", 128, 100) is None


def test_few_rows_of_a_large_table_are_scored_twice(everything_is_large: None) -> None:
    """What the bounds are for; the part of rows falls as tables grow."""
    table = table_of("int8", raw_table("int8", 40_000, 128, 0), 128)
    table.use("packed")
    scored: list[int] = []
    exact = table._scores
    table._scores = lambda query, subset: scored.append(len(subset)) or exact(query, subset)  # type: ignore
    for query in np.random.default_rng(1).normal(size=(10, 128)).astype(np.float32):
        table.best(query, 10)
    assert sum(scored) < 10 * 40_000 * 0.1


@pytest.mark.parametrize("d", [32, 128, 1024])
def test_simsimd_and_numpy_give_the_same_scores(d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    require_package("simsimd")
    tensors = raw_table("int8", 3000, d, 1, "extreme")
    query = Query.of(np.full(d, 127, dtype=np.float32))
    with_it = MappedScan("int8", tensors["q"], tensors["scale"], 3000, d)
    assert with_it._simsimd is not None
    monkeypatch.setattr(scan, "find_simsimd", lambda: None)
    without = MappedScan("int8", tensors["q"], tensors["scale"], 3000, d)
    a, b = np.empty((2, 2500), dtype=np.float32)
    with_it.scores(query, slice(500, 3000), a)
    without.scores(query, slice(500, 3000), b)
    assert a.tolist() == b.tolist()


def test_auto_packs_bit_by_bit_and_mapped_lets_go_again() -> None:
    table = table_of("int8", raw_table("int8", 3000, 128, 0), 128)
    query = np.ones(128, dtype=np.float32)
    seen = []
    for _ in range(5):
        table.best(query, 10)
        seen.append(table.packed_rows)
    assert seen == [0, 1024, 2048, 3000, 3000]
    table.use("mapped")
    assert table.packed_rows == 0
    table.best(query, 10)
    table.best(query, 10)
    assert table.packed_rows == 0
    table.use("packed")
    assert table.packed_rows == 3000
    with pytest.raises(PocketrecError, match="no scan"):
        table.use("fast")  # type: ignore[arg-type]


def test_a_table_too_large_for_the_memory_stays_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of("int8", raw_table("int8", 3000, 128, 0), 128)
    monkeypatch.setattr(tables, "_memory", lambda: 4 * 3000 * 128 - 1)
    for _ in range(3):
        table.best(np.ones(128, dtype=np.float32), 10)
    assert table.packed_rows == 0


@pytest.mark.parametrize("how", ["mapped", "packed"])
@pytest.mark.parametrize("scheme", ["fp32", "int8", "int4"])
def test_a_best_that_overflows_is_an_error(scheme: str, how: Any) -> None:
    tensors = raw_table(scheme, 300, 4096, 0, "extreme")
    tensors["rows" if scheme == "fp32" else "scale"][:] = 6e4
    table = table_of(scheme, tensors, 4096)
    table.use(how)
    query = np.full(4096, 3e38, dtype=np.float32)
    query[1::2] = 1e38
    with pytest.raises(PocketrecError) as caught:
        table.best(query, 10)
    assert caught.value.code == "scores-invalid"


def test_threads_that_rank_while_a_table_is_packed() -> None:
    table = table_of("int4", raw_table("int4", 5000, 64, 3), 64)
    queries = np.random.default_rng(4).normal(size=(6, 64)).astype(np.float32)
    fresh = table_of("int4", raw_table("int4", 5000, 64, 3), 64)
    fresh.use("mapped")
    want = [fresh.best(query, 10)[0].tolist() for query in queries]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(15):
            if table.best(queries[index], 10)[0].tolist() != want[index]:
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert table.packed_rows == 5000


VALUES = st.sampled_from([-3.0, -0.0, 0.0, 1.0, 2.5])


@given(parts=st.lists(st.lists(VALUES, min_size=1, max_size=700), max_size=4), k=st.integers(1, 20))
def test_best_of_parts(parts: list[list[float]], k: int) -> None:
    best, start = Best(k), 0
    for values in parts:
        true = np.array(values, dtype=np.float32)
        part = Part(true)
        found = part.reaching(max(best.floor, part.floor(k)))
        best.add(found + start, true[found])
        start += len(true)
    everything = np.array([score for part in parts for score in part], dtype=np.float32)
    positions, scores = best.result()
    want = sorted_best(everything, k, np.arange(len(everything)))
    assert list(zip(positions.tolist(), scores.tolist(), strict=True)) == want


@settings(deadline=None, max_examples=30)
@given(
    n=st.sampled_from([1, 255, 256, 5000, 33_000, 40_001]), k=st.integers(1, 600), seed=st.integers(0, 999)
)
def test_a_part_finds_what_reaches_a_border(n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=n).astype(np.float32)
    values[rng.random(n) < 0.3] = -np.inf
    part = Part(values)
    floor = part.floor(k)
    assert floor == -np.inf if n <= k else np.count_nonzero(values >= floor) >= k
    for border in (floor, 0.0, 2.5, 9.0):
        want = np.flatnonzero((values >= border) & np.isfinite(values))
        assert part.reaching(border).tolist() == want.tolist()
