"""What a directory of installed versions holds, and how it changes: one file renamed over another.

    DIR/installed.json            which version is live, which was before it, how the trial stands
    DIR/versions/NAME/            a bundle, never changed once it has this name
    DIR/versions/.new-…/          one that is being made, or that a killed installation left
    DIR/lock, DIR/install.lock    locks, empty

Whoever reads `installed.json` finds the old state or the new one, whole. Locks belong to an open file, so
they work between threads as between processes, and go when a process dies.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationError

from pocketrec.errors import BundleError, PocketrecError
from pocketrec.manifest import Digest, Part, describe_faults, load_json

STATE_NAME = "installed.json"
MAX_STATE_BYTES = 1 << 20
MAX_REJECTED = 16

VersionName = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,10}-[0-9]{1,10}-[0-9a-f]{16}-[0-9a-f]{8}$")]


class Version(Part):
    """An installed bundle: its directory below `versions`, and what its manifest says."""

    name: VersionName
    bundle_id: Digest
    model_version: int = Field(ge=1, lt=2**31)
    catalogue_version: int = Field(ge=1, lt=2**31)


class Rejected(Part):
    """A version that was rolled back, and why."""

    bundle_id: Digest
    model_version: int
    catalogue_version: int
    reason: Annotated[str, StringConstraints(max_length=2000)]


class State(Part):
    """The whole of `installed.json`.

    Attributes:
        trial: `None` when the live version was used with success; `waiting` for its first use; or `started`.
        attempts: how often the trial was started.
    """

    format: Literal["pocketrec-installed"] = "pocketrec-installed"
    live: Version
    previous: Version | None = None
    trial: Literal["waiting", "started"] | None = None
    attempts: int = Field(default=0, ge=0, lt=1000)
    rejected: tuple[Rejected, ...] = Field(default=(), max_length=MAX_REJECTED)


def is_installed(directory: str | Path) -> bool:
    """Whether this is a directory that `install` made, rather than a bundle."""
    return os.path.isfile(Path(directory) / STATE_NAME)


def read_state(directory: Path) -> State:
    """The state as it is now.

    Raises:
        PocketrecError: `install-missing`, nothing was installed there; `install-damaged`.
    """
    try:
        with open(directory / STATE_NAME, "rb") as file:
            data = file.read(MAX_STATE_BYTES + 1)
    except FileNotFoundError:
        raise PocketrecError(
            f"nothing is installed in {directory}.",
            code="install-missing",
            remedy="Install a bundle there: `pocketrec install BUNDLE DIR`.",
        ) from None
    except OSError as error:
        raise _damaged(directory, str(error)) from None
    try:
        if len(data) > MAX_STATE_BYTES:
            raise ValueError("it is too long")
        load_json(data, STATE_NAME)
        return State.model_validate_json(data)
    except ValidationError as error:
        raise _damaged(directory, describe_faults(error)) from None
    except (ValueError, BundleError) as error:
        raise _damaged(directory, str(error)) from None


def write_state(directory: Path, state: State) -> None:
    """Replace the state, durably: afterwards every reader, also after a power failure, finds this one."""
    work = directory / f".{STATE_NAME}-{secrets.token_hex(4)}"
    try:
        with open(work, "xb") as file:
            file.write(state.model_dump_json(indent=1).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(work, directory / STATE_NAME)
    finally:
        work.unlink(missing_ok=True)
    sync_directory(directory)


def prune(directory: Path, state: State) -> None:
    """Remove versions that the state does not name, and what killed installations left. Call it under both
    locks. What cannot be removed now (Windows keeps what is mapped) goes the next time."""
    kept = {version.name for version in (state.live, state.previous) if version is not None}
    with contextlib.suppress(OSError):
        for path in (directory / "versions").iterdir():
            if path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)
        for path in directory.glob(f".{STATE_NAME}-*"):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(directory: Path, name: str = "lock", *, shared: bool = False) -> Iterator[None]:
    """Hold a lock of the directory, waiting for it. Without `fcntl` (Windows) there is none: there, one
    process at a time may install."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        handle = os.open(directory / name, os.O_RDONLY | os.O_CLOEXEC)  # the disk may be read-only by now
    except FileNotFoundError:
        handle = os.open(directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def sync_directory(path: Path) -> None:
    """Make new names in a directory durable, where the system lets a directory be flushed."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(path: Path, data: memoryview) -> None:
    """Write and flush a new file."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def failed(directory: Path, error: OSError) -> PocketrecError:
    """The error for what the disk refuses."""
    return PocketrecError(
        f"{directory} cannot be written: {error}.",
        code="install-failed",
        remedy="Check the path, its rights and the space on the disk; what was live still is.",
    )


def _damaged(directory: Path, why: str) -> PocketrecError:
    return PocketrecError(
        f"{directory / STATE_NAME} is damaged: {why}.",
        code="install-damaged",
        remedy="Install a bundle there again.",
    )
