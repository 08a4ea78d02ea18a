"""`pocketrec verify`: everything that can be checked about a bundle, on every runtime that is here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pocketrec.bundle import Bundle
from pocketrec.diagnosis import diagnose
from pocketrec.errors import BundleError, PocketrecError
from pocketrec.golden import GOLDEN_NAME, Golden, parse_golden, replay
from pocketrec.recommender import Recommender

Status = Literal["ok", "failed", "skipped"]
_SHOWN = 3  # mismatches named in a detail


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes:
        name: `bundle` (limits, hashes, manifest, tables), `signature`, `golden` (the file), or the name of an
            engine (its golden vectors).
        status: `skipped` is no failure: there was nothing to check it with.
        detail: what was found.
        code: of the error, when there was one.
    """

    name: str
    status: Status
    detail: str
    code: str = ""


@dataclass(frozen=True)
class Verification:
    """The outcome of `verify`; `ok` when no check failed."""

    path: str
    bundle_id: str | None
    checks: list[Check]

    @property
    def ok(self) -> bool:
        """No check failed."""
        return all(check.status != "failed" for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        checks = [asdict(check) for check in self.checks]
        return {"path": self.path, "bundle_id": self.bundle_id, "ok": self.ok, "checks": checks}


def verify(path: str | Path, public_keys: Sequence[bytes] = ()) -> Verification:
    """Check the bundle's files, its signature when keys are given, and its golden vectors on every engine
    present.

    Raises:
        BundleError: there is nothing at `path` (`bundle-missing`) or it cannot be read (`bundle-unreadable`).
        PocketrecError: `key-invalid`. Every other fault is a failed check.
    """
    try:
        bundle = Bundle.open(path, public_keys)
    except BundleError as error:
        if error.code in ("bundle-missing", "bundle-unreadable"):
            raise
        return Verification(str(path), None, [Check("bundle", "failed", str(error), error.code)])
    with bundle:
        manifest = bundle.manifest
        count = len(bundle.sizes)
        checks = [
            Check("bundle", "ok", f"{count} files, {sum(bundle.sizes.values())} bytes: as the manifest says"),
            _signature(bundle, len(public_keys)),
        ]
        golden, check = _golden(bundle)
        checks.append(check)
        if golden is not None and golden.cases:
            checks += [_engine(path, name, golden) for name in sorted(manifest.engines)]
    return Verification(str(path), manifest.bundle_id, checks)


def _signature(bundle: Bundle, keys: int) -> Check:
    if bundle.signer_checked:
        return Check(
            "signature", "ok", f"made by one of the {keys} public keys" if keys > 1 else "made by the key"
        )
    have = "there is one" if bundle.signed else "there is none"
    return Check("signature", "skipped", f"{have}; no public key was given")


def _golden(bundle: Bundle) -> tuple[Golden | None, Check]:
    try:
        golden = parse_golden(bundle.file_bytes(GOLDEN_NAME))
    except BundleError as error:
        return None, Check("golden", "failed", str(error), error.code)
    if not golden.cases:
        return golden, Check("golden", "skipped", "the bundle holds no golden vectors")
    return golden, Check("golden", "ok", f"{len(golden.cases)} cases, tolerance {golden.tolerance:g}")


def _engine(path: str | Path, name: str, golden: Golden) -> Check:
    try:
        with Recommender.open(path, engine=name) as recommender:
            mismatches = replay(recommender, golden)
    except PocketrecError as error:
        status: Status = "skipped" if error.code == "engine-unavailable" else "failed"
        return Check(name, status, str(error), error.code)
    if not mismatches:
        return Check(name, "ok", f"agrees with all {len(golden.cases)} golden vectors")
    wrong = len({mismatch.case for mismatch in mismatches})
    shown = "; ".join(f"case {m.case}, {m.reason}: {m.detail}" for m in mismatches[:_SHOWN])
    more = f"; and {len(mismatches) - _SHOWN} more" if len(mismatches) > _SHOWN else ""
    detail = f"disagrees with {wrong} of {len(golden.cases)} golden vectors: {shown}{more}."
    detail = f"{detail} {diagnose(path, name)}".rstrip()
    return Check(name, "failed", detail, "golden-mismatch")
