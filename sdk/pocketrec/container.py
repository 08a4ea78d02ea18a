"""Where a bundle's files lie: a directory, or a ZIP of stored members (docs/bundle.md, section 1).

Both give every file as a read-only memory map. Names, kinds and limits are checked here, before a byte of a
file is used. What was mapped stays what it was: a directory is read through one descriptor, so that a bundle
which is swapped while it is opened is never mixed with its successor.
"""

from __future__ import annotations

import mmap
import os
import stat
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from pocketrec.errors import BundleError
from pocketrec.manifest import (
    FILE_NAME,
    MANIFEST_NAME,
    MAX_FILE_BYTES,
    MAX_FILES,
    MAX_MANIFEST_BYTES,
    SIGNATURE_NAME,
)
from pocketrec.verified import Identity, identity

_MAX_MEMBERS = MAX_FILES + 2  # the manifest and its signature are not listed
_EOCD = b"PK\x05\x06"
_EOCD_SIZE = 22
_LOCATOR_SIZE = 20
_END64_SIZE = 56
_LOCAL = b"PK\x03\x04"
_LOCAL_SIZE = 30
_UTF8_NAME = 0x800


class Container:
    """Read-only views of the files of one bundle; `close` lets go of them (arrays handed out keep theirs
    alive)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._views: dict[str, memoryview] = {}
        self._maps: list[mmap.mmap] = []
        self.identities: list[Identity] = []

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of every file, by name."""
        return {name: len(view) for name, view in self._views.items()}

    def view(self, name: str) -> memoryview:
        """The whole file, without copying it."""
        return self._views[name]

    def close(self) -> None:
        """Let go of the maps. One that an array still looks into goes when the array does."""
        self._views.clear()
        for mapped in self._maps:
            with suppress(BufferError):
                mapped.close()
        self._maps.clear()

    def _map(self, descriptor: int, size: int) -> memoryview:
        if size == 0:  # an empty file cannot be mapped
            return memoryview(b"")
        self.identities.append(identity(os.fstat(descriptor)))
        mapped = mmap.mmap(descriptor, size, access=mmap.ACCESS_READ)
        self._maps.append(mapped)
        return memoryview(mapped)


def open_container(path: Path) -> Container:
    """The files of the bundle at `path`, mapped.

    Raises:
        BundleError: nothing there, not a bundle, or a name, kind, size or ZIP feature that section 1 forbids.
    """
    try:
        kind = os.stat(path).st_mode
        if stat.S_ISDIR(kind):
            return _Directory(path)
        if stat.S_ISREG(kind):
            return _Zip(path)
    except FileNotFoundError:
        raise BundleError(
            f"there is no bundle at {path}.",
            code="bundle-missing",
            remedy="Check the path, or make one with `pocketrec build`.",
        ) from None
    except OSError as error:
        raise BundleError(
            f"the bundle at {path} cannot be read: {error}.",
            code="bundle-unreadable",
            remedy="Check its permissions.",
        ) from None
    raise BundleError(f"{path} is neither a directory nor a file.", code="bundle-missing")


class _Directory(Container):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        anchored = os.open in os.supports_dir_fd and os.scandir in os.supports_fd
        handle = os.open(path, os.O_RDONLY) if anchored else None
        try:
            with os.scandir(path if handle is None else handle) as entries:
                names: list[str] = []
                for entry in entries:
                    if len(names) > _MAX_MEMBERS:
                        raise _too_many(path)
                    _check_name(entry.name)
                    if not entry.is_file(follow_symlinks=False):
                        raise _special(entry.name)
                    names.append(entry.name)
            _check_names(names, path)
            for name in sorted(names):
                self._views[name] = self._map_file(name, handle)
        except BaseException:
            self.close()
            raise
        finally:
            if handle is not None:
                os.close(handle)

    def _map_file(self, name: str, handle: int | None) -> memoryview:
        flags = (
            os.O_RDONLY
            | getattr(os, "O_NOFOLLOW", 0)
            | getattr(os, "O_BINARY", 0)
            | getattr(os, "O_NONBLOCK", 0)
        )
        where = name if handle is not None else os.fspath(self.path / name)
        descriptor = os.open(where, flags, dir_fd=handle)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise _special(name)
            _check_size(name, status.st_size)
            return self._map(descriptor, status.st_size)
        finally:
            os.close(descriptor)


