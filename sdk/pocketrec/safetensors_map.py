"""A strict, zero-copy reader of safetensors (docs/bundle.md, section 3).

The `safetensors` package copies tensors and cannot read a region inside another file; a bundle may be a
stored ZIP, and its tables are to stay in the page cache. So the header is read here, checked, and every
tensor becomes an array over the caller's buffer. Stricter than the format asks: only the dtypes that a bundle
uses, no gaps, no overlaps, nothing after the last tensor.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import BundleError
from pocketrec.manifest import load_json

MAX_HEADER_BYTES = 1 << 20
MAX_TENSORS = 4096
MAX_RANK = 4

DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "I64": np.dtype("<i8"),
}

Tensors = dict[str, NDArray[Any]]


def map_tensors(buffer: memoryview, name: str) -> Tensors:
    """The tensors of the safetensors file that `buffer` holds, as read-only arrays over it, copying nothing.

    Args:
        buffer: the whole file, bytes.
        name: the file's name, for errors.

    Raises:
        BundleError: code `tensors-invalid`, naming the file, the tensor and the fault.
    """
    total = len(buffer)
    if total < 8:
        raise _fault(name, f"it has {total} bytes, too few for a header")
    header_bytes = int.from_bytes(buffer[:8], "little")
    if header_bytes > MAX_HEADER_BYTES:
        raise _fault(name, f"its header claims {header_bytes} bytes; at most {MAX_HEADER_BYTES} are allowed")
    if header_bytes > total - 8:
        raise _fault(name, f"its header claims {header_bytes} bytes, the file has {total}")
    header = load_json(bytes(buffer[8 : 8 + header_bytes]), f"the header of {name}")
    if not isinstance(header, dict):
        raise _fault(name, "its header is not an object")
    _check_metadata(header.pop("__metadata__", {}), name)
    if len(header) > MAX_TENSORS:
        raise _fault(name, f"it holds {len(header)} tensors; at most {MAX_TENSORS} are allowed")
    data = buffer[8 + header_bytes :]
    found: dict[str, tuple[int, int, np.dtype[Any], tuple[int, ...]]] = {}
    for tensor, entry in header.items():
        found[tensor] = _read_entry(entry, f"tensor {tensor!r}", name)
    _check_cover(found, len(data), name)
    tensors: Tensors = {}
    for tensor, (start, stop, dtype, shape) in found.items():
        array = np.frombuffer(data[start:stop], dtype=dtype).reshape(shape)
        array.flags.writeable = False
        tensors[tensor] = array
    return tensors


def _read_entry(entry: object, what: str, name: str) -> tuple[int, int, np.dtype[Any], tuple[int, ...]]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _fault(name, f"{what} must have exactly dtype, shape and data_offsets")
    dtype_name, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    dtype = DTYPES.get(dtype_name) if isinstance(dtype_name, str) else None
    if dtype is None:
        raise _fault(name, f"{what} has the dtype {dtype_name!r}; a bundle uses {', '.join(DTYPES)}")
    if not isinstance(shape, list) or len(shape) > MAX_RANK or not all(_natural(x) for x in shape):
        raise _fault(name, f"{what} has the shape {str(shape)[:60]}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_natural(x) for x in offsets):
        raise _fault(name, f"{what} has the offsets {str(offsets)[:60]}")
    start, stop = offsets
    expected = math.prod(shape) * dtype.itemsize
    if stop - start != expected:
        raise _fault(name, f"{what} of shape {shape} needs {expected} bytes and has {stop - start}")
    return start, stop, dtype, tuple(shape)


def _check_cover(
    found: dict[str, tuple[int, int, np.dtype[Any], tuple[int, ...]]], size: int, name: str
) -> None:
    """The tensors must follow each other without gap or overlap and end where the data ends."""
    end = 0
    for start, stop, tensor in sorted((entry[0], entry[1], key) for key, entry in found.items()):
        if start != end:
            kind = "overlaps the one before" if start < end else "leaves a gap before it"
            raise _fault(name, f"tensor {tensor!r} {kind}")
        end = stop
    if end != size:
        raise _fault(name, f"its tensors end at byte {end} of {size}")


def _check_metadata(metadata: object, name: str) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _fault(name, "__metadata__ must map text to text")


def _natural(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _fault(name: str, what: str) -> BundleError:
    return BundleError(
        f"{name}: {what}.", code="tensors-invalid", remedy="Get the bundle again, or build it again."
    )


def take(tensors: Tensors, name: str, tensor: str, dtype: str, shape: tuple[int | None, ...]) -> NDArray[Any]:
    """The tensor `tensor` when it has this dtype and shape (None is any length); BundleError otherwise.

    Args:
        tensors: what `map_tensors` gave for the file `name`.
        dtype: the safetensors name, such as "F32".
    """
    array = tensors.get(tensor)
    if array is None:
        raise _fault(name, f"the tensor {tensor!r} is missing")
    fits = len(array.shape) == len(shape) and all(
        want is None or want == have for want, have in zip(shape, array.shape, strict=True)
    )
    if array.dtype != DTYPES[dtype] or not fits:
        want_shape = ["any" if want is None else want for want in shape]
        raise _fault(
            name, f"the tensor {tensor!r} is {array.dtype} {list(array.shape)}, not {dtype} {want_shape}"
        )
    return array


def only(tensors: Tensors, name: str, allowed: set[str]) -> None:
    """Refuse a file with tensors other than `allowed`."""
    surplus = sorted(set(tensors) - allowed)
    if surplus:
        raise _fault(name, f"the tensors {surplus[:5]} do not belong there")
