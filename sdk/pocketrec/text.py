"""Rows from text (docs/bundle.md, section 3): what stands for an item that nobody has seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pocketrec.tokenizer_json import check_tokenizer, refuse

if TYPE_CHECKING:
    from pocketrec.bundle import Bundle


class TextRows:
    """Turns texts into rows of the bundle's space. Safe to use from many threads.

    Raises:
        BundleError: `tokenizer-invalid`, the tokenizer is unreadable or has more tokens than the word table.
    """

    def __init__(self, bundle: Bundle) -> None:
        from tokenizers import Tokenizer

        raw = bundle.file_view("tokenizer.json")
        check_tokenizer(raw)
        self._tokenizer = _tried("cannot be read", lambda: Tokenizer.from_buffer(bytes(raw)))
        self._words, self._idf = bundle.tables["words"], bundle.idf
        size = self._tokenizer.get_vocab_size()
        if size > self._words.n:
            raise refuse(f"has {size} tokens, the word table {self._words.n} rows")

    def row(self, text: str) -> NDArray[np.float32]:
        """The text row float32 [d]; zeros when the text holds no token."""
        ids = self._ids(text)
        if not ids:
            return np.zeros(self._words.d, np.float32)
        tokens, counts = np.unique(np.asarray(ids, np.int64), return_counts=True)
        if tokens[-1] >= self._words.n:
            raise refuse(f"numbers a token {tokens[-1]}, the word table has {self._words.n} rows")
        weights = (1 + np.log(counts)) * self._idf[tokens]
        norm = np.linalg.norm(weights)
        if norm > 0:
            weights = weights / norm
        row: NDArray[np.float32] = (weights.astype(np.float32) @ self._words.rows(tokens)).astype(np.float32)
        return row

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = _tried(
            "cannot encode a text", lambda: self._tokenizer.encode(text, add_special_tokens=False).ids
        )
        return ids


def _tried(what: str, call: Callable[[], Any]) -> Any:
    """What the library answers; its errors are bare exceptions, and panics, which are not even that."""
    try:
        return call()
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise refuse(f"{what}: {error}") from None
