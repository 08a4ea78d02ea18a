"""The teacher cache: what is written is read back, and a killed writer leaves nothing that misleads."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pocketrec.errors import DataError
from pocketrec_export.cache import CacheWriter, TeacherCache

N, K, ITEMS, CHUNKS = 20, 3, 9, 4
Arrays = dict[str, np.ndarray]


def lists(seed: int, m: int, k: int = K, items: int = ITEMS) -> Arrays:
    """What a teacher might say about m events; some lists are short, some empty."""
    rng = np.random.default_rng(seed)
    length = rng.integers(0, k + 1, m)
    past = np.arange(k) >= length[:, None]
    ids = np.argsort(rng.random((m, items)), axis=1)[:, :k]
    log_probs = -np.sort(rng.exponential(3, (m, k)), axis=1)
    return {
        "ids": np.where(past, -1, ids),
        "log_probs": np.where(past, -np.inf, log_probs).astype(np.float32),
        "target_rank": np.where(length > 0, rng.integers(1, items + 1, m), 0),
        "target_log_prob": -rng.exponential(5, m).astype(np.float32),
    }


def rows_of(chunk: int) -> np.ndarray:
    """The events of a chunk: every second one, newest first; the others stay unwritten."""
    return np.arange(N).reshape(CHUNKS, -1)[chunk][::-2]


def write(path: Path, stop: int = CHUNKS, **options: Any) -> CacheWriter:
    """Go on with the cache at `path` until `stop` chunks are done."""
    writer = CacheWriter.open(path, N, K, ITEMS, **{"key": "abc", **options})
    for chunk in range(writer.done, stop):
        writer.write(chunk, rows_of(chunk), **lists(chunk, len(rows_of(chunk))))
    if stop == CHUNKS:
        writer.finish()
    return writer


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}


def refused(code: str, *words: str) -> Any:
    """Expects a DataError of this code that holds these words."""
    pattern = "".join(f"(?=[\\s\\S]*{word})" for word in words) or None
    return pytest.raises(DataError, match=pattern, check=lambda error: error.code == code)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 5e-3), ("float32", 0)])
def test_what_is_written_is_read(tmp_path: Path, dtype: str, tolerance: float) -> None:
    write(tmp_path / "cache", dtype=dtype, teacher="a wide one")
    cache = TeacherCache.open(tmp_path / "cache", key="abc")
    assert (cache.n, cache.k, cache.items, cache.key, cache.teacher) == (N, K, ITEMS, "abc", "a wide one")
    for chunk in range(CHUNKS):
        said = lists(chunk, len(rows_of(chunk)))
        batch = cache.batch(torch.from_numpy(rows_of(chunk).copy()))
        assert batch.index.tolist() == rows_of(chunk).tolist()
        assert batch.ids.dtype == batch.target_rank.dtype == batch.index.dtype == torch.int64
        assert batch.log_probs.dtype == batch.target_log_prob.dtype == torch.float32
        assert np.array_equal(batch.ids, said["ids"])
        assert np.array_equal(batch.target_rank, said["target_rank"])
        assert np.array_equal(batch.target_log_prob, said["target_log_prob"])
        there = said["ids"] >= 0
        np.testing.assert_allclose(batch.log_probs[there], said["log_probs"][there], rtol=tolerance)
        assert (batch.log_probs[~there] == 0).all()
        assert sorted(batch.items(2).tolist()) == sorted(said["ids"][:, :2][there[:, :2]].tolist())


def test_events_nobody_wrote_say_nothing(tmp_path: Path) -> None:
    write(tmp_path)
    unwritten = np.setdiff1d(np.arange(N), np.concatenate([rows_of(chunk) for chunk in range(CHUNKS)]))
    batch = TeacherCache.open(tmp_path).batch(unwritten)
    assert (batch.ids == -1).all()
    assert (batch.target_rank == 0).all()
    assert len(batch.items()) == 0


def test_files_are_what_the_page_says(tmp_path: Path) -> None:
    write(tmp_path)
    assert sorted(contents(tmp_path)) == [
        "ids.npy", "log_probs.npy", "meta.json", "target_log_prob.npy", "target_rank.npy",
    ]  # fmt: skip
    kinds = {
        name: (array.dtype, array.shape)
        for name in ("ids", "log_probs", "target_rank", "target_log_prob")
        for array in [np.load(tmp_path / f"{name}.npy")]
    }
    assert kinds == {
        "ids": (np.int32, (N, K)),
        "log_probs": (np.float16, (N, K)),
        "target_rank": (np.int32, (N,)),
        "target_log_prob": (np.float32, (N,)),
    }
    assert json.loads((tmp_path / "meta.json").read_text()) == {
        "format": "pocketrec-teacher-cache", "version": 1, "key": "abc", "n": N, "k": K, "items": ITEMS,
        "dtype": "float16", "teacher": "", "chunks": CHUNKS,
        "rows": sum(len(rows_of(chunk)) for chunk in range(CHUNKS)), "complete": True,
    }  # fmt: skip


def test_log_probabilities_beyond_float16_stay_numbers(tmp_path: Path) -> None:
    writer = CacheWriter.open(tmp_path, 1, 2, 5, "abc")
    writer.write(0, [0], [[3, 1]], [[-1.0, -1e6]], [1], [-1.0])
    writer.finish()
    assert TeacherCache.open(tmp_path).batch(np.array([0])).log_probs.tolist() == [[-1.0, -65504.0]]


@given(stop=st.integers(0, CHUNKS))
def test_stopped_and_resumed_is_byte_for_byte_the_same(
    tmp_path_factory: pytest.TempPathFactory, stop: int
) -> None:
    whole, parts = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("parts")
    write(whole)
    assert write(parts, stop).done == stop
    resumed = write(parts)
    assert resumed.complete
    assert not resumed.notice
    assert contents(parts) == contents(whole)


KILLED_ALONG_THE_WAY = """
import os, shutil, signal, sys
from pathlib import Path
from test_cache import contents, write

