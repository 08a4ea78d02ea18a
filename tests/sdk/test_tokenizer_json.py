"""Tokenizers are checked before the library sees them: those in use pass, those that run away do not."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pocketrec.errors import BundleError
from pocketrec.tokenizer_json import MAX_BYTES, MAX_GROWTH, check_tokenizer
from pocketrec_export.text import train_tokenizer

QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA = QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
GPT_2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def tokenizer(**parts: Any) -> bytes:
    model = {"type": "WordLevel", "vocab": {"w": 0}, "unk_token": "w"}
    return json.dumps({"version": "1.0", "model": model} | parts).encode()


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def refused(**parts: Any) -> bool:
    try:
        check_tokenizer(tokenizer(**parts))
    except BundleError as error:
        return error.code == "tokenizer-invalid"
    return False


@pytest.mark.parametrize(
    "pattern", [QWEN, LLAMA, GPT_2, r"\w+|[^\w\s]+", r"[\)]+x\)+", "a{2,3}b?", r"[a\]]*"]
)
def test_patterns_in_use_pass(pattern: str) -> None:
    assert not refused(pre_tokenizer=split(pattern))
    Tokenizer.from_str(tokenizer(pre_tokenizer=split(pattern)).decode()).encode("It's 1234 words, isn't it?")


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+", "(?:a|a)*b", "(a*){3}", r"(a)\1", r"\k<n>(?<n>a)", "a{1,9}{1,9}", "a++", "a*+", "", r"\p{L"],
)
def test_patterns_that_run_away_do_not(pattern: str) -> None:
    assert refused(pre_tokenizer=split(pattern))


def test_what_builds_and_others_write_passes() -> None:
    texts = [f"word{n} other, thing" for n in range(30)]
    check_tokenizer(train_tokenizer(texts, 100).to_str().encode())
    llama = [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ]
    assert not refused(normalizer={"type": "Sequence", "normalizers": llama})
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "w", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [],
        "special_tokens": {},
    }
    assert not refused(post_processor=template, truncation=None, padding=None)


@given(st.lists(st.tuples(st.text("ab", min_size=1, max_size=3), st.text("ab", max_size=9)), max_size=6))
def test_growth_is_bounded(replacements: list[tuple[str, str]]) -> None:
    """What passes makes of a text no more than the bound says."""
    steps = [{"type": "Replace", "pattern": {"String": old}, "content": new} for old, new in replacements]
    raw = tokenizer(normalizer={"type": "Sequence", "normalizers": steps})
    text = "aab" * 20
    for old, new in replacements:
        text = text.replace(old, new)
    try:
        check_tokenizer(raw)
    except BundleError:
        return
    assert len(text) <= 60 * MAX_GROWTH
    if steps:
        assert Tokenizer.from_str(raw.decode()).normalizer.normalize_str("aab" * 20) == text


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@given(JSON)
def test_nothing_but_our_error_leaves(value: Any) -> None:
    for part in ("normalizer", "pre_tokenizer", "post_processor", "padding"):
        refused(**{part: value})
        refused(
            **{part: {"type": "Sequence", "normalizers": value, "pretokenizers": value, "processors": value}}
        )
        refused(**{part: {"type": "Split", "pattern": value}})
        refused(**{part: {"type": "Replace", "pattern": {"String": value}, "content": value}})
        refused(**{part: {"type": "TemplateProcessing", "single": value}})


def test_a_tokenizer_of_a_gigabyte_is_not_read() -> None:
    with pytest.raises(BundleError, match=re.escape(str(MAX_BYTES))):
        check_tokenizer(memoryview(bytearray(MAX_BYTES + 1)))
