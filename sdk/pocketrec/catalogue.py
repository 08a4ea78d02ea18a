"""The catalogue: item ids, display columns and prior over memory maps (docs/bundle.md, section 7).

Nothing is parsed at the start. An id is found by binary search through `item_id.order`; a list of ids by one
binary search for all of them at once, in numpy.
"""

from __future__ import annotations

import bisect
import codecs
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import BundleError
from pocketrec.events import MAX_ID_BYTES
from pocketrec.manifest import RENAMED, RETIRED
from pocketrec.ranking import distinct
from pocketrec.safetensors_map import Tensors, only, take
from pocketrec.tables import check_finite

ID_COLUMN = "item_id"
MAX_RENAMED = 1 << 20
_SIDES, _PARTS = (f"{RENAMED}.old", f"{RENAMED}.new"), ("bytes", "offsets")
_BLOCK = 1 << 13
_REMEMBERED = 1 << 16  # ids whose position is kept: some 10 MiB at most, when they are short
_FENCES = 1 << 10
_FEW = 192  # below this many ids a loop is quicker than the vectorised search


class Catalogue:
    """n items by position; the position is the row in the item table.

    Attributes:
        n: number of items.
        columns: names of the display columns.
        prior: float32 [n], what an empty history ranks by.
        retired: int64 [m], rising: positions of items that are never ranked, and still read in a history.
        seen: uint32 [n], training interactions of each item.
    """

    def __init__(
        self,
        tensors: Tensors,
        n: int,
        columns: Sequence[str],
        file: str = "catalogue.safetensors",
        *,
        checked: bool = False,
        requires: Collection[str] = (),
    ) -> None:
        """Check and adopt the tensors of `catalogue.safetensors`; with `checked`, texts, ids and their order
        were found right before, and are taken as they are. `requires` is the manifest's.

        Raises:
            BundleError: `tensors-invalid`, `values-invalid` (prior), or `catalogue-invalid` (offsets, text,
                ids, order).
        """
        self.n = n
        self.columns = tuple(columns)
        allowed = {"prior", "seen", f"{ID_COLUMN}.order"}
        for name in (ID_COLUMN, *columns):
            allowed |= {f"{name}.bytes", f"{name}.offsets"}
        allowed |= {f"{RETIRED}.flags"} if RETIRED in requires else set()
        allowed |= {f"{side}.{part}" for side in _SIDES for part in _PARTS} if RENAMED in requires else set()
        only(tensors, file, allowed)
        self.prior: NDArray[np.float32] = take(tensors, file, "prior", "F32", (n,))
        self.seen: NDArray[np.uint32] = take(tensors, file, "seen", "U32", (n,))
        check_finite(self.prior, f"prior of {file}", negative=False)
        self._text = {name: _read_column(tensors, file, name, n, checked) for name in (ID_COLUMN, *columns)}
        self._order: NDArray[np.int32] = take(tensors, file, f"{ID_COLUMN}.order", "I32", (n,))
        self._known: dict[str, int] = {}
        self._fences: tuple[list[bytes], int] | None = None
        self.retired = np.empty(0, dtype=np.intp)
        if RETIRED in requires:
            flags = take(tensors, file, f"{RETIRED}.flags", "U8", (n,))
            if int(flags.max()) > 1:
                raise _fault("a flag of a retired item is neither 0 nor 1")
            self.retired = np.flatnonzero(flags)
        if not checked:
            self._check_ids()
        self._renamed: dict[str, str] = _read_renamed(tensors, file) if RENAMED in requires else {}
        for old, new in self._renamed.items():
            if self._find(old) is not None or self._find(new) is None:
                raise _fault(f"{old!r}, renamed to {new!r}, is there still, or its new name is not")

    def item_id(self, position: int) -> str:
        """The id of the item at `position`."""
        return self.text(ID_COLUMN, position)

    def text(self, column: str, position: int) -> str:
        """The entry of a column at `position`; KeyError for a column that the bundle lacks."""
        return self._raw(column, position).decode("utf-8")

    def texts(self, column: str, positions: NDArray[np.integer[Any]]) -> list[str]:
        """The entries of a column at `positions` [m]; KeyError for a column that the bundle lacks."""
        data, offsets = self._text[column]
        starts, ends = offsets[positions].tolist(), offsets[positions + 1].tolist()
        return [data[a:b].tobytes().decode("utf-8") for a, b in zip(starts, ends, strict=True)]

    def with_retired(self, positions: NDArray[np.intp]) -> NDArray[np.intp]:
        """These rising positions and those of retired items, rising, each once."""
        return distinct(np.concatenate([positions, self.retired])) if len(self.retired) else positions

    def position(self, item_id: str) -> int | None:
        """Where the item is, also by a name that it had before; None when the catalogue lacks it."""
        found = self._find(item_id)
        if found is None and item_id in self._renamed:
            return self._find(self._renamed[item_id])
        return found

    def _find(self, item_id: str) -> int | None:
        wanted = item_id.encode("utf-8", "replace")
        fences, step = self._fences or self._make_fences()
        after = bisect.bisect_right(fences, wanted)
        low, high = max(0, after - 1) * step, min(self.n, after * step)
        (data, offsets), order = self._text[ID_COLUMN], self._order
        while low < high:
            middle = (low + high) // 2
            found = int(order.item(middle))
            have = data[offsets.item(found) : offsets.item(found + 1)].tobytes()
            if have == wanted:
                return found
            if have < wanted:
                low = middle + 1
            else:
                high = middle
        return None

    def _make_fences(self) -> tuple[list[bytes], int]:
        """Every `step`-th id in byte order: the first ten steps of a search without touching the file."""
        step = -(-self.n // _FENCES)
        fences = [self._raw(ID_COLUMN, position) for position in self._order[::step].tolist()]
        self._fences = fences, step
        return self._fences

    def positions(self, item_ids: Sequence[str]) -> NDArray[np.int64]:
        """Positions [m] of the ids, −1 where the catalogue lacks one.

        Ids that were asked for are remembered, up to 65,536 of them: a history is asked for again with every
        list, and mostly has one event more than the last time. (The catalogue never changes, so that an
        answer stays right.)
        """
        known = self._known
        try:
            return np.fromiter((known[item_id] for item_id in item_ids), np.int64, len(item_ids))
        except KeyError:
            pass
        new = [item_id for item_id in dict.fromkeys(item_ids) if item_id not in known]
        found = dict(zip(new, self._look_up(new).tolist(), strict=True))
        answer = {item_id: known[item_id] for item_id in item_ids if item_id in known} | found
        if len(known) + len(found) > _REMEMBERED:
            # A new one rather than an emptied one: another thread may be reading.
            self._known = known = {}
        if len(found) <= _REMEMBERED:
            known.update(found)
        return np.fromiter((answer[item_id] for item_id in item_ids), np.int64, len(item_ids))

    def _look_up(self, item_ids: Sequence[str]) -> NDArray[np.int64]:
        """`positions`, from the table of ids."""
        if self._renamed:
            item_ids = [self._renamed.get(item_id, item_id) for item_id in item_ids]
        if len(item_ids) < _FEW:
            each = (self.position(item_id) for item_id in item_ids)
            return np.array([-1 if found is None else found for found in each], dtype=np.int64)
        wanted = [item_id.encode("utf-8", "replace") for item_id in item_ids]
        if max(map(len, wanted)) > MAX_ID_BYTES:
            return np.array([-1 if p is None else p for p in map(self.position, item_ids)], dtype=np.int64)
        out = [self._search(wanted[start : start + _BLOCK]) for start in range(0, len(wanted), _BLOCK)]
        return np.concatenate(out)

    def _raw(self, column: str, position: int) -> bytes:
        data, offsets = self._text[column]
        return bytes(data[int(offsets[position]) : int(offsets[position + 1])])

    def _search(self, wanted: list[bytes]) -> NDArray[np.int64]:
        """Binary search for all of `wanted` in step, comparing ids as fixed-width byte strings."""
        lengths = np.array([len(item) for item in wanted])
        width = int(lengths.max()) + 1  # one more, so that an id that goes on after `wanted` differs from it
        targets = np.array(wanted, dtype=f"S{width}")
        low = np.zeros(len(wanted), dtype=np.int64)
        high = np.full(len(wanted), self.n, dtype=np.int64)
        while (active := low < high).any():
            middle = np.where(active, (low + high) // 2, 0)
            less = _less(*self._fixed(self._order[middle], width), targets, lengths) & active
            low = np.where(less, middle + 1, low)
            high = np.where(active & ~less, middle, high)
        found = self._order[np.minimum(low, self.n - 1)].astype(np.int64)
        have, have_lengths = self._fixed(found, width)
        hit = (low < self.n) & (have == targets) & (have_lengths == lengths)
        return np.where(hit, found, -1)

    def _fixed(self, positions: NDArray[Any], width: int) -> tuple[NDArray[np.bytes_], NDArray[np.int64]]:
        """Ids at `positions`, cut or zero-padded to `width` bytes, and their true lengths."""
        data, offsets = self._text[ID_COLUMN]
        starts = offsets[positions]
        lengths = offsets[np.asarray(positions, dtype=np.int64) + 1] - starts
        step = np.arange(width)
        inside = step < lengths[:, None]
        matrix = np.where(inside, data[np.where(inside, starts[:, None] + step, 0)], 0).astype(np.uint8)
        return matrix.view(f"S{width}")[:, 0], lengths

    def _check_ids(self) -> None:
        """Ids must be short, not empty and unique, and `order` must sort them."""
        _, offsets = self._text[ID_COLUMN]
        lengths = np.diff(offsets)
        if int(lengths.min()) < 1 or int(lengths.max()) > MAX_ID_BYTES:
            raise _fault(f"an item id is empty or longer than {MAX_ID_BYTES} bytes")
        order = self._order
        if int(order.min()) < 0 or int(order.max()) >= self.n:
            raise _fault("item_id.order points outside the catalogue")
        # Strictly rising ids at n positions in range make `order` a permutation and the ids unique, at once.
        for start in range(0, self.n - 1, _BLOCK):
            part = order[start : start + _BLOCK + 1]
            width = int(lengths[part].max())
            fixed, sizes = self._fixed(part, width)
            if not _less(fixed[:-1], sizes[:-1], fixed[1:], sizes[1:]).all():
                raise _fault("item ids are not unique, or item_id.order does not sort them")


def _less(
    a: NDArray[np.bytes_], a_lengths: NDArray[Any], b: NDArray[np.bytes_], b_lengths: NDArray[Any]
) -> NDArray[np.bool_]:
    """a < b in byte order. numpy ignores zeros at the end, so equal strings are told apart by their
    lengths."""
    less: NDArray[np.bool_] = (a < b) | ((a == b) & (a_lengths < b_lengths))
    return less


def _read_renamed(tensors: Tensors, file: str) -> dict[str, str]:
    """Former ids and those of today."""
    count = len(take(tensors, file, f"{_SIDES[0]}.offsets", "I64", (None,))) - 1
    if not 0 <= count <= MAX_RENAMED:
        raise _fault(f"{count} items are renamed; at most {MAX_RENAMED} may be")
    names: list[list[str]] = []
    for side in _SIDES:
        data, offsets = _read_column(tensors, file, side, count, checked=False)
        raw = data.tobytes()
        names.append([raw[a:b].decode() for a, b in pairwise(offsets.tolist())])
    renamed = dict(zip(*names, strict=True))
    if len(renamed) != count or "" in renamed:
        raise _fault("an item is renamed twice, or has no former name")
    return renamed


def _read_column(
    tensors: Tensors, file: str, name: str, n: int, checked: bool
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    data = take(tensors, file, f"{name}.bytes", "U8", (None,))
    offsets = take(tensors, file, f"{name}.offsets", "I64", (n + 1,))
    if checked:
        return data, offsets
    if int(offsets[0]) != 0 or int(offsets[-1]) != len(data) or bool((offsets[1:] < offsets[:-1]).any()):
        raise _fault(f"the offsets of the column {name} do not rise from 0 to {len(data)}")
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(data), 1 << 20):
            decoder.decode(data[start : start + (1 << 20)].tobytes())
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise _fault(f"the column {name} is not UTF-8") from None
    starts = offsets[:-1][offsets[:-1] < len(data)]
    if bool(((data[starts] & 0xC0) == 0x80).any()):
        raise _fault(f"an entry of the column {name} starts inside a character")
    return data, offsets


def _fault(what: str) -> BundleError:
    return BundleError(
        f"catalogue.safetensors: {what}.", code="catalogue-invalid", remedy="Build the bundle again."
    )
