"""Updates: a new bundle beside the live one, then a swap that is whole or does not happen (docs/updates.md).

    install("new.zip", into="bundles", public_keys=[KEY])    # checked, copied, golden vectors replayed, live
    with open_installed("bundles", history="me.db") as rec:  # the live one
        …

A version that was just installed is on trial. The first `open_installed` after it writes so, opens the
bundle, replays its golden vectors and ranks once for the stored history; then the trial is over. When that
raises, or a mark of a trial is found that nobody is at any more (the process died in it), the version before
is live again, and the failed one is remembered: it is not installed again unless asked for.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pocketrec.bundle import Bundle
from pocketrec.delta import Delta, is_delta
from pocketrec.errors import PocketrecError
from pocketrec.gate import State as Life
from pocketrec.golden import REPLAY_SECONDS
from pocketrec.history import History
from pocketrec.install_proof import blames_version, first_use, proven
from pocketrec.install_state import (
    MAX_REJECTED,
    Rejected,
    State,
    Version,
    failed,
    is_installed,
    locked,
    prune,
    read_state,
    sync_directory,
    write_file,
    write_state,
)
from pocketrec.manifest import Manifest
from pocketrec.recommender import Recommender

__all__ = ["Installed", "install", "installed", "is_installed", "open_installed", "roll_back"]

LONELY_ATTEMPTS = 3
"""Trials of a version that has none before it: a phone may kill an app at any moment, and there is nothing
else to go to."""


@dataclass(frozen=True)
class Installed:
    """What a directory of versions holds.

    Attributes:
        path: the live bundle, a directory. Open it through `open_installed`, not by this path.
        bundle_id, model_version, catalogue_version: of the live one.
        previous: bundle id of the version before, to which a failed trial goes back.
        on_trial: the live one was not yet used with success.
        rejected: versions that were rolled back, the last one last.
        changed: whether this call changed which version is live.
    """

    path: Path
    bundle_id: str
    model_version: int
    catalogue_version: int
    previous: str | None
    on_trial: bool
    rejected: tuple[Rejected, ...]
    changed: bool = False

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **vars(self),
            "path": str(self.path),
            "rejected": [rejected.model_dump() for rejected in self.rejected],
        }


def install(
    bundle: str | Path,
    into: str | Path,
    *,
    public_keys: Sequence[bytes] = (),
    engine: str | None = None,
    allow_downgrade: bool = False,
    again: bool = False,
    seconds: float = REPLAY_SECONDS,
) -> Installed:
    """Make the bundle at `bundle` the live version of the directory `into`; what was live stays beside it.

    Args:
        bundle: directory or stored ZIP; it is copied. Or a catalogue delta that leads from the live bundle.
        into: the directory of versions, made when absent. It must belong to the app alone.
        public_keys: one of them (PEM or 32 raw bytes) must have signed the bundle.
        engine: replays the golden vectors; None takes the one that `Recommender.open` would.
        allow_downgrade: also a lower model or catalogue version than the live one, or the same versions with
            other content.
        again: also a bundle that was rolled back here.
        seconds: that replaying the golden vectors may take; for an engine that is slow here.

    Returns:
        What is live now. `changed` is False when this very bundle was live already.

    Raises:
        BundleError: as `Bundle.open`; of a delta: `delta-base` (from another bundle), `delta-invalid`.
        PocketrecError: `install-downgrade`, `install-rejected`; `install-golden` (the golden vectors do not
            hold here); `engine-unavailable`, `engine-failed`; `install-failed` (the disk). What was live
            still is.
    """
    directory = Path(into)
    prove = partial(proven, public_keys=public_keys, engine=engine, seconds=seconds)
    try:
        if is_delta(bundle):
            read_state(directory)  # before the lock makes a file where nothing is installed
            with locked(directory, "install.lock"), Delta(bundle, public_keys) as delta:
                return _install_delta(directory, delta, public_keys, prove, again)
        (directory / "versions").mkdir(parents=True, exist_ok=True)
        with locked(directory, "install.lock"), Bundle.open(bundle, public_keys) as source:
            state = _state_or_none(directory)
            if state is not None:
                if _is_live(state, source.manifest) and not again:
                    return _describe(directory, state)
                _check_step(state, source.manifest, allow_downgrade, again)
            return _install(directory, lambda target: _copy_files(source, target), prove)
    except OSError as error:
        raise failed(directory, error) from error


def _install_delta(
    directory: Path, delta: Delta, public_keys: Sequence[bytes], prove: Callable[[Path], Version], again: bool
) -> Installed:
    state = read_state(directory)
    if _is_live(state, delta.manifest) and not again:
        return _describe(directory, state)
    _check_step(state, delta.manifest, False, again)
    with Bundle.open(directory / "versions" / state.live.name, public_keys) as base:
        return _install(directory, lambda target: delta.apply(base, target), prove)


def _install(directory: Path, make: Callable[[Path], None], prove: Callable[[Path], Version]) -> Installed:
    """Have `make` make a version in a new directory and `prove` check it as a stranger's, swap it in. Under
    the lock of installations."""
    work = directory / "versions" / f".new-{secrets.token_hex(8)}"
    try:
        work.mkdir()
        make(work)
        sync_directory(work)
        version = prove(work)
        with locked(directory):
            state = _state_or_none(directory)
            os.rename(work, directory / "versions" / version.name)
            sync_directory(directory / "versions")
            new = State(
                live=version,
                previous=None if state is None else _fallback(state),
                trial="waiting",
                rejected=_others(state, version),
            )
            write_state(directory, new)
            prune(directory, new)
            return _describe(directory, new, changed=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def installed(into: str | Path) -> Installed:
    """What is live in the directory; opens nothing.

    Raises:
        PocketrecError: `install-missing`, `install-damaged`.
    """
    return _describe(Path(into), read_state(Path(into)))


def roll_back(into: str | Path, reason: str = "asked for") -> Installed:
    """Make the version before the live one live again, and remember the live one as rejected.

    Raises:
        PocketrecError: `install-no-previous`; as `installed`.
    """
    directory = Path(into)
    try:
        with locked(directory, "install.lock"), locked(directory):
            state = _rolled_back(directory, read_state(directory), reason)
            return _describe(directory, state, changed=True)
    except OSError as error:
        raise failed(directory, error) from error


def open_installed(
    into: str | Path,
    history: str | Path | History = ":memory:",
    engine: str | None = None,
    *,
    public_keys: Sequence[bytes] = (),
    threads: int = 1,
    verified: str | Path | None = None,
    on_state: Callable[[Life], None] | None = None,
) -> Recommender:
    """Open the live version; what `Recommender.open` does with a directory of versions. For the arguments see
    there.

    An installation that goes on meanwhile is not waited for; the recommender keeps the version it opened. The
    first use of a new version is waited for, in all processes.

    Raises:
        PocketrecError: `install-missing`, `install-damaged`; `install-trial` (the only version died on its
            first use, again and again); and what `Recommender.open` raises.
    """
    directory = Path(into)

    def start(version: Version) -> Recommender:
        return Recommender.open(
            directory / "versions" / version.name,
            history,
            engine,
            public_keys=public_keys,
            threads=threads,
            verified=verified,
            on_state=on_state,
        )

    try:
        read_state(directory)  # before the lock makes a file in a directory that is none of ours
        with locked(directory, shared=True):
            state = read_state(directory)
            if state.trial is None:
                return start(state.live)
        with locked(directory):
            return _tried(directory, start, keep_history=isinstance(history, History))
    except OSError as error:
        raise failed(directory, error) from error


def _tried(directory: Path, start: Callable[[Version], Recommender], *, keep_history: bool) -> Recommender:
    """The recommender of the live version after its trial, or of the one before. Under the lock.

    Args:
        keep_history: the history is the caller's, and stays open when a trial fails.
    """
    state = read_state(directory)
    while state.trial is not None:
        # The lock is ours, so nobody is in the trial whose mark we find.
        if state.trial == "started" and (state.previous is not None or state.attempts >= LONELY_ATTEMPTS):
            state = _rolled_back(directory, state, "the process died during its first use")
            continue
        write_state(directory, state.model_copy(update={"trial": "started", "attempts": state.attempts + 1}))
        try:
            recommender = start(state.live)
            try:
                first_use(recommender)
            except BaseException:
                if keep_history:
                    recommender._keep(History())
                recommender.close()
                raise
        except BaseException as error:
            if state.previous is None or not blames_version(error):
                write_state(directory, state)
                raise
            reason = f"{getattr(error, 'code', type(error).__name__)}: {error}"
            state = _rolled_back(directory, state, reason)
            continue
        write_state(directory, state.model_copy(update={"trial": None, "attempts": 0}))
        return recommender
    return start(state.live)


def _copy_files(source: Bundle, target: Path) -> None:
    """The files of an open bundle, as they were hashed, into the directory `target`."""
    for name in source.sizes:
        write_file(target / name, source.file_view(name))


def _is_live(state: State, new: Manifest) -> bool:
    return (state.live.bundle_id, state.live.model_version, state.live.catalogue_version) == (
        new.bundle_id,
        new.model_version,
        new.catalogue_version,
    )


def _check_step(state: State, new: Manifest, allow_downgrade: bool, again: bool) -> None:
    live = state.live
    rejected = next((r for r in state.rejected if r.bundle_id == new.bundle_id), None)
    if rejected is not None and not again:
        raise PocketrecError(
            f"the bundle {new.bundle_id[:16]}… was rolled back here: {rejected.reason}.",
            code="install-rejected",
            remedy="Build a new version, or install this one with again=True (--again).",
        )
    before, after = (live.model_version, live.catalogue_version), (new.model_version, new.catalogue_version)
    older = after[0] < before[0] or after[1] < before[1] or after == before
    if older and not allow_downgrade and not _is_live(state, new):
        raise PocketrecError(
            f"model {after[0]}, catalogue {after[1]} is no step forward from the live model {before[0]},"
            f" catalogue {before[1]}.",
            code="install-downgrade",
            remedy="Build it with higher versions, or pass allow_downgrade=True (--allow-downgrade).",
        )


def _fallback(state: State) -> Version | None:
    """Where to go when the next version fails: to the live one, if that was ever used with success."""
    return state.live if state.trial is None or state.previous is None else state.previous


def _rolled_back(directory: Path, state: State, reason: str) -> State:
    gone = state.live
    if state.previous is None:
        raise PocketrecError(
            f"the only version in {directory} failed on its first use ({reason}).",
            code="install-trial" if state.trial else "install-no-previous",
            remedy="Install another bundle.",
        )
    rejected = Rejected(
        bundle_id=gone.bundle_id,
        model_version=gone.model_version,
        catalogue_version=gone.catalogue_version,
        reason=reason[:2000],
    )
    new = State(live=state.previous, rejected=(*state.rejected, rejected)[-MAX_REJECTED:])
    write_state(directory, new)
    # Not pruned: an installation may be at work beside this. The next one does it.
    return new


def _others(state: State | None, version: Version) -> tuple[Rejected, ...]:
    return () if state is None else tuple(r for r in state.rejected if r.bundle_id != version.bundle_id)


def _state_or_none(directory: Path) -> State | None:
    """The state; None when there is none, or it is damaged: then a new installation begins anew."""
    try:
        return read_state(directory)
    except PocketrecError as error:
        if error.code not in ("install-missing", "install-damaged"):
            raise
        return None


def _describe(directory: Path, state: State, *, changed: bool = False) -> Installed:
    live = state.live
    return Installed(
        path=directory / "versions" / live.name,
        bundle_id=live.bundle_id,
        model_version=live.model_version,
        catalogue_version=live.catalogue_version,
        previous=None if state.previous is None else state.previous.bundle_id,
        on_trial=state.trial is not None,
        rejected=state.rejected,
        changed=changed,
    )
