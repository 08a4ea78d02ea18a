"""Mutated bundles: each is refused with a typed error, or says what the sound one says.

    python -m pocketrec_tools.fuzz [--runs 10000] [--seed 0]

A mutation is one to four of: a byte changed, a piece cut out, doubled or moved, a number of JSON or a header
replaced by one at a border. It is made to the stored ZIP, or to one file of the directory behind hashes that
are put right again. An archive that breaks a law is written into the current directory as `fuzz-SEED-RUN`.
There is no feedback from coverage.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from pocketrec.bundle import Bundle
from pocketrec.errors import BundleError
from pocketrec_export.writer import zip_directory
from pocketrec_tools.soak_bundle import write_small_bundle

SLOWEST_SECONDS = 10.0
_BORDERS = (b"0", b"-1", b"1e999", b"4294967296", b"9223372036854775808", b"true", b"null", b'""', b"[]")
_NUMBER = re.compile(rb"-?\d+")


def mutate(raw: bytes, chance: random.Random) -> bytes:
    """The bytes with one to four changes."""
    data = bytearray(raw)
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(data) or 1)
        size = chance.choice((1, 2, 4, 8, 64, 1000))
        match chance.randrange(5):
            case 0 if data:
                data[start] ^= chance.randint(1, 255)
            case 1:
                del data[start : start + size]
            case 2:
                data[start:start] = data[start : start + size]
            case 3:
                piece = data[start : start + size]
                del data[start : start + size]
                place = chance.randrange(len(data) + 1)
                data[place:place] = piece
            case _:
                found = list(_NUMBER.finditer(data[:4096]))
                if found:
                    match = chance.choice(found)
                    data[match.start() : match.end()] = chance.choice(_BORDERS)
    return bytes(data)


def reseal(files: dict[str, bytes]) -> None:
    """Sizes, hashes and id in the manifest as the files are."""
    manifest = json.loads(files["manifest.json"])
    listing = ""
    for name in sorted(manifest["files"], key=str.encode):
        digest = hashlib.sha256(files[name]).hexdigest()
        manifest["files"][name] = {"size": len(files[name]), "sha256": digest}
        listing += f"{name} {digest}\n"
    manifest["bundle_id"] = hashlib.sha256(listing.encode()).hexdigest()
    files["manifest.json"] = json.dumps(manifest).encode()


def fuzz(runs: int, seed: int) -> Counter[str]:
    """How often each code was the answer; "opened, resealed" and "opened, the same" where it opened.

    Raises:
        AssertionError: a law is broken; the input is kept.
    """
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as work:
        root = Path(work)
        good = write_small_bundle(root / "good", [f"item{n}" for n in range(20)], 1)
        zip_directory(good, root / "good.zip")
        whole = (root / "good.zip").read_bytes()
        files = {path.name: path.read_bytes() for path in good.iterdir()}
        for run in range(runs):
            chance = random.Random(f"{seed}-{run}")
            resealed = chance.random() < 0.5
            out = root / "case.zip"
            if resealed:
                mutated = dict(files)
                name = chance.choice([name for name in sorted(files) if name != "manifest.json"])
                mutated[name] = mutate(files[name], chance)
                reseal(mutated)
                folder = root / "case"
                folder.mkdir(exist_ok=True)
                for name, data in mutated.items():
                    (folder / name).write_bytes(data)
                out = folder
            else:
                out.write_bytes(mutate(whole, chance))
            start = time.monotonic()
            try:
                with Bundle.open(out) as bundle:
                    same = all(bundle.file_bytes(n) == d for n, d in files.items() if n != "manifest.json")
                    code = "opened, resealed" if resealed else "opened, the same"
                    assert resealed or same, "an altered archive was accepted"
            except BundleError as error:
                code = error.code
            except Exception as error:
                if not resealed:
                    Path(f"fuzz-{seed}-{run}").write_bytes(out.read_bytes())
                raise AssertionError(f"run {run} of seed {seed}: {error!r}") from error
            assert time.monotonic() - start < SLOWEST_SECONDS, f"run {run} of seed {seed} took too long"
            found[code] += 1
    return found


def main() -> None:
    """The command; status 1 when a law is broken."""
    parser = argparse.ArgumentParser(description="mutated bundles")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    start = time.monotonic()
    found = fuzz(given.runs, given.seed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = {
        "runs": given.runs,
        "seed": given.seed,
        "seconds": round(time.monotonic() - start),
        "peak_kib": peak,
    }
    sys.stdout.write(json.dumps(answer | {"codes": dict(found.most_common())}) + "\n")


if __name__ == "__main__":
    main()
