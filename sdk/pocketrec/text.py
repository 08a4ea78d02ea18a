"""Rows from text (docs/bundle.md, section 3): what stands for an item that nobody has seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import BundleError

if TYPE_CHECKING:
    from pocketrec.bundle import Bundle


class TextRows:
    """Turns texts into rows of the bundle's space. Safe to use from many threads.

    Raises:
        BundleError: `tokenizer-invalid`, the tokenizer is unreadable or has more tokens than the word table.
    """

    def __init__(self, bundle: Bundle) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_buffer(bundle.file_bytes("tokenizer.json"))
        except Exception as error:  # the library raises plain Exception
            raise BundleError(
                f"tokenizer.json cannot be read: {error}.",
                code="tokenizer-invalid",
                remedy="Build the bundle again.",
            ) from None
        self._words, self._idf = bundle.tables["words"], bundle.idf
        size = self._tokenizer.get_vocab_size()
        if size > self._words.n:
            raise BundleError(
                f"tokenizer.json has {size} tokens, the word table {self._words.n} rows.",
                code="tokenizer-invalid",
                remedy="Build the bundle again.",
            )

    def row(self, text: str) -> NDArray[np.float32]:
        """The text row float32 [d]; zeros when the text holds no token."""
        ids = self._ids(text)
        if not ids:
            return np.zeros(self._words.d, np.float32)
        tokens, counts = np.unique(np.asarray(ids, np.int64), return_counts=True)
        if tokens[-1] >= self._words.n:
            raise BundleError(
                f"tokenizer.json numbers a token {tokens[-1]}, the word table has {self._words.n} rows.",
                code="tokenizer-invalid",
                remedy="Build the bundle again.",
            )
        weights = (1 + np.log(counts)) * self._idf[tokens]
        norm = np.linalg.norm(weights)
        if norm > 0:
            weights = weights / norm
        row: NDArray[np.float32] = (weights.astype(np.float32) @ self._words.rows(tokens)).astype(np.float32)
        return row

    def _ids(self, text: str) -> list[int]:
        try:
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        except Exception as error:  # such as an unknown token that the vocabulary lacks
            raise BundleError(
                f"tokenizer.json cannot encode a text: {error}.",
                code="tokenizer-invalid",
                remedy="Build the bundle again.",
            ) from None
        return ids
