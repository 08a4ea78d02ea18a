"""Every error pocketrec raises on purpose.

Each one names the value that was wrong and what to do about it, and carries a stable `code` that an app can
switch on; the words may change between releases, the codes do not.
"""

from __future__ import annotations


class PocketrecError(Exception):
    """Base of all errors of pocketrec.

    Args:
        message: what is wrong, naming the offending value.
        code: stable machine-readable reason, kebab-case.
        remedy: what the reader can do about it; may be empty when the message already says so.
    """

    default_code = "error"

    def __init__(self, message: str, *, code: str | None = None, remedy: str = "") -> None:
        super().__init__(f"{message} {remedy}".rstrip())
        self.code = code or self.default_code
        self.remedy = remedy


class BundleError(PocketrecError):
    """A bundle that is missing, damaged, hostile, unsigned where it must be signed, or too new."""

    default_code = "bundle-invalid"


class DataError(PocketrecError):
    """A data directory, a file in it, or a request whose values cannot be used."""

    default_code = "data-invalid"
