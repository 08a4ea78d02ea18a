"""Archives of the hostile corpus, see hostile.py."""

from __future__ import annotations

import zipfile
from pathlib import Path

from hostile_base import case


def pack(bundle: Path, entries: list[tuple[zipfile.ZipInfo, bytes]], comment: bytes = b"") -> Path:
    """A ZIP of these entries beside the bundle."""
    out = bundle.with_suffix(".zip")
    with zipfile.ZipFile(out, "w") as archive:
        for info, data in entries:
            archive.writestr(info, data)
        archive.comment = comment
    return out


def members(bundle: Path) -> list[tuple[zipfile.ZipInfo, bytes]]:
    """The bundle's files as stored members."""
    return [(zipfile.ZipInfo(path.name), path.read_bytes()) for path in sorted(bundle.iterdir())]


@case("zip-invalid")
def zip_compressed(bundle: Path) -> Path:
    entries = members(bundle)
    entries[2][0].compress_type = zipfile.ZIP_DEFLATED
    return pack(bundle, entries)


@case("name-twice")
def zip_with_a_name_twice(bundle: Path) -> Path:
    entries = members(bundle)
    out = pack(bundle, [*entries, (zipfile.ZipInfo("golden.jsoN"), entries[0][1])])
    out.write_bytes(out.read_bytes().replace(b"golden.jsoN", b"golden.json"))
    return out


@case("name-invalid")
def zip_with_a_path_upwards(bundle: Path) -> Path:
    return pack(bundle, [*members(bundle), (zipfile.ZipInfo("../evil"), b"x")])


@case("name-invalid")
def zip_with_a_folder(bundle: Path) -> Path:
    return pack(
        bundle, [(zipfile.ZipInfo("bundle/" + info.filename), data) for info, data in members(bundle)]
    )


@case("file-special")
def zip_with_a_link(bundle: Path) -> Path:
    entries = members(bundle)
    entries[1][0].create_system = 3
    entries[1][0].external_attr = 0o120777 << 16
    return pack(bundle, entries)


@case("zip-invalid")
def zip_with_a_comment(bundle: Path) -> Path:
    return pack(bundle, members(bundle), comment=b"hello")


@case("zip-invalid")
def zip_with_something_in_front(bundle: Path) -> Path:
    out = pack(bundle, members(bundle))
    out.write_bytes(b"#!/bin/sh\n" + out.read_bytes())
    return out


@case("zip-invalid")
def zip_truncated(bundle: Path) -> Path:
    out = pack(bundle, members(bundle))
    out.write_bytes(out.read_bytes()[:-30])
    return out


@case("zip-invalid")
def zip_encrypted(bundle: Path) -> Path:
    return _patch_first_headers(bundle, local=6, central=8, value=1)


@case("zip-invalid")
def zip_whose_headers_disagree(bundle: Path) -> Path:
    return _patch_first_headers(bundle, local=22, central=None, value=1)


@case("zip-invalid")
def zip_whose_members_overlap(bundle: Path) -> Path:
    """Two entries of the directory point at one member."""
    out = pack(bundle, members(bundle))
    raw = bytearray(out.read_bytes())
    first = raw.index(b"PK\x01\x02")
    second = raw.index(b"PK\x01\x02", first + 4)
    raw[second + 42 : second + 46] = raw[first + 42 : first + 46]
    out.write_bytes(raw)
    return out


@case("too-many-files")
def zip_of_a_thousand(bundle: Path) -> Path:
    return pack(bundle, members(bundle) + [(zipfile.ZipInfo(f"x{n}"), b"") for n in range(1000)])


@case("manifest-missing")
def zip_without_manifest(bundle: Path) -> Path:
    return pack(bundle, [entry for entry in members(bundle) if entry[0].filename != "manifest.json"])


@case("zip-invalid")
def no_zip_at_all(bundle: Path) -> Path:
    out = bundle.with_suffix(".zip")
    out.write_bytes(b"some text")
    return out


@case("zip-invalid")
def empty_file(bundle: Path) -> Path:
    out = bundle.with_suffix(".zip")
    out.write_bytes(b"")
    return out


@case("bundle-missing")
def nothing_there(bundle: Path) -> Path:
    return bundle / "nothing"


def _patch_first_headers(bundle: Path, local: int, central: int | None, value: int) -> Path:
    """A ZIP with one byte changed in the first local header and, if asked, in the first central one."""
    out = pack(bundle, members(bundle))
    raw = bytearray(out.read_bytes())
    raw[local] ^= value
    if central is not None:
        raw[raw.index(b"PK\x01\x02") + central] ^= value
    out.write_bytes(raw)
    return out
