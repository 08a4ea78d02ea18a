"""`tokenizer.json` as the format admits it (docs/bundle.md, section 3), checked before the library reads it.

The library does what the file says. A normalizer that puts ten letters for one, nine times over, makes a
gigabyte of a letter; padding makes one of nothing; a regular expression can search without end. So parts are
admitted by name, what they may make of a text is bounded, and so is what a pattern may ask for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pocketrec.errors import BundleError
from pocketrec.manifest import load_json

MAX_BYTES = 20 << 20
"""The largest in use among Llama and Qwen have 17 MiB; empty lists take twenty times their text in memory."""

MAX_GROWTH = 64
"""Characters that normalizers may make of one, all together; Unicode's own forms are not counted."""

MAX_PARTS = 32
MAX_PATTERN = 1024

_NORMALIZERS = {
    "BertNormalizer", "ByteLevel", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Prepend", "Replace",
    "Strip", "StripAccents",
}  # fmt: skip
_PRE_TOKENIZERS = {
    "BertPreTokenizer", "ByteLevel", "CharDelimiterSplit", "Digits", "Metaspace", "Punctuation", "Split",
    "UnicodeScripts", "Whitespace", "WhitespaceSplit",
}  # fmt: skip
_POST_PROCESSORS = {"BertProcessing", "ByteLevel", "RobertaProcessing", "TemplateProcessing"}


def refuse(what: str) -> BundleError:
    """The error for a tokenizer that the format does not admit."""
    return BundleError(f"tokenizer.json {what}.", code="tokenizer-invalid", remedy="Build the bundle again.")


def check_tokenizer(raw: bytes | memoryview) -> None:
    """Return when the format admits the tokenizer in the bytes of `tokenizer.json`.

    Raises:
        BundleError: `tokenizer-invalid`.
    """
    if len(raw) > MAX_BYTES:
        raise refuse(f"has {len(raw)} bytes; at most {MAX_BYTES} are allowed")
    try:
        whole = load_json(bytes(raw), "tokenizer.json", values=MAX_BYTES, keys=MAX_BYTES)
    except BundleError as error:
        raise refuse(f"cannot be read: {error}") from None
    if not isinstance(whole, dict):
        raise refuse("is not an object")
    if whole.get("padding") is not None:
        raise refuse("pads texts")
    try:
        growth = 1
        for part in _parts(whole.get("normalizer"), "normalizers", _NORMALIZERS):
            growth *= _growth(part)
            if growth > MAX_GROWTH:
                raise refuse(f"makes more than {MAX_GROWTH} characters of one")
        for part in _parts(whole.get("pre_tokenizer"), "pretokenizers", _PRE_TOKENIZERS):
            if part["type"] == "Split":
                _pattern(part["pattern"])
        for part in _parts(whole.get("post_processor"), "processors", _POST_PROCESSORS):
            if part["type"] == "TemplateProcessing" and sum("Sequence" in p for p in part["single"]) > 1:
                raise refuse("writes a text more than once")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise refuse(f"has a part that lacks what it needs: {error!r}") from None


def _parts(value: Any, inner: str, known: set[str]) -> Iterator[dict[str, Any]]:
    """The steps of a part, sequences taken apart."""
    waiting, seen = [] if value is None else [value], 0
    while waiting:
        part = waiting.pop(0)
        seen += 1
        if seen > MAX_PARTS:
            raise refuse(f"has more than {MAX_PARTS} {inner}")
        if part["type"] == "Sequence":
            waiting = [*part[inner], *waiting]
        elif part["type"] in known:
            yield part
        else:
            raise refuse(f"has a part {part['type']!r}, which no bundle uses")


def _growth(part: dict[str, Any]) -> int:
    """How many characters come out for one that goes in, at most."""
    if part["type"] == "Prepend":
        return 1 + len(part["prepend"])
    if part["type"] != "Replace":
        return 1
    kind, pattern = _pattern(part["pattern"])
    content = len(part["content"])
    # What a regular expression finds may be as short as nothing, before every character.
    return -(-max(content, 1) // len(pattern)) if kind == "String" else 1 + content


def _pattern(value: dict[str, str]) -> tuple[str, str]:
    ((kind, pattern),) = value.items()
    if not isinstance(pattern, str) or not 0 < len(pattern) <= MAX_PATTERN:
        raise refuse(f"has a pattern that is empty or longer than {MAX_PATTERN} characters")
    if kind == "Regex":
        _bounded(pattern)
    return kind, pattern


def _bounded(pattern: str) -> None:
    """Refuse what lets a search take exponential time: repeated groups, repeated repetitions, references."""
    at, in_class, before = 0, 0, ""
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "\\":
            if not in_class and pattern[at : at + 1] in tuple("123456789kg"):
                raise refuse(f"has a pattern with a reference, {pattern[:60]!r}")
            named = pattern[at : at + 2] in ("p{", "P{", "x{")
            before, at = "x", (pattern.find("}", at) if named else at) + 1
            if not at:
                raise refuse(f"has a pattern without an end, {pattern[:60]!r}")
        elif in_class or char == "[":
            in_class += (char == "[") - (char == "]")
            before = "x"
        else:
            repeats = char in "*+" or (char == "{" and pattern[at : at + 1] in tuple("0123456789,"))
            if repeats and before in (")", "}", "*", "+"):
                raise refuse(f"has a pattern that repeats a group or a repetition, {pattern[:60]!r}")
            before = char
