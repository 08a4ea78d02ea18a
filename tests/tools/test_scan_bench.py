"""The benchmark of the scan: every way of ours answers, the figures add up, and the page takes them in."""

from __future__ import annotations

from pathlib import Path

from pocketrec_tools import scan_bench_worker as worker
from pocketrec_tools.bench_report import write_between
from pocketrec_tools.scan_bench import keep_found, page, scan_bench


def test_every_way_of_ours_is_measured_and_finds_the_same_ten(tmp_path: Path) -> None:
    asked = [way for way in worker.WAYS if not way.startswith(("faiss", "usearch"))]
    found = scan_bench(tmp_path, [500], runs=2, rounds=2, ways=asked)
    ways = found[500]
    assert list(ways) == asked
    for way, figure in ways.items():
        assert len(figure.ms) == 2 * 2 * 10, way
        assert len(figure.run_ms) == 2
        assert min(figure.ms) > 0
        assert figure.held_bytes >= 0
        if "int8" in way:
            assert figure.overlap is not None
            assert figure.overlap > 0.9, "an 8-bit query finds nearly what a float one does"
    assert ways["int8 packed"].overlap == ways["int8 mapped, numpy"].overlap
    assert ways["numpy float32"].overlap == 1
    assert not list(tmp_path.glob("*.npy")), "the tables are removed again"

    file = tmp_path / "found.json"
    keep_found(file, {7: found[500], 500: found[500]}, 1, "the first command")
    text = page(keep_found(file, found, 2, "the second command"))
    assert text.index("### 7 rows") < text.index("the first command") < text.index("### 500 rows")
    assert text.count("the first command") == text.count("the second command") == 1
    assert "Left out: faiss flat, faiss SQ8, usearch int8." in text
    target = tmp_path / "page.md"
    target.write_text("before\n<!-- measured -->\nold\n<!-- end -->\nafter\n")
    write_between(target, text)
    written = target.read_text()
    assert written.startswith("before\n<!-- measured -->\n")
    assert written.endswith("<!-- end -->\nafter\n")
    assert "old" not in written
    assert "| int8 packed | " in written
