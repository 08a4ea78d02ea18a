"""What a list is asked for with, checked before anything is done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pocketrec.errors import DataError
from pocketrec.events import check_text


@dataclass(frozen=True, slots=True)
class Request:
    """What a list is asked for with, checked as far as it can be without the catalogue."""

    k: int
    candidates: list[str] | None
    exclude: list[str]
    filter_seen: bool
    at: int | None

    @classmethod
    def of(
        cls,
        k: int,
        candidates: Iterable[str] | None,
        exclude: Iterable[str],
        filter_seen: bool,
        at: int | None,
    ) -> Request:
        """Check and keep it; the caller's iterables are read here.

        Raises:
            DataError: `k-invalid`, `ids-invalid`, `text-invalid`.
        """
        among = None if candidates is None else check_ids(candidates, "candidates")
        return cls(check_k(k), among, check_ids(exclude, "exclude"), filter_seen, at)


def check_k(k: int) -> int:
    """`k` as an int when it is a whole number of items, at least 1; DataError `k-invalid` otherwise."""
    if isinstance(k, bool) or not hasattr(k, "__index__") or k < 1:
        raise DataError(
            f"k is {k!r}.", code="k-invalid", remedy="Ask for a whole number of items, at least 1."
        )
    return int(k)


def check_ids(ids: Iterable[str], what: str) -> list[str]:
    """`ids` as a list when they are item ids; DataError `ids-invalid`, `text-invalid` otherwise."""
    if isinstance(ids, (str, bytes)):
        raise DataError(
            f"{what} is the text {ids!r}, not a list of item ids.",
            code="ids-invalid",
            remedy="Wrap a single item id in a list.",
        )
    return [check_text(item_id, "item id") for item_id in ids]
