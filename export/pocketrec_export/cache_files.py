"""The files of a teacher cache (see `cache`): `meta.json`, replaced in one step, and arrays, mapped."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pocketrec.errors import DataError

FORMAT, VERSION = "pocketrec-teacher-cache", 1
META = "meta.json"
Dtype = Literal["float16", "float32"]
_FILL_BYTES = 16 << 20


@dataclass(frozen=True)
class Meta:
    """The contents of meta.json."""

    key: str
    n: int
    k: int
    items: int
    dtype: Dtype
    teacher: str
    chunks: int = 0
    rows: int = 0
    complete: bool = False

    def differences(self, job: Meta) -> str:
        """What `job` has otherwise, in words; empty when both are one job, however far each is."""
        named = ("key", "n", "k", "items", "dtype", "teacher")
        pairs = [(name, getattr(self, name), getattr(job, name)) for name in named]
        return ", ".join(f"{name} {here!r} instead of {want!r}" for name, here, want in pairs if here != want)

    def files(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shape and dtype of each array."""
        return {
            "ids": ((self.n, self.k), np.dtype(np.int32)),
            "log_probs": ((self.n, self.k), np.dtype(self.dtype)),
            "target_rank": ((self.n,), np.dtype(np.int32)),
            "target_log_prob": ((self.n,), np.dtype(np.float32)),
        }


def read_meta(path: Path) -> Meta:
    try:
        values = json.loads((path / META).read_text(encoding="utf-8"))
        if values.pop("format") != FORMAT or values.pop("version") != VERSION:
            raise ValueError(f"not {FORMAT} version {VERSION}")
        return Meta(**values)
    except FileNotFoundError:
        raise DataError(
            f"{path}: there is no teacher cache here.", code="cache-missing", remedy="Write one first."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path / META, error) from None


def _damaged(path: Path, error: object) -> DataError:
    return DataError(
        f"{path}: {error}.", code="cache-damaged", remedy="Remove the directory and write it again."
    )


def write_meta(path: Path, meta: Meta) -> None:
    """Replace meta.json in one step that survives a power cut."""
    new = path / f"{META}.new"
    with open(new, "w", encoding="utf-8") as file:
        json.dump({"format": FORMAT, "version": VERSION, **asdict(meta)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path / META)
    _sync_directory(path)


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def map_arrays(path: Path, meta: Meta, mode: Literal["r", "r+"]) -> dict[str, np.memmap]:
    arrays = {}
    for name, (shape, dtype) in meta.files().items():
        file = path / f"{name}.npy"
        try:
            array = np.load(file, mmap_mode="r", allow_pickle=False)  # "r+" would make up what a file lacks
        except (OSError, ValueError) as error:
            raise _damaged(file, error) from None
        if array.shape != shape or array.dtype != dtype:
            raise _damaged(file, f"{array.dtype} {list(array.shape)} instead of {dtype} {list(shape)}")
        arrays[name] = array if mode == "r" else np.load(file, mmap_mode=mode, allow_pickle=False)
    return arrays


def create_arrays(path: Path, meta: Meta) -> dict[str, np.memmap]:
    """Empty arrays, then the record that there are some; other files of the directory are left alone."""
    path.mkdir(parents=True, exist_ok=True)
    (path / META).unlink(missing_ok=True)
    _sync_directory(path)
    arrays: dict[str, np.memmap] = {}
    for name, (shape, dtype) in meta.files().items():
        file = path / f"{name}.npy"
        arrays[name] = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
        if hasattr(os, "posix_fallocate"):  # a full disk must be an error here, not a signal while mapped
            with open(file, "r+b") as handle:
                os.posix_fallocate(handle.fileno(), 0, os.path.getsize(file))
    block = max(1, _FILL_BYTES // (4 * meta.k))
    for start in range(0, meta.n, block):
        arrays["ids"][start : start + block] = -1
    for array in arrays.values():
        array.flush()
    write_meta(path, meta)
    return arrays