FILES = ("cache.py", "cache_files.py")
base = Path(sys.argv[1])
write(base / "whole")
expected = contents(base / "whole")

def run_and_die(path, line):
    left = line
    def local(frame, event, _):
        nonlocal left
        if event == "line":
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return local
    sys.settrace(lambda frame, *_: local if frame.f_code.co_filename.endswith(FILES) else None)
    write(path)
    os._exit(0)

line = 0
while True:
    path = base / "killed"
    child = os.fork()
    if child == 0:
        run_and_die(path, line)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status):
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert not write(path).notice, line
    assert contents(path) == expected, line
    shutil.rmtree(path)
    line += int(sys.argv[2])
print(line)
"""


def run_script(code: str, *arguments: object) -> subprocess.Popen[str]:
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), *filter(None, sys.path)])}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True, env=environment
    )


def test_wherever_it_is_killed_the_next_run_ends_with_the_same_bytes(tmp_path: Path) -> None:
    process = run_script(KILLED_ALONG_THE_WAY, tmp_path, 13)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0
    assert int(output) > 300  # lines of the writer; it was killed at every thirteenth


SLOW_WRITER = """
import sys, time
from pathlib import Path
from test_cache import CHUNKS, write

for chunk in range(1, CHUNKS):
    write(Path(sys.argv[1]), chunk)
    print(chunk, flush=True)
