"""Texts as a language model reads them: histories for queries, items for rows; as padded arrays of token ids.

    history    <start> history_prompt  text of item 1 <end>  text of item 2 <end>  …
    item       <start> item_prompt     text of the item <end>

`<start>` is whatever the tokenizer itself puts before a text, `<end>` its end-of-text token. The state at the
i-th `<end>` of a history has read i items, so one pass gives the queries of all positions of a window; the
state at the `<end>` of an item is its row. Padding is on the right, where a causal model cannot see it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import DataError

from .batches import Histories
from .llm_config import LLMConfig
from .teachers import Positions

log = logging.getLogger(__name__)

Ints = NDArray[np.int64]
# Texts given to the tokenizer at a time.
CHUNK = 4096


@dataclass(frozen=True)
class Tokens:
    """A padded batch and the places in it whose states are wanted.

    Attributes:
        ids: int64 [B, T], the end-of-text token at padding.
        row, column: int64 [m], places of end-of-text tokens, in the order of what was asked for.
    """

    ids: Ints
    row: Ints
    column: Ints


@dataclass(frozen=True)
class Prompts:
    """The catalogue as token ids, each text once.

    Attributes:
        offsets: int64 [items + 1]; item i has the tokens `offsets[i]:offsets[i + 1]`.
        tokens: int32 [any], without end-of-text tokens.
        history_prompt, item_prompt: int64 [any], what stands before, start token included.
        end: the end-of-text token.
        truncated: items whose text was cut.
        without_text: items that have none; their id is read instead.
    """

    offsets: Ints
    tokens: NDArray[np.int32]
    history_prompt: Ints
    item_prompt: Ints
    end: int
    truncated: int
    without_text: int

    @classmethod
    def make(
        cls, texts: Sequence[str], item_ids: Sequence[str], tokenizer: Any, config: LLMConfig
    ) -> Prompts:
        """Tokenise a catalogue.

        Args:
            texts: [items], "" where there is none.
            tokenizer: of `transformers`.

        Raises:
            DataError: `data-no-text` when no item has a text; `llm-tokenizer` when there is no end-of-text
                token.
        """
        without = sum(not text.strip() for text in texts)
        if without == len(texts):
            raise DataError(
                f"none of the {len(texts):,} items has a text, and the llm teacher reads nothing else.",
                code="data-no-text",
                remedy="Add items.csv with text columns such as title, or choose another teacher.",
            )
        if tokenizer.eos_token_id is None:
            raise DataError(
                "the checkpoint's tokenizer has no end-of-text token (eos_token).",
                code="llm-tokenizer",
                remedy="Name one in its tokenizer_config.json.",
            )
        read = [text if text.strip() else name for text, name in zip(texts, item_ids, strict=True)]
        parts, lengths, truncated = [], [], 0
        for first in range(0, len(read), CHUNK):
            for ids in tokenizer(read[first : first + CHUNK], add_special_tokens=False)["input_ids"]:
                truncated += len(ids) > config.max_item_tokens
                kept = ids[: config.max_item_tokens]
                parts.append(np.asarray(kept, np.int32))
                lengths.append(len(kept))
        if truncated:
            log.info(
                "%d of %d item texts are cut to %d tokens (llm.max_item_tokens)",
                truncated, len(read), config.max_item_tokens,
            )  # fmt: skip
        if without:
            log.warning("%d of %d items have no text; their ids are read instead", without, len(read))
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return cls(
            offsets,
            np.concatenate(parts),
            _prompt(tokenizer, config.history_prompt),
            _prompt(tokenizer, config.item_prompt),
            int(tokenizer.eos_token_id),
            truncated,
            without,
        )

    @property
    def items(self) -> int:
        """Size of the catalogue."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Ints:
        """int64 [items], tokens of each text with its end-of-text token."""
        return np.diff(self.offsets) + 1

    def longest(self, history_items: int) -> int:
        """Tokens of the longest history of so many items that there can be."""
        longest = int(self.lengths.max())
        return max(len(self.history_prompt) + history_items * longest, len(self.item_prompt) + longest)

    def window_lengths(self, histories: Histories, start: Ints, size: Ints) -> Ints:
        """int64 [windows], tokens of each window of events."""
        total = np.concatenate([[0], np.cumsum(self.lengths[histories.items[ranges(start, size)]])])
        ends = np.cumsum(size)
        return len(self.history_prompt) + total[ends] - total[ends - size]

    def histories(self, histories: Histories, start: Ints, size: Ints, skip: Ints | None = None) -> Tokens:
        """Windows of events; wanted are the states after each event, but for the first `skip` of a window."""
        tokens = self._assemble(histories.items[ranges(start, size)], size, self.history_prompt)
        if skip is None:
            return tokens
        wanted = _within(size) >= np.repeat(skip, size)
        return Tokens(tokens.ids, tokens.row[wanted], tokens.column[wanted])

    def rows(self, items: NDArray[np.integer]) -> Tokens:
        """Items of the catalogue by themselves; wanted is one state of each."""
        return self._assemble(items, np.ones(len(items), np.int64), self.item_prompt)

    def _assemble(self, items: NDArray[np.integer], size: Ints, prompt: Ints) -> Tokens:
        """Texts of `items`, `size[w]` of them to row w."""
        length = self.lengths[items]
        row = np.repeat(np.arange(len(size)), size)
        total = np.concatenate([[0], np.cumsum(length)])
        first = np.concatenate([[0], np.cumsum(size)])[:-1]
        begin = len(prompt) + total[:-1] - total[first][row]
        column = begin + length - 1
        ids = np.full((len(size), int(column.max()) + 1), self.end, np.int64)
        ids[:, : len(prompt)] = prompt
        text = length - 1
        ids[np.repeat(row, text), ranges(begin, text)] = self.tokens[ranges(self.offsets[items], text)]
        return Tokens(ids, row, column)


