"""The mutator of ZIP structure: members, headers and the end record, each by its fields."""

from __future__ import annotations

import random
import struct
import zlib
from dataclasses import dataclass, field, replace

from pocketrec_tools.fuzz_mutate import mutate_bytes

# version, flags, method, time, date, CRC, compressed, size, name length, extra length
_LOCAL, _LOCAL_FIELDS = "<4s5H3I2H", ("version", "flags", "method", "time", "date", "crc", "packed", "size")
_CENTRAL, _END, _END64 = "<4s6H3I5H2I", "<4s4H2IH", "<4sQ2H2I4Q"
_HALF = (0, 1, 2, 8, 0x800, 0x801, 12, 99, 0xFFFF)
_WORD = (0, 1, 63, 64, 100, 2**31, 2**32 - 2, 2**32 - 1)
_NAMES = (
    "../x", "/etc/passwd", "a/b", "", ".hidden", "manifest.json", "MANIFEST.JSON", "x" * 65, "é", "a\0b",
    "delta.json", "con", "model.onnx", "surplus.bin",
)  # fmt: skip

# ZIP64 sizes, a torn field, padding, and the name once more in Unicode.
_EXTRAS = (b"\x01\0\x10\0" + b"\xff" * 16, b"x", bytes(40), b"\x75\x70\x05\0" + b"x" * 5)
_TAILS = (b"x", bytes(22), b"PK\5\6" + bytes(18), b"PK\6\7" + bytes(16))


@dataclass
class _Member:
    """A member as its two headers see it; `central` holds fields in which the directory says otherwise."""

    name: bytes
    data: bytes
    local: dict[str, int]
    central: dict[str, int] = field(default_factory=dict)
    extra: bytes = b""
    gap: bytes = b""  # before it


def mutate_zip(files: dict[str, bytes], chance: random.Random) -> bytes:
    """A stored ZIP of the files with one to three faults of structure."""
    members = [_member(name, data) for name, data in files.items()]
    end: dict[str, int] = {}
    tail = [b"", b""]  # before the end record, and after it
    for _ in range(chance.randint(1, 3)):
        _edit(members, end, tail, chance)
    whole = _build(members, end, tail, wide=chance.random() < 0.1)
    return mutate_bytes(whole, chance) if chance.random() < 0.1 else whole


def _member(name: str, data: bytes) -> _Member:
    raw = name.encode("utf-8", "surrogatepass")
    return _Member(
        raw, data,
        {"version": 20, "flags": 0, "method": 0, "time": 0, "date": 33, "crc": zlib.crc32(data),
         "packed": len(data), "size": len(data), "name": len(raw), "offset": 0, "mode": 0o100644 << 16},
    )  # fmt: skip


def _edit(members: list[_Member], end: dict[str, int], tail: list[bytes], chance: random.Random) -> None:
    at = chance.randrange(len(members))
    member = members[at]
    match chance.randrange(13):
        case 0:  # both headers lie alike
            name = chance.choice(_LOCAL_FIELDS)
            member.local[name] = chance.choice(_HALF if name in ("version", "flags", "method") else _WORD)
        case 1:
            name = chance.choice((*_LOCAL_FIELDS, "offset", "mode"))
            short = name in ("version", "flags", "method")
            member.central[name] = chance.choice(_HALF if short else (*_WORD, 0o120777 << 16, 0o040755 << 16))
        case 2:
            members.insert(chance.randrange(len(members) + 1), replace(member, local=dict(member.local)))
        case 3:
            del members[at]
            if not members:
                members.append(member)
        case 4:
            members[at] = replace(member, name=chance.choice(_NAMES).encode())
        case 5:
            member.gap = bytes(chance.choice((1, 30, 64)))
        case 6:
            member.extra = chance.choice(_EXTRAS)
        case 7:
            chance.shuffle(members)
        case 8:
            end[chance.choice(("disk", "count", "total", "bytes", "start", "comment"))] = chance.choice(_WORD)
        case 9:
            tail[chance.randrange(2)] = chance.choice(_TAILS)
        case 10:
            packer = zlib.compressobj(wbits=-15)
            packed = packer.compress(member.data) + packer.flush()
            member.local |= {"method": 8, "packed": len(packed)}
            member.data = packed
        case 11:
            member.data = mutate_bytes(member.data, chance)
            member.local |= {
                "packed": len(member.data),
                "size": len(member.data),
                "crc": zlib.crc32(member.data),
            }
        case _:
            for number in range(chance.choice((1, 60, 70))):
                members.append(_member(f"more{number}", b""))


def _build(members: list[_Member], end: dict[str, int], tail: list[bytes], wide: bool) -> bytes:
    out, directory = bytearray(), bytearray()
    for m in members:
        out += m.gap
        here, there = m.local, m.local | {"offset": len(out)} | m.central
        out += struct.pack(
            _LOCAL, b"PK\3\4", *(_cut(here[name], name) for name in _LOCAL_FIELDS), len(m.name), len(m.extra)
        )
        out += m.name + m.extra + m.data
        fields = [_cut(there[name], name) for name in _LOCAL_FIELDS]
        directory += struct.pack(
            _CENTRAL, b"PK\1\2", 0x314, *fields, len(m.name), 0, 0, 0, 0,
            there["mode"] % 2**32, there["offset"] % 2**32,
        )  # fmt: skip
        directory += m.name
    start, count = len(out), len(members)
    out += directory + tail[0]
    if wide:
        place = len(out)
        out += struct.pack(
            _END64, b"PK\6\6", 44, 45, 45, 0, 0, count, end.get("total", count),
            end.get("bytes", len(directory)), end.get("start", start),
        )  # fmt: skip
        out += struct.pack("<4sIQI", b"PK\6\7", 0, place, 1)
    last = (0xFFFF, 2**32 - 1, 2**32 - 1) if wide else (count, len(directory), start)
    out += struct.pack(
        _END, b"PK\5\6", end.get("disk", 0) % 65536, 0, end.get("count", last[0]) % 65536,
        end.get("total", last[0]) % 65536, end.get("bytes", last[1]), end.get("start", last[2]),
        end.get("comment", 0) % 65536,
    )  # fmt: skip
    return bytes(out + tail[1])


def _cut(value: int, name: str) -> int:
    return value % (2**16 if name in ("version", "flags", "method", "time", "date") else 2**32)
