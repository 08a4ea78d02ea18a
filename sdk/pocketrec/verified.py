"""Bundles that were verified before, known again by the identity of their files.

Hashing a bundle of a million items and checking its ids takes a third of a second; an app that opens the same
files every morning may not want to pay that each time. With a directory of its own given to
`Bundle.open(..., verified=directory)`, a bundle whose verification ended well leaves a note there. Its name
is the SHA-256 of this package's version, the bytes of the manifest, and for every file its name, device,
inode, size, and times of last modification and of last change in nanoseconds. A later opening that finds the
note skips the hashes and the checks of the catalogue; the manifest, the listing, the signature when keys are
given, and the tensors are checked as always.

It is off unless asked for, because it moves trust: from the bytes to the file system.

* Whoever can write into the directory can have an altered bundle accepted. So it must belong to this user and
  to nobody else's pen; otherwise it is not used, with an error. Keep it where an app's private files are.
* Whoever can change the files *and* set the clock, or write to the disk beneath the file system, can
  forge the time of last change, which nothing else can set. Bits that rot on the disk are not noticed either.
* A file changed less than two seconds ago is not noted: a second change in the same tick of the file system's
  clock could not be told from the first.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from collections.abc import Iterable
from pathlib import Path

from pocketrec.errors import PocketrecError

_KEPT = 64  # notes of bundles long gone are of no use
_SETTLED_NS = 2 * 10**9

Identity = tuple[int, int, int, int, int]
"""Device, inode, bytes, and modification and change times in nanoseconds."""


def identity(status: os.stat_result) -> Identity:
    """What an open file is known by."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class Verified:
    """The notes in one directory.

    Args:
        directory: made, for this user alone, when it is not there.

    Raises:
        PocketrecError: `verified-unsafe` when others own it or may write to it; `verified-unusable` when it
            cannot be made or is no directory.
    """

    def __init__(self, directory: str | Path) -> None:
        self._directory = Path(directory)
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self._directory.lstat()
        except OSError as error:
            raise PocketrecError(
                f"{directory} cannot hold notes of verified bundles: {error}.",
                code="verified-unusable",
                remedy="Give a directory of your own, or leave `verified` out.",
            ) from error
        foreign = hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022)
        if foreign or not stat.S_ISDIR(status.st_mode):
            raise PocketrecError(
                f"{directory} is not a directory that only this user writes to.",
                code="verified-unsafe",
                remedy=f"chmod 700 {directory}, or choose another.",
            )

    @staticmethod
    def name(version: str, manifest: bytes, sizes: dict[str, int], files: Iterable[Identity]) -> str:
        """The name of the note for these files: their names and sizes, and who they are, in one order."""
        listing = repr((version, hashlib.sha256(manifest).hexdigest(), list(sizes.items()), list(files)))
        return hashlib.sha256(listing.encode()).hexdigest()

    def __contains__(self, name: str) -> bool:
        try:
            return stat.S_ISREG((self._directory / name).lstat().st_mode)
        except OSError:
            return False

    def add(self, name: str, files: Iterable[Identity]) -> None:
        """Leave a note, unless a file changed a moment ago. A full disk or the like only means no note."""
        if max((changed for *_, changed in files), default=0) > time.time_ns() - _SETTLED_NS:
            return
        with contextlib.suppress(OSError):
            (self._directory / name).touch(mode=0o600)
            notes = sorted(self._directory.iterdir(), key=lambda note: note.lstat().st_mtime_ns)
            for note in notes[:-_KEPT]:
                note.unlink()