time.sleep(600)
"""


def test_kill_9_from_outside(tmp_path: Path) -> None:
    process = run_script(SLOW_WRITER, tmp_path / "killed")
    assert process.stdout is not None
    assert [process.stdout.readline().strip() for _ in range(2)] == ["1", "2"]
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL
    process.stdout.close()
    with refused("cache-unfinished", "goes on where it stopped"):
        TeacherCache.open(tmp_path / "killed")
    resumed = CacheWriter.open(tmp_path / "killed", N, K, ITEMS, "abc")
    assert resumed.done >= 2
    write(tmp_path / "killed")
    write(tmp_path / "whole")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    "other",
    [{"key": "xyz"}, {"dtype": "float32"}, {"teacher": "another"}],
    ids=lambda other: next(iter(other)),
)
def test_another_job_starts_over_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, other: dict[str, Any]
) -> None:
    write(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    writer = CacheWriter.open(tmp_path, N, K, ITEMS, **{"key": "abc", **other})
    assert (writer.done, writer.complete) == (0, False)
    name, value = next(iter(other.items()))
    assert f"instead of {value!r}" in writer.notice
    assert f"has {name}" in writer.notice
    assert "started over" in writer.notice
    assert writer.notice in caplog.text
    with refused("cache-unfinished"):
        TeacherCache.open(tmp_path)
    write(tmp_path, **other)
    fresh = tmp_path / "fresh"
    write(fresh, **other)
    assert contents(fresh).items() <= contents(tmp_path).items()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def damage(path: Path, how: str) -> None:
    ids, meta = path / "ids.npy", path / "meta.json"
    if how == "truncated":
        ids.write_bytes(ids.read_bytes()[:-1])
    elif how == "missing":
        ids.unlink()
    elif how == "shape":
        np.save(ids, np.zeros((N, K + 1), np.int32))
    elif how == "json":
        meta.write_text(meta.read_text()[:-5])
    elif how == "list":
        meta.write_text("[]")
    else:
        meta.write_text(meta.read_text().replace('"version": 1', '"version": 2'))


DAMAGES = ["truncated", "missing", "shape", "json", "list", "version"]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_cache_is_refused_and_started_over(tmp_path: Path, how: str) -> None:
    write(tmp_path)
    good = contents(tmp_path)
    damage(tmp_path, how)
    with refused("cache-damaged", "write it again"):
        TeacherCache.open(tmp_path)
    assert "of no use" in write(tmp_path).notice
    assert contents(tmp_path) == good


def test_a_missing_or_foreign_cache_is_refused(tmp_path: Path) -> None:
    with refused("cache-missing", "nowhere"):
        TeacherCache.open(tmp_path / "nowhere")
    write(tmp_path)
    with refused("cache-foreign", "'abc'", "'xyz'"):
        TeacherCache.open(tmp_path, key="xyz")
    for outside in ([N], [-1]):
        with refused("cache-foreign", f"{N} rows"):
            TeacherCache.open(tmp_path).batch(np.array(outside))


GOOD: dict[str, Any] = {
    "ids": [[4, 2, 0], [1, -1, -1]],
    "log_probs": [[-1, -2, -3], [-1, 0, 0]],
    "target_rank": [2, 7],
    "target_log_prob": [-2, -9],
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rows": [0, N]}, "row outside"),
        ({"ids": [[4, 2, 0], [ITEMS, -1, -1]]}, "item outside"),
        ({"ids": [[4, 2, 0], [1, -1, 3]]}, "behind the end"),
        ({"ids": [[4, 2, 0], [1, 1, -1]]}, "item twice"),
        ({"log_probs": [[-1, -2, -3], [np.nan, 0, 0]]}, "is no number"),
        ({"ids": [[4, 2, 0], [1, 2, -1]]}, "grow along"),
        ({"target_rank": [2, ITEMS + 1]}, "target rank outside"),
        ({"target_rank": [2, 0]}, "without a list"),
        ({"target_log_prob": [-2, -np.inf]}, "target log-probability"),
    ],
)
def test_what_no_teacher_can_mean_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    writer = CacheWriter.open(tmp_path, N, K, ITEMS, "abc")
    values = {"rows": [0, 5], **GOOD, **change}
    with refused("cache-rows", words, f"row {values['rows'][1]}"):
        writer.write(0, **values)
    assert writer.done == 0
    writer.write(0, **{"rows": [0, 5], **GOOD})
    assert writer.done == 1


def test_misuse_is_refused(tmp_path: Path) -> None:
    writer = CacheWriter.open(tmp_path, N, K, ITEMS, "abc")
    with pytest.raises(ValueError, match="chunk 1 of a cache with 0"):
        writer.write(1, [0, 5], **GOOD)
    with pytest.raises(ValueError, match="shape"):
        writer.write(0, [0], **GOOD)
    writer.finish()
    with pytest.raises(ValueError, match="complete"):
        writer.write(0, [0, 5], **GOOD)
    with pytest.raises(ValueError, match="k = 10"):
        CacheWriter.open(tmp_path, N, ITEMS + 1, ITEMS, "abc")


def test_a_disk_that_is_too_small_is_an_error(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))  # a full disk that ends with this test
    try:
        with refused("cache-disk", "teacher.top_k"):
            CacheWriter.open(tmp_path, 10_000, 100, 1000, "abc")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert CacheWriter.open(tmp_path, N, K, ITEMS, "abc").done == 0


def test_arrays_stay_on_the_disk(tmp_path: Path) -> None:
    n, k = 100_000, 50
    tracemalloc.start()
    try:
        writer = CacheWriter.open(tmp_path, n, k, 1000, "abc")
        rows = np.arange(0, n, n // 100)
        writer.write(0, rows, **lists(1, len(rows), k, 1000))
        writer.finish()
        batch = TeacherCache.open(tmp_path).batch(rows)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.array_equal(batch.ids, lists(1, len(rows), k, 1000)["ids"])
    assert peak < (tmp_path / "ids.npy").stat().st_size / 10
