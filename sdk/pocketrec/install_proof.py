"""What a new version has to show before it is live, and with its first use."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path

from pocketrec.errors import BundleError, PocketrecError
from pocketrec.gate import StoppedError
from pocketrec.golden import GOLDEN_NAME, parse_golden, replay
from pocketrec.install_state import Version
from pocketrec.recommender import Recommender


def proven(path: Path, public_keys: Sequence[bytes], engine: str | None, seconds: float) -> Version:
    """Check the bundle at `path` in full, and its answers; a new name for it.

    Raises:
        BundleError: as `Bundle.open`.
        PocketrecError: as `first_use`; `engine-unavailable`.
    """
    with Recommender.open(path, engine=engine, public_keys=public_keys) as recommender:
        _replay(recommender, seconds)
        manifest = recommender.bundle.manifest
    numbers = f"{manifest.model_version}-{manifest.catalogue_version}-{manifest.bundle_id[:16]}"
    return Version(
        name=f"{numbers}-{secrets.token_hex(4)}",
        bundle_id=manifest.bundle_id,
        model_version=manifest.model_version,
        catalogue_version=manifest.catalogue_version,
    )


def first_use(recommender: Recommender) -> None:
    """All that a list goes through, on what the golden vectors ask for and on the history that is there.

    Raises:
        PocketrecError: `install-golden`, `install-slow`; what `Recommender.recommend` raises.
    """
    # Without a limit: the installation was through in time, and a busy phone is not the version's fault.
    _replay(recommender, None)
    recommender.recommend(10)


def blames_version(error: BaseException) -> bool:
    """Whether a failed first use is the version's fault, rather than the caller's arguments, the history's,
    the disk's or an interrupt."""
    if isinstance(error, BundleError):
        return not error.code.startswith("signature-")  # the keys are the caller's
    if isinstance(error, PocketrecError):
        return error.code in ("engine-failed", "install-golden", "query-invalid", "scores-invalid")
    return isinstance(error, Exception) and not isinstance(error, OSError)


def _replay(recommender: Recommender, seconds: float | None) -> None:
    golden = parse_golden(recommender.bundle.file_bytes(GOLDEN_NAME))
    try:
        mismatches = replay(recommender, golden, seconds)
    except StoppedError as error:
        raise PocketrecError(str(error), code="install-slow") from error
    if mismatches:
        first = mismatches[0]
        raise PocketrecError(
            f"{len(mismatches)} answers of the {recommender.engine} engine differ from the golden vectors;"
            f" case {first.case}: {first.reason}, {first.detail}.",
            code="install-golden",
            remedy="Run `pocketrec verify` on the bundle, or name another engine.",
        )