def _prompt(tokenizer: Any, text: str) -> Ints:
    ids = list(tokenizer(text)["input_ids"])
    if ids and ids[-1] == tokenizer.eos_token_id:  # some end every text; here it goes on
        ids = ids[:-1]
    return np.asarray(ids, np.int64)


def _within(size: Ints) -> Ints:
    """0 … size − 1 of each, one after the other."""
    return np.arange(int(size.sum())) - np.repeat(np.cumsum(size) - size, size)


def ranges(start: Ints, size: Ints) -> Ints:
    """`start … start + size − 1` of each, one after the other, int64."""
    return np.repeat(start, size) + _within(size)


def by_length(lengths: Ints, budget: int) -> Iterator[Ints]:
    """Cut indices of `lengths` into batches of similar lengths that have at most `budget` tokens when padded,
    or one member."""
    order = np.argsort(-lengths, kind="stable")  # the longest first: what memory it takes shows at once
    first = 0
    while first < len(order):
        count = max(1, budget // int(lengths[order[first]]))
        yield order[first : first + count]
        first += count


def narrowed(positions: Positions, length: int) -> Positions:
    """The same positions, in the same order, in windows of at most `length` events, each position with at
    least half of that as context where its window has it."""
    start, size, skip = positions.start, positions.size, positions.skip
    step = max(1, length - length // 2)
    head = np.minimum(size, np.maximum(length, skip + step))  # where the first narrow window ends
    count = 1 + -(-(size - head) // step)
    owner = np.repeat(np.arange(len(size)), count)
    nth = _within(count)
    end = np.minimum(size[owner], head[owner] + nth * step)
    done = np.where(nth == 0, skip[owner], head[owner] + (nth - 1) * step)
    begin = np.maximum(0, end - length)
    return Positions(positions.histories, start[owner] + begin, end - begin, done - begin)