class _Zip(Container):
    """Stricter than ZIP: members stored, one behind the other from byte 0, nothing between them and no
    comment."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                _check_directory_size(file, size, path)
                members = self._members(file)
                whole = self._map(file.fileno(), size)
                self._views = _locate(members, whole)
        except BaseException:
            self.close()
            raise

    def _members(self, file: BinaryIO) -> zipfile.ZipFile:
        try:
            members = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, OverflowError) as error:
            raise _bad_zip(f"{self.path.name}: {error}") from None
        _check_names([info.filename for info in members.infolist()], self.path)
        return members


def _check_directory_size(file: BinaryIO, size: int, path: Path) -> None:
    """Bound what `zipfile` is going to read into memory: it takes the whole central directory at once."""
    tail_size = _EOCD_SIZE + _LOCATOR_SIZE + _END64_SIZE
    file.seek(max(0, size - tail_size))
    tail = file.read(tail_size)
    end = tail[-_EOCD_SIZE:]
    if not end.startswith(_EOCD) or end[20:22] != b"\0\0":
        raise BundleError(
            f"{path} is neither a bundle directory nor a plain ZIP archive.",
            code="zip-invalid",
            remedy="Zip the bundle with `pocketrec build --out NAME.zip`, or get it again.",
        )
    count, directory_bytes = int.from_bytes(end[10:12], "little"), int.from_bytes(end[12:16], "little")
    end64 = tail[:_END64_SIZE]
    if end64.startswith(b"PK\x06\x06") and tail[_END64_SIZE:].startswith(b"PK\x06\x07"):
        count, directory_bytes = (
            int.from_bytes(end64[32:40], "little"),
            int.from_bytes(end64[40:48], "little"),
        )
    if count > _MAX_MEMBERS:
        raise _too_many(path)
    if directory_bytes > MAX_MANIFEST_BYTES:
        raise _bad_zip(f"{path.name} has a central directory of {directory_bytes} bytes")


def _locate(members: zipfile.ZipFile, whole: memoryview) -> dict[str, memoryview]:
    """Where each member's data lies, after checking that local and central headers say the same."""
    views: dict[str, memoryview] = {}
    end = 0
    for info in sorted(members.infolist(), key=lambda info: info.header_offset):
        name = info.filename
        _check_name(name)
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise _bad_zip(f"{name} is compressed", "Store the members: tables are mapped where they lie.")
        if info.flag_bits & ~_UTF8_NAME:
            raise _bad_zip(f"{name} has the flags {info.flag_bits:#x}")
        mode = info.external_attr >> 16
        if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise _special(name)
        _check_size(name, info.file_size)
        start = info.header_offset
        if start != end:
            raise _bad_zip(f"{name} starts at byte {start}, the member before ends at {end}")
        local = bytes(whole[start : start + _LOCAL_SIZE])
        name_size, extra_size = int.from_bytes(local[26:28], "little"), int.from_bytes(local[28:30], "little")
        data = start + _LOCAL_SIZE + name_size + extra_size
        end = data + info.file_size
        local_name = bytes(whole[start + _LOCAL_SIZE : start + _LOCAL_SIZE + name_size])
        agrees = (
            local.startswith(_LOCAL)
            and local_name == name.encode()
            and int.from_bytes(local[6:8], "little") & ~_UTF8_NAME == 0
            and int.from_bytes(local[8:10], "little") == zipfile.ZIP_STORED
            and int.from_bytes(local[22:26], "little") in (info.file_size, 0xFFFFFFFF)
        )
        if not agrees:
            raise _bad_zip(f"the local header of {name} contradicts the central directory")
        if end > members.start_dir:
            raise _bad_zip(f"{name} runs past the end of the members")
        views[name] = whole[data:end]
    if end != members.start_dir:
        raise _bad_zip(
            f"{members.start_dir - end} bytes lie between the last member and the central directory"
        )
    return views


def _check_names(names: Iterable[str], path: Path) -> None:
    seen: set[str] = set()
    for name in names:
        _check_name(name)
        if name in seen:
            raise BundleError(f"{path} holds {name} twice.", code="name-twice")
        seen.add(name)
    if len(seen) > _MAX_MEMBERS:
        raise _too_many(path)
    if MANIFEST_NAME not in seen:
        raise BundleError(
            f"{path} holds no {MANIFEST_NAME}.",
            code="manifest-missing",
            remedy="Point at a bundle that `pocketrec build` made.",
        )


def _check_name(name: str) -> None:
    if not FILE_NAME.fullmatch(name):
        raise BundleError(
            f"a bundle must not hold a file named {name[:80]!r}.",
            code="name-invalid",
            remedy="Names are letters, digits, dot, dash and underscore; there are no folders.",
        )


def _check_size(name: str, size: int) -> None:
    limit = {MANIFEST_NAME: MAX_MANIFEST_BYTES, SIGNATURE_NAME: 64}.get(name, MAX_FILE_BYTES)
    if size > limit:
        raise BundleError(f"{name} has {size} bytes; at most {limit} are allowed.", code="too-large")


def _special(name: str) -> BundleError:
    return BundleError(
        f"{name} is a link, a folder or another special file.",
        code="file-special",
        remedy="A bundle holds plain files only.",
    )


def _too_many(path: Path) -> BundleError:
    return BundleError(
        f"{path} holds more than {_MAX_MEMBERS} files.",
        code="too-many-files",
        remedy="Point at the bundle itself, not at a folder around it.",
    )


def _bad_zip(what: str, remedy: str = "Get the archive again.") -> BundleError:
    return BundleError(f"{what}.", code="zip-invalid", remedy=remedy)
