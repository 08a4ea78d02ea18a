"""Cases of the hostile corpus beyond files and tables: signatures, golden vectors, tokenizers, names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hostile_base import Header, case, edit_manifest, edit_tensors, reseal
from tiny_bundle import item_id, write_tiny_bundle

_OURS = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
_THEIRS = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
PINNED_KEY = _OURS.public_key().public_bytes_raw()
_KEYS = (PINNED_KEY,)
_ORDER = 2**252 + 27742317777372353535851937790883648493


def sign(bundle: Path, key: Ed25519PrivateKey = _OURS) -> None:
    """Sign the manifest as it is now."""
    (bundle / "manifest.sig").write_bytes(key.sign((bundle / "manifest.json").read_bytes()))


@case("signature-missing", keys=_KEYS)
def signature_absent(bundle: Path) -> None:
    (bundle / "manifest.sig").unlink(missing_ok=True)


@case("signature-invalid", keys=_KEYS)
def signature_of_another_key(bundle: Path) -> None:
    sign(bundle, _THEIRS)


@case("signature-invalid", keys=_KEYS)
def signature_of_another_manifest(bundle: Path) -> None:
    sign(bundle)
    edit_manifest(bundle, lambda manifest: manifest.update(name="other"))


@case("signature-invalid", keys=_KEYS)
def signature_of_zeros(bundle: Path) -> None:
    (bundle / "manifest.sig").write_bytes(bytes(64))


@case("signature-invalid", keys=_KEYS)
def signature_with_one_bit_flipped(bundle: Path) -> None:
    sign(bundle)
    raw = bytearray((bundle / "manifest.sig").read_bytes())
    raw[7] ^= 1
    (bundle / "manifest.sig").write_bytes(raw)


@case("signature-invalid", keys=_KEYS)
def signature_in_its_second_form(bundle: Path) -> None:
    """S plus the order of the group: a lax verifier takes it for a second signature (RFC 8032, 5.1.7)."""
    sign(bundle)
    raw = (bundle / "manifest.sig").read_bytes()
    second = int.from_bytes(raw[32:], "little") + _ORDER
    (bundle / "manifest.sig").write_bytes(raw[:32] + second.to_bytes(32, "little"))


@case("signature-invalid", keys=(bytes([1]) + bytes(31),))
def signature_under_a_key_of_small_order(bundle: Path) -> None:
    """The neutral element as R: with that key and S = 0 a verifier without checks takes it for every text."""
    (bundle / "manifest.sig").write_bytes(bytes([2]) + bytes(63))


def _edit_json(bundle: Path, name: str, change: Callable[[Any], object]) -> None:
    value = json.loads((bundle / name).read_bytes())
    change(value)
    (bundle / name).write_text(json.dumps(value), "utf-8")
    reseal(bundle)


def _golden_case(name: str, change: Callable[[Any], object]) -> None:
    @case("golden-invalid", f"golden-{name}", stage="golden")
    def make(bundle: Path) -> None:
        _edit_json(bundle, "golden.json", change)


_golden_case("unknown-key", lambda g: g.update(surprise=1))
_golden_case("tolerance-negative", lambda g: g.update(tolerance=-1))
_golden_case("tolerance-huge", lambda g: g.update(tolerance=1e300))
_golden_case("scores-missing", lambda g: g["cases"][0]["scores"].pop())
_golden_case("more-than-k", lambda g: g["cases"][0].update(k=1))
_golden_case("k-zero", lambda g: g["cases"][0].update(k=0))
_golden_case("k-huge", lambda g: g["cases"][0].update(k=2**40))
_golden_case("history-of-numbers", lambda g: g["cases"][0].update(history=[[1, 2, 3]]))


@case("json-invalid", stage="golden")
def golden_with_nan(bundle: Path) -> None:
    (bundle / "golden.json").write_bytes(b'{"tolerance": NaN, "cases": []}')
    reseal(bundle)


@case("too-large", stage="golden")
def golden_of_seventeen_megabytes(bundle: Path) -> None:
    (bundle / "golden.json").write_bytes(b" " * (17 << 20))
    reseal(bundle)


@case("too-large", stage="golden")
def golden_of_ten_thousand_cases(bundle: Path) -> None:
    """Whoever replays them all is busy for as long as a stranger likes."""
    _edit_json(bundle, "golden.json", lambda golden: golden.update(cases=golden["cases"][:1] * 10_000))


@case("too-large", stage="golden")
def golden_with_a_history_of_a_hundred_thousand(bundle: Path) -> None:
    def change(golden: Any) -> None:
        golden["cases"][0]["history"] = golden["cases"][0]["history"][:1] * 100_000

    _edit_json(bundle, "golden.json", change)


@case("tokenizer-invalid", stage="text")
def tokenizer_no_json(bundle: Path) -> None:
    (bundle / "tokenizer.json").write_bytes(b"{")
    reseal(bundle)


@case("tokenizer-invalid", stage="text")
def tokenizer_with_more_tokens_than_words(bundle: Path) -> None:
    def change(tokenizer: Any) -> None:
        tokenizer["model"]["vocab"] |= {f"more{n}": 1000 + n for n in range(1000)}

    _edit_json(bundle, "tokenizer.json", change)


@case("tokenizer-invalid", stage="text")
def tokenizer_with_a_token_beyond_the_words(bundle: Path) -> None:
    """As many tokens as rows, one of them numbered far beyond."""
    _edit_json(bundle, "tokenizer.json", lambda tokenizer: tokenizer["model"]["vocab"].update(w1=2**31))


@case("tokenizer-invalid", stage="text")
def tokenizer_without_its_unknown_token(bundle: Path) -> None:
    """It loads, and raises at the first word that it does not know."""
    _edit_json(bundle, "tokenizer.json", lambda tokenizer: tokenizer["model"].update(unk_token="absent"))


def _named(bundle: Path, change: Callable[[Header, bytearray], object]) -> None:
    """In its place a bundle with a retired item and two former names, its catalogue changed."""
    shutil.rmtree(bundle)
    write_tiny_bundle(bundle, retired=[item_id(1)], renamed={"zz1": item_id(1), "zz2": item_id(2)})
    edit_tensors(bundle, "catalogue.safetensors", change)


def _named_case(name: str, tensor: str, replacement: bytes) -> None:
    """The first bytes of a tensor of such a bundle are others."""

    @case("catalogue-invalid", f"catalogue-{name}")
    def make(bundle: Path) -> None:
        def change(header: Header, data: bytearray) -> None:
            start = header[tensor]["data_offsets"][0]
            data[start : start + len(replacement)] = replacement

        _named(bundle, change)


_named_case("retired-flag-of-two", "retired.flags", b"\x02")
_named_case("former-name-still-there", "renamed.old.bytes", item_id(1).encode())
_named_case("former-name-twice", "renamed.old.bytes", b"zz2")
_named_case("new-name-unknown", "renamed.new.bytes", b"xxx")
_named_case("former-names-not-utf8", "renamed.old.bytes", b"\xff")
_named_case("former-names-falling", "renamed.old.offsets", (4).to_bytes(8, "little"))


@case("tensors-invalid")
def retired_flags_that_nothing_requires(bundle: Path) -> None:
    _named(bundle, lambda header, data: None)
    edit_manifest(bundle, lambda manifest: manifest.update(requires=["renamed"]))


@case("tensors-invalid")
def former_names_that_are_not_there(bundle: Path) -> None:
    edit_manifest(bundle, lambda manifest: manifest.update(requires=["renamed"]))


def _tokenizer_case(name: str, **parts: Any) -> None:
    """A tokenizer with other parts, behind right hashes."""
    case("tokenizer-invalid", f"tokenizer-{name}", stage="text")(
        lambda bundle: _edit_json(bundle, "tokenizer.json", lambda tokenizer: tokenizer.update(parts))
    )


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _replace(pattern: str, content: str, kind: str = "String") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def _in_turn(*normalizers: Any) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(normalizers)}


_tokenizer_case("that-searches-without-end", pre_tokenizer=_split("(w|w)*$"))
_tokenizer_case("that-repeats-a-repetition", pre_tokenizer=_split("[a-z]{1,99}{1,99}!"))
_tokenizer_case("that-refers-back", pre_tokenizer=_split(r"(.*)\1\1!"))
_tokenizer_case("that-searches-in-its-normalizer", normalizer=_replace("(w+)+!", "", "Regex"))
_tokenizer_case("of-a-gigabyte-for-a-letter", normalizer=_in_turn(*[_replace("w", "w" * 10)] * 9))
_tokenizer_case("of-growth-in-sequences", normalizer=_in_turn(*[_in_turn(_replace("w", "w" * 9))] * 9))
_tokenizer_case("of-growth-by-nothing", normalizer=_replace("", "w" * 100, "Regex"))
_tokenizer_case("of-parts-without-end", normalizer=_in_turn(*[{"type": "Lowercase"}] * 100_000))
_tokenizer_case("with-a-part-of-its-own", normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"})
_tokenizer_case("with-a-part-that-is-none", normalizer=[{"type": "Lowercase"}])
_tokenizer_case(
    "that-pads",
    padding={
        "strategy": {"Fixed": 2**31}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "w1",
    },
)  # fmt: skip
_tokenizer_case(
    "that-writes-a-text-often",
    post_processor={
        "type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 10_000,
        "pair": [], "special_tokens": {},
    },
)  # fmt: skip
