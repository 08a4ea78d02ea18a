"""Histories and items as token ids: what stands where, and how they are cut into batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llm_worlds import ITEMS, quick, text, tokenizer

from pocketrec.errors import DataError
from pocketrec_export.batches import Histories
from pocketrec_export.llm_prompts import Prompts, by_length, narrowed
from pocketrec_export.teachers import Positions

TEXTS = [text(i) for i in range(ITEMS)]
IDS = [f"i{i}" for i in range(ITEMS)]
CONFIG = quick("none")
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=5)


def histories_of(lengths: list[int]) -> Histories:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    items = (np.arange(offsets[-1]) * 7 % ITEMS).astype(np.int32)
    return Histories(offsets, items, np.zeros(len(items), np.int32), np.zeros(len(items), np.int32))


@pytest.mark.parametrize("bos", [True, False])
def test_a_history_reads_as_it_should(bos: bool) -> None:
    own = tokenizer(bos)
    prompts = Prompts.make(TEXTS, IDS, own, CONFIG)
    histories = histories_of([5, 9])
    start, size, skip = np.array([6, 0]), np.array([4, 2]), np.array([1, 0])
    tokens = prompts.histories(histories, start, size, skip)
    wanted = []
    for row, (first, count, left) in enumerate(zip(start, size, skip, strict=True)):
        said = (["<s>"] if bos else []) + own.tokenize(CONFIG.history_prompt)
        for nth in range(count):
            said += [*own.tokenize(TEXTS[histories.items[first + nth]]), "</s>"]
            if nth >= left:
                wanted.append((row, len(said) - 1))
        read = own.convert_ids_to_tokens(tokens.ids[row])
        assert read[: len(said)] == said
        assert set(read[len(said) :]) <= {"</s>"}
        assert len(said) == prompts.window_lengths(histories, start, size)[row]
    assert list(zip(tokens.row, tokens.column, strict=True)) == wanted


def test_an_item_reads_as_it_should() -> None:
    own = tokenizer(True)
    prompts = Prompts.make(TEXTS, IDS, own, CONFIG)
    tokens = prompts.rows(np.array([7, 2]))
    for row, item in enumerate([7, 2]):
        said = ["<s>", *own.tokenize(CONFIG.item_prompt), *own.tokenize(TEXTS[item]), "</s>"]
        assert own.convert_ids_to_tokens(tokens.ids[row, : tokens.column[row] + 1]) == said


def test_long_texts_are_cut_and_items_without_text_read_by_their_ids() -> None:
    own = tokenizer(False)
    prompts = Prompts.make(["red lamp tent stove rope", "  ", "red"], ["a", "lamp", "c"], own, CONFIG)
    assert (prompts.truncated, prompts.without_text) == (1, 1)
    assert prompts.lengths.tolist() == [5, 2, 2]  # one token more each: the end of text
    assert own.decode(prompts.tokens) == "red lamp tent stove lamp red"
    assert prompts.longest(2) == len(prompts.history_prompt) + 10


def test_a_catalogue_without_texts_is_refused() -> None:
    with pytest.raises(DataError, match=r"none of the 2 items has a text.*items\.csv") as caught:
        Prompts.make(["", " "], ["a", "b"], tokenizer(True), CONFIG)
    assert caught.value.code == "data-no-text"


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    endless = PreTrainedTokenizerFast(tokenizer_object=tokenizer(True)._tokenizer, unk_token="<unk>")
    with pytest.raises(DataError, match="eos_token") as caught:
        Prompts.make(TEXTS, IDS, endless, CONFIG)
    assert caught.value.code == "llm-tokenizer"


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 20), st.integers(1, 9), st.booleans()
)
def test_narrow_windows_hold_the_same_positions(
    lengths: list[int], wide: int, narrow: int, last_only: bool
) -> None:
    histories = histories_of(lengths)
    whole = Positions.all(histories, wide)
    if last_only:
        whole = Positions(histories, whole.start, whole.size, whole.size - 1)
    positions = narrowed(whole, narrow)
    assert positions.index.tolist() == whole.index.tolist()
    assert positions.size.max(initial=0) <= narrow
    assert (positions.skip < positions.size).all()
    there = whole.index - whole.start[whole.window] + 1
    seen = positions.index - positions.start[positions.window] + 1
    full = narrow if last_only else narrow // 2
    assert (seen >= np.minimum(there, full)).all()
    assert (positions.start[positions.window] >= whole.start[whole.window]).all()


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 200))
def test_batches_of_like_lengths(lengths: list[int], budget: int) -> None:
    array = np.array(lengths, np.int64)
    parts = list(by_length(array, budget))
    assert sorted(i for part in parts for i in part.tolist()) == list(range(len(lengths)))
    for part in parts:
        assert len(part) == 1 or len(part) * array[part].max() <= budget
