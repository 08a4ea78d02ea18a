"""One parser under atheris, for `fuzz_coverage`: `python -m … TARGET FOLDER [libFuzzer's options]`.

Nothing of `pocketrec` may be imported before atheris watches the imports, so that this module imports it late
and shares no code with the other fuzzer.
"""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOM_BYTES = 256 << 20


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris

    target, folder, *options = sys.argv[1:]
    with atheris.instrument_imports(include=["pocketrec", "zipfile"]):
        import zipfile  # noqa: F401

        import pocketrec.bundle
        import pocketrec.delta
        import pocketrec.golden
        import pocketrec.history_lines
        import pocketrec.onnx_shapes  # noqa: F401
    from pocketrec.errors import PocketrecError

    parse = _parsers(Path(folder))[target]

    def one(data: bytes) -> None:
        try:
            parse(data)
        except PocketrecError:
            return

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


def _parsers(folder: Path) -> dict[str, Callable[[bytes], Any]]:
    """What each parser does with its bytes, and the laws that can be told from the outside."""
    from pocketrec.bundle import Bundle
    from pocketrec.catalogue import Catalogue
    from pocketrec.container import open_container
    from pocketrec.delta import Delta
    from pocketrec.golden import parse_golden
    from pocketrec.history_lines import read_lines, write_lines
    from pocketrec.manifest import parse_manifest
    from pocketrec.onnx_shapes import check_graph
    from pocketrec.safetensors_map import map_tensors

    base = Bundle.open(folder / "world" / "bundle")
    n, manifest = base.catalogue.n, base.manifest
    sound = {path.name: path.read_bytes() for path in (folder / "delta").iterdir()}
    work = folder / "work"
    work.mkdir(exist_ok=True)

    def parsed_manifest(data: bytes) -> None:
        found = parse_manifest(data)
        assert parse_manifest(found.model_dump_json().encode()) == found

    def container(data: bytes) -> None:
        (work / "input.zip").write_bytes(data)
        opened = open_container(work / "input.zip")
        assert sum(opened.sizes.values()) <= len(data)
        opened.close()

    def tensors(data: bytes) -> None:
        found = map_tensors(memoryview(data), "file")
        header = int.from_bytes(data[:8], "little")
        assert sum(array.nbytes for array in found.values()) == len(data) - 8 - header

    def catalogue(data: bytes) -> None:
        found = Catalogue(
            map_tensors(memoryview(data), "file"), n, manifest.display, requires=("retired", "renamed")
        )
        for position in range(n):
            assert found.position(found.item_id(position)) == position
            for column in found.columns:
                found.text(column, position)

    def delta(changes: bytes) -> None:
        _delta({"changes.safetensors": changes})

    def delta_manifest(about: bytes) -> None:
        _delta({"delta.json": about})

    def _delta(changed: dict[str, bytes]) -> None:
        path, out = work / "delta", work / "out"
        path.mkdir(exist_ok=True)
        about = json.loads(sound["delta.json"])
        for name, data in changed.items():
            if name in about["files"]:
                about["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in (sound | {"delta.json": json.dumps(about).encode()} | changed).items():
            (path / name).write_bytes(data)
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        with Delta(path) as opened:
            opened.apply(base, out)
        Bundle.open(out).close()
        for name in ("items.safetensors", "catalogue.safetensors"):
            assert (out / name).read_bytes() == (folder / "world" / "next" / name).read_bytes()

    def lines(data: bytes) -> None:
        (work / "lines").write_bytes(data)
        events = read_lines(work / "lines")
        write_lines(work / "again", events)
        assert read_lines(work / "again") == events

    return {
        "manifest": parsed_manifest,
        "container": container,
        "tensors": tensors,
        "catalogue": catalogue,
        "golden": parse_golden,
        "graph": lambda data: check_graph(data, manifest),
        "delta": delta,
        "delta manifest": delta_manifest,
        "lines": lines,
    }


if __name__ == "__main__":
    main()
