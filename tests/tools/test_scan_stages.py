"""Two stages beside the exact scan: what is stated of them is what they do."""

from __future__ import annotations

import numpy as np
import pytest

from pocketrec_tools.scan_stages import DIM, stages, tables, two_stages


@pytest.mark.parametrize("spectrum", [False, True])
def test_with_every_row_a_candidate_two_stages_are_the_exact_scan(spectrum: bool) -> None:
    exact, coarse = tables(600, spectrum)
    for seed in range(5):
        query = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
        want = exact.best(query, 10)[0].tolist()
        for name, (search, _) in coarse.items():
            assert two_stages(exact, search, query, 600).tolist() == want, name


def test_more_candidates_find_more_and_the_exact_scan_finds_all() -> None:
    rows = {(row[0], row[1]): float(row[-1]) for row in stages(5000, False, [10, 1000], queries=10, rounds=1)}
    assert rows.pop(("exact", "")) == 1
    for name in ("int4", "64 dimensions", "signs"):
        few, many = rows[name, "10"], rows[name, "1,000"]
        assert few < many <= 1, name
    assert rows["int4", "1,000"] == 1
